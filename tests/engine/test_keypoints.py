"""End-to-end tests of keypoints on synthetic kites in COCO format."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from centernet_d2 import load_config
from centernet_d2.data import CenterNetDatasetMapper, register_from_config
from centernet_d2.data.augmentations import MirrorTransform, ShiftScaleWindow
from centernet_d2.engine import Trainer
from centernet_d2.imaging.geometry import Geometry, invert_affine
from centernet_d2.modeling import KeypointHead
from centernet_d2.modeling.heads import KeypointProperty
from centernet_d2.structures.points import DenseTarget
from support.models import stub_heads, stub_model
from synthetic.kites import FLIP_MAP, KEYPOINTS, draw_kites, write_kites

CONFIG = """
_BASE_: {base}
DATASETS:
  REGISTER: [[kites, "{folder}/annotations.json", "{folder}/images"]]
  TRAIN: [kites]
  TEST: [kites]
MODEL:
  CENTERNET:
    KEYPOINTS:
      NAMES: [head, left, right, tail]
      FLIP_MAP: [[left, right]]
"""


@pytest.fixture
def kites(tmp_path):
    from conftest import ROOT

    write_kites(tmp_path / "kites", images=6)
    config = tmp_path / "kites.yaml"
    base = ROOT / "configs" / "Base-HG-small.yaml"
    config.write_text(CONFIG.format(base=base, folder=tmp_path / "kites"))
    return config


def arguments(config, tmp_path, **overrides):
    from detectron2.engine import default_argument_parser

    options = {
        "OUTPUT_DIR": tmp_path / "out", "MODEL.DEVICE": "cpu", "INPUT.AFFINE.SIZE": "[64, 64]",
        "INPUT.AFFINE.MODE": "none", "INPUT.COLOR_JITTER": 0.0,
        "DATALOADER.NUM_WORKERS": 0, "TEST.KEYPOINT_OKS_SIGMAS": "[0.05, 0.05, 0.05, 0.05]",
        "MODEL.HOURGLASS.WIDTHS": "[32, 32, 48, 64]", "MODEL.CENTERNET.HEAD_CONV": 32, "SOLVER.IMS_PER_BATCH": 6,
        **overrides,
    }  # fmt: skip
    pairs = [str(part) for pair in options.items() for part in pair]
    return default_argument_parser().parse_args(["--config-file", str(config), *pairs])


def test_training_overfits_a_few_images(kites, tmp_path, load_script):
    overrides = {"SOLVER.MAX_ITER": 200, "SOLVER.STEPS": "[150]", "SOLVER.BASE_LR": 2e-3, "INPUT.RANDOM_FLIP": "none"}
    results = load_script("train_net.py").main(arguments(kites, tmp_path, **overrides))
    assert results["keypoints"]["AP"] > 90
    assert results["bbox"]["AP50"] > 90
    assert results["keypoint_error"]["found"] == 100
    assert results["keypoint_error"]["tail"] < 2
    written = json.loads((tmp_path / "out" / "inference" / "kites" / "coco_instances_results.json").read_text())
    assert all(len(result["keypoints"]) == 12 for result in written)


@pytest.mark.parametrize("mirrored", [False, True])
def test_keypoints_round_trip_through_target_maps(kites, mirrored):
    """Compare input with output of COCO JSON -> loader -> mapper -> target maps -> decoding -> COCO JSON."""
    cfg = load_config(kites)
    register_from_config(cfg)
    record = DatasetCatalog.get("kites")[0]
    content = json.loads((kites.parent / "kites" / "annotations.json").read_text())
    expected = [np.array(x["keypoints"]).reshape(-1, 3) for x in content["annotations"] if x["image_id"] == 1]
    window = ShiftScaleWindow((128, 128)).get_transform(np.zeros((64, 64, 3)))
    transforms = [*([MirrorTransform(64)] if mirrored else []), window]
    prop = KeypointProperty(cfg)
    mapper = CenterNetDatasetMapper(
        True, augmentations=transforms, image_format="BGR", num_classes=1, properties=[prop]
    )
    gt = mapper(record)["instances"]

    heads = stub_heads(num_classes=1, box={"clip": False})
    heads["KeypointHead"] = KeypointHead(prop=prop, in_channels=4, head_conv=0)
    model = stub_model(heads, max_detections=len(gt))
    points = model.build_points([gt], (32, 32))
    maps = {}
    for name, target in (item for head in heads.values() for item in head.targets([gt], points).items()):
        if isinstance(target, DenseTarget):
            maps[name] = target.value
        else:
            maps[name] = torch.zeros(1, target.value.shape[1], 32, 32)
            maps[name][target.image, :, target.cells[:, 1], target.cells[:, 0]] = target.value
    to_image = torch.from_numpy(invert_affine(window.matrix) * [4, 4, 1])
    detections = model.detect(maps, [Geometry((64, 64), (128, 128), to_image)])[0]
    written = [np.array(x["keypoints"]).reshape(-1, 3)[:, :2] for x in instances_to_coco_json(detections, 1)]
    if mirrored:
        # The same kites in the flipped image, with left and right exchanged.
        expected = [np.column_stack([63 - kite[[0, 2, 1, 3], 0], kite[[0, 2, 1, 3], 1]]) for kite in expected]
    for kite in expected:
        assert min(np.abs(kite[:, :2] - other).max() for other in written) < 1e-3


def test_wrong_number_of_sigmas_raises_before_training(kites, tmp_path, load_script):
    with pytest.raises(ValueError, match="TEST.KEYPOINT_OKS_SIGMAS has 2 values, but there are 4 keypoints"):
        load_script("train_net.py").main(arguments(kites, tmp_path, **{"TEST.KEYPOINT_OKS_SIGMAS": "[0.05, 0.05]"}))


def test_mismatched_keypoint_names_raise_before_training(kites, tmp_path, load_script):
    path = kites.parent / "kites" / "annotations.json"
    path.write_text(path.read_text().replace('"head"', '"nose"'))
    with pytest.raises(ValueError, match="the keypoints of kite are nose, left, right, tail, but the keypoints"):
        load_script("train_net.py").main(arguments(kites, tmp_path))


def test_datasets_registered_in_python_are_checked(kites):
    path, folder = (str(kites.parent / "kites" / name) for name in ("annotations.json", "images"))
    options = ["DATASETS.REGISTER", [], "TEST.KEYPOINT_OKS_SIGMAS", [0.05] * 4, "DATASETS.TRAIN", []]
    options += ["MODEL.CENTERNET.KEYPOINTS.NAMES", [], "DATASETS.TEST"]
    names = {"keypoint_names": ["nose", *KEYPOINTS[1:]], "keypoint_flip_map": FLIP_MAP}
    register_coco_instances("theirs", names, path, folder)
    with pytest.raises(ValueError, match="the keypoints of kite are head, left, right, tail, but the keypoints"):
        Trainer.check_test_sets(load_config(kites, [*options, ["theirs"]]))
    DatasetCatalog.register("dicts", lambda: DatasetCatalog.get("theirs"))
    MetadataCatalog.get("dicts").set(**names, evaluator_type="coco", thing_classes=["kite"])
    Trainer.check_test_sets(load_config(kites, [*options, ["dicts"]]))


def test_training_accepts_images_without_keypoints(kites, tmp_path, load_script):
    """Train on images without objects or keypoints, from a file with a byte-order mark and only required keys."""
    path = kites.parent / "kites" / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"] = [x for x in content["annotations"] if x["image_id"] > 2]
    for annotation in content["annotations"]:
        for key in ("area", "iscrowd", "num_keypoints", "id"):
            del annotation[key]
        if annotation["image_id"] < 5:
            annotation["keypoints"] = None
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    before = path.read_bytes()
    overrides = {
        "SOLVER.MAX_ITER": 3, "SOLVER.STEPS": "[]", "SOLVER.IMS_PER_BATCH": 2,
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False, "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": 0,
    }  # fmt: skip
    results = load_script("train_net.py").main(arguments(kites, tmp_path, **overrides))
    assert {"bbox", "keypoints", "keypoint_error"} <= set(results)
    assert path.read_bytes() == before


def test_training_and_evaluation_accept_a_class_without_keypoints(kites, tmp_path, load_script):
    path = kites.parent / "kites" / "annotations.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 2, "name": "cloud"})
    cloud = {"category_id": 2, "bbox": [2, 2, 20, 12], "area": 240, "iscrowd": 0}
    content["annotations"] += [{**cloud, "id": 100 + i, "image_id": i} for i in range(1, 7)]
    del content["annotations"][0]["num_keypoints"]
    path.write_text(json.dumps(content))
    overrides = {"SOLVER.MAX_ITER": 1, "SOLVER.STEPS": "[]", "MODEL.CENTERNET.NUM_CLASSES": 2}
    results = load_script("train_net.py").main(arguments(kites, tmp_path, **overrides))
    assert {"AP-kite", "AP-cloud"} <= set(results["bbox"])
    assert results["keypoints"]["AP"] == results["keypoints"]["AP"]  # Not NaN, as there are keypoints.


def test_colors_at_the_corners_of_drawn_kites():
    image, kites = draw_kites(np.random.default_rng(0), 64, 2)
    assert len(kites) == 2
    assert len(KEYPOINTS) == 4
    assert FLIP_MAP == (("left", "right"),)
    for head, left, right, tail in kites:
        light, dark = ((left + right + end) / 3 for end in (head, tail))
        (x1, y1), (x2, y2) = light.round().astype(int), dark.round().astype(int)
        assert image[y1, x1].tolist() == [230, 230, 90]
        assert image[y2, x2].tolist() == [120, 20, 30]
