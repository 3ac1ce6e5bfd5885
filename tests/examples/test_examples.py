"""The examples at tiny scale, through the command lines, as a user would run them."""

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
    """The last line of metrics.json that has results."""
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


def test_rotated_boxes_from_training_to_pictures(bars, train, tmp_path):
    augmented = {"TEST__AUG__ENABLED": True, "TEST__CENTERNET_ORACLE": "['heatmap','size','offset','angle']"}
    assert train("rotated_boxes", **augmented) == 0
    found = metrics(tmp_path / "out")
    # With everything known, nothing is off.
    oracle = "angle_error_ORACLE_heatmap+size+offset+angle"
    assert found[f"{oracle}/found"] == 100
    assert found[f"{oracle}/degrees"] < 0.01
    assert "angle_error/found" in found
    assert "angle_error_TTA/found" in found
    results = detections_file(tmp_path / "out", "bars_val")
    assert len(results) == 3 * 20
    assert all(-90 <= one["angle"] <= 90 for one in results)

    files = ["--import", str(EXAMPLES / "rotated_boxes" / "rotated_boxes.py")]
    files += [
        "--config-file",
        str(tmp_path / "out" / "config.yaml"),
        "--weights",
        str(tmp_path / "out/model_final.pth"),
    ]
    picture = tmp_path / "bars" / "val" / "0001.png"
    outputs = ["--output", str(tmp_path / "drawn.png"), "--json", str(tmp_path / "found.json"), "--threshold", "0"]
    assert demo([str(picture), *files, *outputs]) == 0
    results = json.loads((tmp_path / "found.json").read_text())
    assert len(results) == 20
    assert all("angle" in one for one in results)
    drawn, plain = (cv2.imread(str(path)) for path in (tmp_path / "drawn.png", picture))
    assert (drawn != plain).any()


@pytest.mark.usefixtures("bars")
def test_every_process_knows_what_is_imported(train, tmp_path):
    # Processes are started anew, which is what it is about, and each has a worker.
    options = {"SOLVER__MAX_ITER": 1, "DATASETS__TEST": "()", "DATALOADER__NUM_WORKERS": 1}
    assert train("rotated_boxes", "--num-gpus", "2", **options) == 0
    assert "World size: 2" in (tmp_path / "out" / "log.txt").read_text()
    weights = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert any(name.startswith("heads.AngleHead.") for name in weights)


def test_bars_are_drawn_as_they_are_turned(bars):
    image = np.full((100, 100, 3), 90, dtype=np.uint8)
    truth = Instances((100, 100), gt_boxes=Boxes([[20.0, 45, 80, 55]]), gt_classes=torch.tensor([0]))
    truth.gt_angle = torch.tensor([90.0])
    upright = draw_instances(image, truth)
    turned = draw_instances(image, truth, properties=[bars.AngleProperty()])
    # A lying box that stands when it is turned: its ends are seen above and below the box, and nowhere else.
    assert (upright[22:30, 46:54] == 90).all()
    assert (turned[22:30, 46:54] != 90).any()
    assert (turned[:15] == 90).all()
    assert (turned[:, 84:] == upright[:, 84:]).all()


def test_an_angle_follows_the_image(bars):
    from centernet_d2.imaging.geometry import affine_matrix
    from centernet_d2.imaging.transforms import AffineTransform, MirrorTransform

    record = {"annotations": [{"angle": 20.0}, {"angle": -70.0}, {}]}
    prop = bars.AngleProperty()
    mirrored = prop.annotate(record, [MirrorTransform(50)], (50, 50))
    # A mirrored direction; half a turn more is the same bar.
    assert np.allclose(mirrored["gt_angle"] % 180, [160, 70, 0], atol=1e-4)
    assert mirrored["gt_angle_known"].tolist() == [1, 1, 0]
    window = affine_matrix((25, 25), 50, (100, 100), 10.0)
    turned = prop.annotate(record, [AffineTransform(window, (50, 50), (100, 100))], (100, 100))
    # The window turns by 10 degrees against what is seen in it.
    assert np.allclose(turned["gt_angle"], [10, -80, -10], atol=1e-4)
    assert record == {"annotations": [{"angle": 20.0}, {"angle": -70.0}, {}]}


def test_a_mirrored_image_has_mirrored_angles(bars, train, tmp_path):
    assert train("rotated_boxes", SOLVER__MAX_ITER=1, DATASETS__TEST="()") == 0
    # Pixels move as they are, so that the mirror is exact.
    options = [
        "TEST.AUG.ENABLED",
        True,
        "MODEL.CENTERNET.QUIRKS.AVERAGE_OFFSETS",
        True,
        "MODEL.CENTERNET.TEST_RESOLUTION",
        "keep",
    ]
    options += ["MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth")]
    predictor = Predictor.from_config(load_config(tmp_path / "out" / "config.yaml", options))
    image = cv2.imread(str(tmp_path / "bars" / "val" / "0001.png"))
    upright, mirrored = (x["instances"] for x in predictor([image, np.ascontiguousarray(image[:, ::-1])]))
    assert len(upright) == 20
    # Peaks may tie, so only what scores alone has a partner for sure.
    scores = upright.scores.tolist()
    alone = [i for i, score in enumerate(scores) if sum(abs(score - other) < 1e-5 for other in scores) == 1]
    difference = (upright.pred_angle + mirrored.pred_angle)[alone]
    assert alone
    assert ((difference + 90) % 180 - 90).abs().max() < 0.1


def test_wrong_angles_are_named_at_the_start(bars, train, tmp_path, capsys):
    file = tmp_path / "bars" / "train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["angle"] = "steep"
    file.write_text(json.dumps(content))
    assert train("rotated_boxes") == 1
    assert "angle is 'steep'" in capsys.readouterr().err


def test_identities_from_training_to_retrieval(train, tmp_path):
    (module,) = import_user_modules([str(EXAMPLES / "identity" / "identity.py")])
    module.write_badges(tmp_path / "badges", "train", range(6), images=3, seed=0)
    # Two identities, so that some are there more than once.
    module.write_badges(tmp_path / "badges", "val", range(6, 8), images=3, seed=1)
    oracle = {"TEST__CENTERNET_ORACLE": "['heatmap','size','offset']"}
    assert train("identity", MODEL__CENTERNET__IDENTITY__COUNT=6, TEST__AUG__ENABLED=True, **oracle) == 0
    found = metrics(tmp_path / "out")
    assert found["identity_error_ORACLE_heatmap+size+offset/found"] == 100
    assert 0 <= found["identity_error_ORACLE_heatmap+size+offset/rank1"] <= 100
    weights = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert weights["heads.IdentityHead.classifier.weight"].shape == (6, 32)
    embeddings = torch.tensor([one["embedding"] for one in detections_file(tmp_path / "out", "badges_val")])
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(len(embeddings)), atol=1e-5)


def test_rank_1_counts_the_nearest_other_object():
    (module,) = import_user_modules([str(EXAMPLES / "identity" / "identity.py")])
    from detectron2.structures import Instances

    found = Instances((1, 1), pred_embedding=torch.eye(4)[[0, 0, 1, 2]] + 0.1 * torch.eye(4)[[3, 3, 0, 1]])
    truth = Instances((1, 1), gt_identity=torch.tensor([5, 5, 7, 7]))
    # The third is nearest to the first two, the fourth to the third.
    assert module.IdentityProperty().errors(found, truth) == {"rank1": 75.0}


def test_the_page_about_heads_shows_the_code_of_the_example():
    page = (ROOT / "docs" / "heads.md").read_text(encoding="utf-8")
    source = " ".join((EXAMPLES / "rotated_boxes" / "rotated_boxes.py").read_text(encoding="utf-8").split())
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    parts = [" ".join(part.split()) for block in blocks for part in re.split(r"\n\n+", block)]
    assert len(parts) > 15
    assert [part for part in parts if part not in source] == []
