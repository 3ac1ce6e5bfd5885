"""End-to-end tests of 3-D boxes on synthetic scenes in KITTI format."""

import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser
from detectron2.utils.events import EventStorage

from conftest import ROOT
from synthetic.boxes import Camera, write_boxes_on_ground

# Left edges of 2-D boxes and depths of objects next to the camera, of which only the last is in front.
NEXT_TO_CAMERA = {0: -0.18, 32: 0.0, 64: 1e-3}

CONFIG = """
_BASE_: {base}
DATASETS:
  REGISTER_KITTI: [[ground, "{folder}", few]]
  TRAIN: [ground]
  TEST: [ground]
"""


@pytest.fixture
def ground(tmp_path):
    cameras = (Camera(60, 128, 64), Camera(90, 192, 96), Camera(45, 128, 64))
    write_boxes_on_ground(tmp_path / "ground", {"few": 6}, cameras=cameras, count=3)
    config = tmp_path / "ground.yaml"
    base = ROOT / "configs" / "KITTI-3D" / "centernet_3d_R_18.yaml"
    config.write_text(CONFIG.format(base=base, folder=tmp_path / "ground"))
    return config


def arguments(config, tmp_path, **overrides):
    options = {
        "OUTPUT_DIR": tmp_path / "out", "MODEL.DEVICE": "cpu", "INPUT.AFFINE.SIZE": "[64, 128]",
        "INPUT.AFFINE.JITTER_PROB": 0.0, "INPUT.RANDOM_FLIP": "none", "DATALOADER.NUM_WORKERS": 0,
        "MODEL.CENTERNET.BOX3D.REFERENCE_FOCAL": 60.0,
        "MODEL.UPCONV.CHANNELS": "[32, 32, 32]", "MODEL.CENTERNET.HEAD_CONV": 32, "SOLVER.IMS_PER_BATCH": 6,
        "SOLVER.REFERENCE_IMS_PER_BATCH": 0, "SEED": 1,
        **overrides,
    }  # fmt: skip
    pairs = [str(part) for pair in options.items() for part in pair]
    return default_argument_parser().parse_args(["--config-file", str(config), *pairs])


def test_training_overfits_a_few_scenes(ground, tmp_path, load_script):
    overrides = {"SOLVER.MAX_ITER": 110, "SOLVER.STEPS": "[90]", "SOLVER.BASE_LR": 2e-3}
    results = load_script("train_net.py").main(arguments(ground, tmp_path, **overrides))
    written = sorted((tmp_path / "out" / "inference" / "ground" / "data").glob("*.txt"))
    assert len(written) == 6
    truth = {record["image_id"]: record["annotations"] for record in DatasetCatalog.get("ground")}
    errors, missed = depth_errors(written, truth)
    assert missed <= 2
    assert np.median(errors) < 0.1
    assert set(results) == {"bbox2d", "aos", "bev", "box3d", "depth_error"}
    assert results["depth_error"]["percent"] < 10
    assert "Car_moderate_R40@0.7" in results["bev"], "the result of main_metric"


def depth_errors(written, truth):
    """Return relative depth errors of detected objects, and the number of missed objects.

    A detection matches an object of its class if their directions x / z differ by less than 0.1.
    """
    errors, missed = [], 0
    for path in written:
        detections = [line.split() for line in path.read_text().splitlines()]
        for one in truth[path.stem]:
            x, _, z = one["location"]
            near = [
                abs(float(row[13]) - z) / z
                for row in detections
                if row[0] == one["kitti_type"] and abs(float(row[11]) / float(row[13]) - x / z) < 0.1
            ]
            errors.extend([min(near)] if near else [])
            missed += not near
    return errors, missed


def test_model_without_3d_boxes_raises_before_training(ground, tmp_path, load_script):
    overrides = {"MODEL.CENTERNET.HEADS": "['CenterHead','BoxHead']"}
    with pytest.raises(ValueError, match="evaluation on 'ground' requires 3-D boxes; add Box3DHead"):
        load_script("train_net.py").main(arguments(ground, tmp_path, **overrides))


def test_missing_calibration_raises_before_training(ground, tmp_path, load_script):
    (tmp_path / "ground" / "training" / "calib" / "000002.txt").unlink()
    with pytest.raises(FileNotFoundError, match="calibration file .*000002.txt of the image .*000002.png"):
        load_script("train_net.py").main(arguments(ground, tmp_path))


def test_unknown_evaluation_rules_raise_before_training(ground, tmp_path, load_script):
    with pytest.raises(ValueError, match="MODEL.CENTERNET.QUIRKS.KITTI_RULES is 'mine', known: kit, original"):
        load_script("train_net.py").main(arguments(ground, tmp_path, **{"MODEL.CENTERNET.QUIRKS.KITTI_RULES": "mine"}))


@pytest.mark.parametrize("loss", ["l1", "log"])
def test_training_accepts_objects_next_to_the_camera(ground, tmp_path, load_script, loss, caplog):
    for path in (tmp_path / "ground" / "training" / "label_2").glob("*.txt"):
        lines = (
            f"Car 0.9 0 1.2 {left} 30 {left + 30} 60 1.5 1.6 4.0 -2.5 1.7 {z} 1.5\n"
            for left, z in NEXT_TO_CAMERA.items()
        )
        path.write_text(path.read_text() + "".join(lines))
    overrides = {"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": "[]", "MODEL.CENTERNET.BOX3D.DEPTH_LOSS": loss}
    with caplog.at_level(logging.INFO):
        results = load_script("train_net.py").main(arguments(ground, tmp_path, **overrides))
    assert set(results) == {"bbox2d", "aos", "bev", "box3d", "depth_error"}
    # Logged once for the training set and once for the test set; two of the three objects are not in front.
    assert [line.split(":")[0] for line in caplog.messages if "not in front" in line] == [
        "12 objects in 6 images are not in front of the camera"
    ] * 2


def test_malformed_dataset_entry_raises(ground, tmp_path, load_script):
    with pytest.raises(ValueError, match=r"DATASETS.REGISTER_KITTI: \['x', 'y'\] must be \[name, folder, split\]"):
        load_script("train_net.py").main(arguments(ground, tmp_path, **{"DATASETS.REGISTER_KITTI": "[['x','y']]"}))


def test_depth_scales_with_focal_length(ground, tmp_path):
    """Predict twice the depth for the same network input and twice the focal length."""
    from centernet_d2 import load_config
    from centernet_d2.modeling import CenterNet

    torch.manual_seed(0)
    args = arguments(ground, tmp_path, **{"MODEL.CENTERNET.SCORE_THRESH_TEST": 0.0})
    model = CenterNet(load_config(args.config_file, args.opts)).eval()
    image = (torch.rand(3, 64, 128) * 255).byte()
    camera = np.array([[60.0, 0, 64, 0], [0, 60, 32, 0], [0, 0, 1, 0]])
    with torch.no_grad():
        near, far = (
            model([{"image": image, "camera": matrix}])[0]["instances"].pred_boxes3d.location[:, 2]
            for matrix in (camera, camera * [[2], [2], [1]])
        )
    assert torch.allclose(far, 2 * near, rtol=1e-4)


@pytest.mark.parametrize("original_config", [False, True])
def test_training_visualizes_3d_boxes(ground, tmp_path, load_script, original_config, monkeypatch):
    images = []
    monkeypatch.setattr(EventStorage, "put_image", lambda _storage, _name, image: images.append(image))
    original = {
        "MODEL.CENTERNET.BOX3D.REFERENCE_FOCAL": 0.0, "MODEL.CENTERNET.QUIRKS.BOX3D.AUGMENTED_DEPTH": "mask",
        "MODEL.CENTERNET.QUIRKS.LOSS_SLOTS": 50, "INPUT.AFFINE.JITTER_PROB": 1.0,
    }  # fmt: skip
    options = {"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": "[]", "VIS_PERIOD": 1, "DATASETS.TEST": "[]"}
    load_script("train_net.py").main(arguments(ground, tmp_path, **options, **(original if original_config else {})))
    assert len(images) == 2
    # Ground truth and predictions, each with a bird's-eye view 160 pixels wide, and the heatmap, enlarged 3x.
    assert images[0].shape == (3, 3 * 64 + 24, 3 * (3 * 128 + 2 * 160) + 2 * 6)
