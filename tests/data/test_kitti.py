import logging
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode

from centernet_d2 import load_config, model_zoo
from centernet_d2.data import CenterNetDatasetMapper
from centernet_d2.data.kitti import (
    ALL_CLASSES,
    EXCLUDED,
    format_result,
    load_kitti_3d,
    register_kitti_3d,
)
from centernet_d2.modeling.heads import Box3DProperty
from centernet_d2.readers.kitti import parse_object, read_objects
from centernet_d2.structures.calibration import read_camera

P2 = "P2: 700 0 600 45 0 700 180 -0.3 0 0 1 0.005"
CAR = "Car 0.25 1 -1.57 100.5 150.25 200 250 1.5 1.6 4.0 -3.0 1.7 20.5 -1.72"
DONT_CARE = "DontCare -1 -1 -10 10 20 30 40 -1 -1 -1 -1000 -1000 -1000 -10"


@pytest.fixture
def folder(tmp_path):
    """Function that writes a dataset with one frame and returns its root."""

    def write(labels=(CAR,), calibration=(P2,), suffix=".png"):
        for name in ("training/image_2", "training/label_2", "training/calib", "ImageSets"):
            (tmp_path / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f"training/image_2/000007{suffix}"), np.zeros((37, 124, 3), dtype=np.uint8))
        (tmp_path / "training/label_2/000007.txt").write_text("\n".join(labels) + "\n")
        (tmp_path / "training/calib/000007.txt").write_text("\n".join(calibration) + "\n")
        (tmp_path / "ImageSets/some.txt").write_text("\n000007\n")
        return tmp_path

    return write


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_frame_is_converted_to_dict(folder, suffix):
    (record,) = load_kitti_3d(folder(suffix=suffix), "some")
    (annotation,) = record.pop("annotations")
    assert record.pop("file_name").endswith(f"training/image_2/000007{suffix}")
    assert record == {
        "image_id": "000007",
        "height": 37,
        "width": 124,
        "camera": [[700, 0, 600, 45], [0, 700, 180, -0.3], [0, 0, 1, 0.005]],
    }
    assert annotation == {
        "bbox": [100.5, 150.25, 200, 250],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 1,
        "iscrowd": 0,
        "ignore": False,
        "kitti_type": "Car",
        "alpha": -1.57,
        "dimensions": [1.5, 1.6, 4.0],
        "location": [-3.0, 1.7, 20.5],
        "rotation_y": -1.72,
        "depth": 20.5,
        "truncation": 0.25,
        "occlusion": 1,
    }


def test_all_types_are_kept_in_order(folder):
    types = ["Van", "Car", "Misc", "Cyclist", "Pedestrian", "Truck", "Person_sitting", "Tram"]
    (record,) = load_kitti_3d(folder([DONT_CARE] + [CAR.replace("Car", name) for name in types]), "some")
    found = [(a["kitti_type"], a["category_id"], a["ignore"]) for a in record["annotations"]]
    assert found == [
        ("DontCare", ALL_CLASSES, True),
        ("Van", 1, True),
        ("Car", 1, False),
        ("Misc", EXCLUDED, True),
        ("Cyclist", 2, False),
        ("Pedestrian", 0, False),
        ("Truck", 1, True),
        ("Person_sitting", 0, True),
        ("Tram", EXCLUDED, True),
    ]


def test_registration_is_lazy_and_repeatable(folder, tmp_path):
    register_kitti_3d("kitti_lazy", str(tmp_path), "some")
    root = folder([CAR, DONT_CARE])
    register_kitti_3d("kitti_lazy", str(root), "some")
    metadata = MetadataCatalog.get("kitti_lazy")
    assert metadata.thing_classes == ["Pedestrian", "Car", "Cyclist"]
    assert (metadata.evaluator_type, metadata.root, metadata.split) == ("kitti", str(root), "some")
    # Detectron2's checks and statistics accept the dataset.
    assert len(get_detection_dataset_dicts("kitti_lazy")) == 1
    with pytest.raises(ValueError, match="'kitti_lazy' is already registered with another folder or split"):
        register_kitti_3d("kitti_lazy", str(root), "other")


def test_relative_root_starts_at_detectron2_datasets(folder, tmp_path, monkeypatch):
    folder()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path.parent))
    register_kitti_3d("kitti_relative", tmp_path.name, "some")
    assert len(DatasetCatalog.get("kitti_relative")) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Car 0 0 -1.57 1 1 2 2", r"000007\.txt, line 2: 8 fields instead of 15"),
        ("Car 0 0 x 1 1 2 2 1 1 1 1 1 1 1", r"000007\.txt, line 2: 'x' is not a finite number"),
        ("Car 0 0 nan 1 1 2 2 1 1 1 1 1 1 1", r"000007\.txt, line 2: 'nan' is not a finite number"),
        ("Dog 0 0 0 1 1 2 2 1 1 1 1 1 1 1", r"000007\.txt, line 2: unknown type 'Dog'; use one of Pedestrian, Car"),
    ],
)
def test_invalid_label_line_raises(folder, line, message):
    with pytest.raises(ValueError, match=message):
        load_kitti_3d(folder([CAR, line]), "some")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("P3: 1", r"calib/000007\.txt: line 'P2: ...' .* is missing"),
        ("P2: 700 0 600 45", r"calib/000007\.txt, line 2: P2 has 4 numbers, but must have 12"),
        (P2.replace("180", "a"), r"calib/000007\.txt, line 2: 'a' is not a finite number"),
        (P2.replace("700", "0"), r"calib/000007\.txt, line 2: the camera has focal lengths 0\.0 and 0\.0"),
        (P2.replace(" 1 ", " 0 "), r"calib/000007\.txt, line 2: the camera has a third row"),
    ],
)
def test_invalid_calibration_raises(folder, line, message):
    with pytest.raises(ValueError, match=message):
        load_kitti_3d(folder(calibration=["P0: 1 2 3", line]), "some")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("label_2/000007.txt", r"ImageSets/some\.txt, line 2: the label file .*label_2/000007\.txt of the image"),
        ("calib/000007.txt", r"ImageSets/some\.txt, line 2: the calibration file .*calib/000007\.txt of the image"),
        ("image_2/000007.png", r"ImageSets/some\.txt, line 2: the image .*000007\.png \(or 000007\.jpg\) does not"),
    ],
)
def test_missing_files_raise(folder, missing, message):
    root = folder()
    (root / "training" / missing).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load_kitti_3d(root, "some")


def test_missing_split_raises(folder):
    with pytest.raises(FileNotFoundError, match=r"other\.txt does not exist; available splits: some"):
        load_kitti_3d(folder(), "other")


def test_damaged_image_raises(folder):
    root = folder()
    (root / "training/image_2/000007.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"cannot read the image .*000007\.png"):
        load_kitti_3d(root, "some")


def chunk(name, content):
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, *more):
    """Return a PNG file with a size and without pixels."""
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + b"".join(more) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png(30000, 30000), "its pixels exceed the limit of 89478485"),
        (png(11000, 11000), "11000 x 11000 pixels exceed the limit of 89478485; set .* CENTERNET_D2_MAX_PIXELS"),
        (png(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 22)))), "too large"),
        (png(4, 4)[:20], ""),
    ],
)
def test_decompression_bombs_and_invalid_headers_raise(folder, content, reason):
    root = folder()
    (root / "training/image_2/000007.png").write_bytes(content)
    with pytest.raises(OSError, match=rf"cannot read the image .*000007\.png: .*{reason}"):
        load_kitti_3d(root, "some")


@pytest.mark.parametrize("frame", ["../../../secret", "/etc/passwd", "a/000007"])
def test_frames_with_paths_raise(folder, frame):
    root = folder()
    (root / "ImageSets/some.txt").write_text(frame)
    with pytest.raises(ValueError, match=rf"some\.txt, line 1: '{frame}' is not a frame name"):
        load_kitti_3d(root, "some")


@pytest.mark.parametrize("depth", [-0.18, 0.0, 1e-3])
def test_objects_next_to_the_camera_are_kept(folder, depth):
    (record,) = load_kitti_3d(folder([CAR, CAR.replace("20.5", str(depth))]), "some")
    assert [one["depth"] for one in record["annotations"]] == [20.5, depth]
    assert [one["ignore"] for one in record["annotations"]] == [False, False]


def test_real_frame_with_object_next_to_the_camera(shared, tmp_path, caplog):
    root = tmp_path / "kitti"
    shutil.copytree(shared / "data/kitti_sample", root, ignore=shutil.ignore_patterns("README*"))
    frame = (root / "ImageSets/sample_train.txt").read_text().split()[0]
    label = root / f"training/label_2/{frame}.txt"
    label.chmod(0o644)
    nearby = "Car 0.9 0 1.2 0 180 90 370 1.5 1.6 4.0 -2.5 1.7 -0.18 1.5"
    lines = label.read_text().splitlines()
    label.write_text("\n".join([nearby, *lines]) + "\n")
    records = load_kitti_3d(root, "sample_train")
    with caplog.at_level(logging.INFO):
        Box3DProperty().check(records)
    assert [line for line in caplog.messages if "not in front" in line] == [
        f"1 objects in {len(records)} images are not in front of the camera: their depth is not supervised"
    ]
    cfg = load_config(model_zoo.get_config_file("KITTI-3D/centernet_3d_R_18.yaml"))
    gt = CenterNetDatasetMapper(cfg, True)(records[0])["instances"]
    assert gt.gt_depth[0] == pytest.approx(-0.18)
    assert not gt.gt_ignore[0]


def test_results_are_formatted_with_two_decimals_and_parsed(tmp_path):
    values = [-1.567, 10, 20.004, 30.5, 40, 1.5, 1.6, 4, -3, 1.7, 20.126, 3.14159, 0.987]
    line = format_result("Car", values)
    assert line == "Car 0.0 0 -1.57 10.00 20.00 30.50 40.00 1.50 1.60 4.00 -3.00 1.70 20.13 3.14 0.99"
    (tmp_path / "a.txt").write_text(line + "\n\n")
    (obj,) = read_objects(tmp_path / "a.txt", scored=True)
    assert (obj.kind, obj.score, obj.box) == ("Car", 0.99, (10, 20, 30.5, 40))
    assert (obj.dimensions, obj.location, obj.rotation_y) == ((1.5, 1.6, 4), (-3, 1.7, 20.13), 3.14)
    with pytest.raises(ValueError, match="here: 15 fields instead of 16"):
        parse_object(CAR, "here", scored=True)


def test_real_frames_are_loaded(shared):
    records = load_kitti_3d(shared / "data/kitti_sample", "sample_val")
    assert len(records) == 23
    kinds = [a["kitti_type"] for record in records for a in record["annotations"]]
    counts = {name: kinds.count(name) for name in ("Car", "Pedestrian", "Cyclist", "Van", "Person_sitting")}
    assert counts == {"Car": 47, "Pedestrian": 19, "Cyclist": 4, "Van": 6, "Person_sitting": 5}
    assert np.allclose(read_camera(shared / "data/kitti_sample/training/calib/000001.txt"), records[0]["camera"])
    assert {(r["height"], r["width"]) for r in records} <= {(375, 1242), (374, 1238), (370, 1224), (376, 1241)}
