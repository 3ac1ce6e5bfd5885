"""Boxes, keypoints and 3-D boxes in one network, trained on datasets with different annotations."""

import numpy as np
import pytest
import torch
from detectron2.engine import default_argument_parser

from centernet_d2 import load_config
from centernet_d2.data import register_from_config
from centernet_d2.engine import Trainer
from centernet_d2.modeling import CenterNet
from conftest import ROOT
from synthetic.boxes import write_boxes_on_ground
from synthetic.kites import FLIP_MAP, KEYPOINTS, write_kites
from synthetic.shapes import SHAPES, write_shapes

CLASSES = ["kite", *SHAPES, "Pedestrian", "Car", "Cyclist"]
CONFIG = f"""
_BASE_: {ROOT / "configs" / "Base-HG-small.yaml"}
DATASETS:
  REGISTER:
    - [kites, kites/annotations.json, kites/images]
    - [shapes, shapes/annotations/train.json, shapes/train]
  REGISTER_KITTI:
    - [boxes, boxes, train]
  TRAIN: [kites, shapes, boxes]
  TEST: [kites, shapes, boxes]
INPUT:
  AFFINE:
    SIZE: [64, 96]
MODEL:
  DEVICE: cpu
  HOURGLASS:
    WIDTHS: [16, 16, 16]
    COUNTS: [1, 1, 1]
  CENTERNET:
    HEADS: [CenterHead, BoxHead, KeypointHead, Box3DHead]
    CLASS_NAMES: {CLASSES}
    NUM_CLASSES: {len(CLASSES)}
    HEAD_CONV: 16
    KEYPOINTS:
      NAMES: {list(KEYPOINTS)}
      FLIP_MAP: {[list(pair) for pair in FLIP_MAP]}
    BOX3D:
      REFERENCE_FOCAL: 135.0
    QUIRKS:
      KEYPOINTS:
        NEEDS_JOINTS: False
      BOX3D:
        AUGMENTED_DEPTH: camera
SOLVER:
  IMS_PER_BATCH: 6
  MAX_ITER: 3
  STEPS: []
DATALOADER:
  NUM_WORKERS: 0
TEST:
  KEYPOINT_OKS_SIGMAS: [0.05, 0.05, 0.05, 0.05]
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_kites(tmp_path / "kites", images=3)
    write_shapes(tmp_path / "shapes", train=3, val=1, size=64)
    write_boxes_on_ground(tmp_path / "boxes", {"train": 3})
    path = tmp_path / "mixed.yaml"
    path.write_text(CONFIG)
    return path


def arguments(config, *overrides):
    out = ["OUTPUT_DIR", str(config.parent / "out")]
    return default_argument_parser().parse_args(["--config-file", str(config), *out, *map(str, overrides)])


def test_training_and_evaluation_of_all_tasks(config, load_script):
    results = load_script("train_net.py").main(arguments(config))
    assert set(results) == {"kites", "shapes", "boxes"}
    assert {"bbox", "keypoints", "keypoint_error"} <= set(results["kites"])
    assert "bbox" in results["shapes"]
    assert not {"keypoint_error", "depth_error"} & set(results["shapes"])
    assert {"bbox2d", "box3d", "depth_error"} <= set(results["boxes"])


def test_unlabeled_classes_of_a_dataset_are_not_background(config):
    torch.manual_seed(0)
    cfg = load_config(config)
    register_from_config(cfg)
    model = CenterNet(cfg)
    by_dataset = {}
    for record in Trainer.load_datasets(cfg, cfg.DATASETS.TRAIN):
        by_dataset.setdefault(next(name for name in cfg.DATASETS.TRAIN if f"/{name}/" in record["file_name"]), record)
    own = {"kites": {"kite"}, "shapes": set(SHAPES), "boxes": {"Pedestrian", "Car", "Cyclist"}}
    from centernet_d2.data import CenterNetDatasetMapper

    mapper = CenterNetDatasetMapper(cfg, True)
    for name, record in by_dataset.items():
        batch = [mapper(record)]
        maps = model.compute_maps(model.preprocessor.training_batch(batch).tensor)
        truth = model.ground_truth(batch, maps[0]["heatmap"].shape[-2:])
        for head in model.heads.values():  # Targets have the names of the maps.
            assert head.targets(*truth).keys() == head.maps.keys()
        for tensor in maps[0].values():
            tensor.retain_grad()
        sum(model.losses(maps, model.targets(*truth)).values()).backward()
        learned = maps[0]["heatmap"].grad.abs().sum(dim=(0, 2, 3)) > 0
        assert {CLASSES[index] for index in np.flatnonzero(learned)} == own[name], name
        # Keypoints and depth have gradients only on datasets that label them.
        assert bool(maps[0]["keypoint_heatmap"].grad.any()) == (name == "kites")
        assert bool(maps[0]["depth"].grad.any()) == (name == "boxes")
        assert maps[0]["size"].grad.any()


def test_class_missing_in_class_names_raises(config, load_script):
    fewer = f"[{', '.join(repr(name) for name in CLASSES if name != 'star')}]"
    keys = ("MODEL.CENTERNET.CLASS_NAMES", fewer, "MODEL.CENTERNET.NUM_CLASSES", len(CLASSES) - 1)
    with pytest.raises(ValueError, match="'shapes' has the classes star, which MODEL.CENTERNET.CLASS_NAMES"):
        load_script("train_net.py").main(arguments(config, *keys))
    with pytest.raises(ValueError, match="CLASS_NAMES has 9 names .*NUM_CLASSES is 3"):
        load_script("train_net.py").main(arguments(config, "MODEL.CENTERNET.NUM_CLASSES", 3))


def test_property_without_annotations_raises(config, load_script):
    with pytest.raises(ValueError, match="no annotation of DATASETS.TRAIN has keypoints"):
        load_script("train_net.py").main(arguments(config, "DATASETS.TRAIN", "('boxes',)"))


def test_missing_camera_is_allowed_and_invalid_camera_raises(config, tmp_path):
    cfg = load_config(config)
    register_from_config(cfg)
    from centernet_d2.data import CenterNetDatasetMapper

    records = Trainer.load_datasets(cfg, ["boxes"])
    record = next(record for record in records if any(not x["ignore"] for x in record["annotations"]))
    mapper = CenterNetDatasetMapper(cfg, True)
    assert mapper(record)["instances"].gt_space.any()
    assert not mapper({key: value for key, value in record.items() if key != "camera"})["instances"].gt_space.any()
    (prop,) = [prop for prop in mapper.properties if prop.name == "box3d"]
    with pytest.raises(ValueError, match="the camera contains NaN or Inf"):
        prop.check([{**record, "camera": np.full((3, 4), np.nan)}])
