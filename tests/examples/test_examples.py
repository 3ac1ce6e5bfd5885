"""Command lines of the examples, with minimal networks and datasets."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from centernet_d2 import Predictor, load_config
from centernet_d2.cli.detect import main as demo
from centernet_d2.imaging.visualization import draw_instances
from centernet_d2.utils.cli import import_user_modules
from conftest import ROOT

from .conftest import EXAMPLES


def metrics(folder):
    """Return the last line of metrics.json with results."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return next(line for line in reversed(lines) if any("_error/" in key for key in line))


def detections_file(folder, name):
    return json.loads((folder / "inference" / name / "coco_instances_results.json").read_text())


@pytest.fixture
def bars(tmp_path):
    (module,) = import_user_modules([str(EXAMPLES / "rotated_boxes" / "rotated_boxes.py")])
    for seed, name in enumerate(("train", "val")):
        module.write_bars(tmp_path / "bars", name, images=3, seed=seed)
    return module


def test_rotated_boxes_training_and_visualization(bars, train, tmp_path):
    augmented = {"TEST__AUG__ENABLED": True, "TEST__CENTERNET_ORACLE": "['heatmap','size','offset','angle']"}
    assert train("rotated_boxes", **augmented) == 0
    results = metrics(tmp_path / "out")
    # With ground truth for all maps, errors are zero.
    oracle = "angle_error_ORACLE_heatmap+size+offset+angle"
    assert results[f"{oracle}/found"] == 100
    assert results[f"{oracle}/degrees"] < 0.01
    assert "angle_error/found" in results
    assert "angle_error_TTA/found" in results
    detections = detections_file(tmp_path / "out", "bars_val")
    assert len(detections) == 3 * 20
    assert all(-90 <= one["angle"] <= 90 for one in detections)

    files = ["--import", str(EXAMPLES / "rotated_boxes" / "rotated_boxes.py")]
    files += [
        "--config-file",
        str(tmp_path / "out" / "config.yaml"),
        "--weights",
        str(tmp_path / "out/model_final.pth"),
    ]
    image = tmp_path / "bars" / "val" / "0001.png"
    outputs = ["--output", str(tmp_path / "drawn.png"), "--json", str(tmp_path / "found.json"), "--threshold", "0"]
    assert demo([str(image), *files, *outputs]) == 0
    detections = json.loads((tmp_path / "found.json").read_text())
    assert len(detections) == 20
    assert all("angle" in one for one in detections)
    drawn, plain = (cv2.imread(str(path)) for path in (tmp_path / "drawn.png", image))
    assert (drawn != plain).any()


@pytest.mark.usefixtures("bars")
def test_imported_file_is_loaded_in_every_process(train, tmp_path):
    # Two spawned processes with one loader worker each.
    options = {"SOLVER__MAX_ITER": 1, "DATASETS__TEST": "()", "DATALOADER__NUM_WORKERS": 1}
    assert train("rotated_boxes", "--num-gpus", "2", **options) == 0
    assert "World size: 2" in (tmp_path / "out" / "log.txt").read_text()
    weights = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert any(name.startswith("heads.AngleHead.") for name in weights)


def test_draw_rotates_boxes(bars):
    image = np.full((100, 100, 3), 90, dtype=np.uint8)
    truth = Instances((100, 100), gt_boxes=Boxes([[20.0, 45, 80, 55]]), gt_classes=torch.tensor([0]))
    truth.gt_angle = torch.tensor([90.0])
    upright = draw_instances(image, truth)
    rotated = draw_instances(image, truth, properties=[bars.AngleProperty()])
    # A horizontal box becomes vertical: its ends are above and below the unrotated box.
    assert (upright[22:30, 46:54] == 90).all()
    assert (rotated[22:30, 46:54] != 90).any()
    assert (rotated[:15] == 90).all()
    assert (rotated[:, 84:] == upright[:, 84:]).all()


def test_transforms_change_angles(bars):
    from centernet_d2.imaging.geometry import affine_matrix
    from centernet_d2.imaging.transforms import AffineTransform, MirrorTransform

    record = {"annotations": [{"angle": 20.0}, {"angle": -70.0}, {}]}
    prop = bars.AngleProperty()
    mirrored = prop.annotate(record, [MirrorTransform(50)], (50, 50))
    # Flipping negates the angle, which has a period of 180 degrees.
    assert np.allclose(mirrored["gt_angle"] % 180, [160, 70, 0], atol=1e-4)
    assert mirrored["gt_angle_known"].tolist() == [1, 1, 0]
    window = affine_matrix((25, 25), 50, (100, 100), 10.0)
    rotated = prop.annotate(record, [AffineTransform(window, (50, 50), (100, 100))], (100, 100))
    # A rotation of the window by 10 degrees rotates its content by -10 degrees.
    assert np.allclose(rotated["gt_angle"], [10, -80, -10], atol=1e-4)
    assert record == {"annotations": [{"angle": 20.0}, {"angle": -70.0}, {}]}


def test_flipped_image_has_negated_angles(bars, train, tmp_path):
    assert train("rotated_boxes", SOLVER__MAX_ITER=1, DATASETS__TEST="()") == 0
    # Original resolution without interpolation, so that flipping is exact.
    options = [
        "TEST.AUG.ENABLED",
        True,
        "MODEL.CENTERNET.QUIRKS.AVERAGE_OFFSETS",
        True,
        "MODEL.CENTERNET.TEST_RESOLUTION",
        "keep",
        # Boxes of an untrained network may have no area.
        "MODEL.CENTERNET.QUIRKS.CLIP_BOXES",
        False,
    ]
    options += ["MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth")]
    predictor = Predictor.from_config(load_config(tmp_path / "out" / "config.yaml", options))
    image = cv2.imread(str(tmp_path / "bars" / "val" / "0001.png"))
    upright, mirrored = (x["instances"] for x in predictor([image, np.ascontiguousarray(image[:, ::-1])], threshold=0))
    assert len(upright) == 20
    # Peaks with equal scores may be in another order, so only unique scores are compared.
    scores = upright.scores.tolist()
    unique = [i for i, score in enumerate(scores) if sum(abs(score - other) < 1e-5 for other in scores) == 1]
    difference = (upright.pred_angle + mirrored.pred_angle)[unique]
    assert unique
    assert ((difference + 90) % 180 - 90).abs().max() < 0.1


def test_invalid_angle_raises_before_training(bars, train, tmp_path, capsys):
    file = tmp_path / "bars" / "train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["angle"] = "steep"
    file.write_text(json.dumps(content))
    assert train("rotated_boxes") == 1
    assert "angle is 'steep'" in capsys.readouterr().err


def test_identity_training_and_retrieval(train, tmp_path):
    (module,) = import_user_modules([str(EXAMPLES / "identity" / "identity.py")])
    module.write_badges(tmp_path / "badges", "train", range(6), images=3, seed=0)
    # Only two identities, so that some occur more than once.
    module.write_badges(tmp_path / "badges", "val", range(6, 8), images=3, seed=1)
    oracle = {"TEST__CENTERNET_ORACLE": "['heatmap','size','offset']"}
    assert train("identity", MODEL__CENTERNET__IDENTITY__COUNT=6, TEST__AUG__ENABLED=True, **oracle) == 0
    results = metrics(tmp_path / "out")
    assert results["identity_error_ORACLE_heatmap+size+offset/found"] == 100
    assert 0 <= results["identity_error_ORACLE_heatmap+size+offset/rank1"] <= 100
    weights = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert weights["heads.IdentityHead.classifier.weight"].shape == (6, 32)
    embeddings = torch.tensor([one["embedding"] for one in detections_file(tmp_path / "out", "badges_val")])
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(len(embeddings)), atol=1e-5)


def test_rank1_of_the_nearest_other_object():
    (module,) = import_user_modules([str(EXAMPLES / "identity" / "identity.py")])
    from detectron2.structures import Instances

    detections = Instances((1, 1), pred_embedding=torch.eye(4)[[0, 0, 1, 2]] + 0.1 * torch.eye(4)[[3, 3, 0, 1]])
    truth = Instances((1, 1), gt_identity=torch.tensor([5, 5, 7, 7]))
    # The nearest neighbor of the third is one of the first two; that of the fourth is the third.
    assert module.IdentityProperty().errors(detections, truth) == {"rank1": 75.0}


def test_docs_heads_md_contains_the_code_of_the_example():
    page = (ROOT / "docs" / "heads.md").read_text(encoding="utf-8")
    source = " ".join((EXAMPLES / "rotated_boxes" / "rotated_boxes.py").read_text(encoding="utf-8").split())
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    parts = [" ".join(part.split()) for block in blocks for part in re.split(r"\n\n+", block)]
    assert len(parts) > 15
    assert [part for part in parts if part not in source] == []
