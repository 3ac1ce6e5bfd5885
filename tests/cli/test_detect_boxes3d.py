"""Detection of 3-D boxes on the command line: bird's-eye views and cameras."""

import json
import logging
from collections import Counter

import cv2
import pytest
import torch

from centernet_d2 import load_config
from centernet_d2.cli import detect as demo
from centernet_d2.modeling import CenterNet
from conftest import ROOT
from support.models import widen_boxes
from synthetic.boxes import write_boxes_on_ground

CONFIG = ROOT / "configs" / "Shapes" / "centernet_3d_HG_boxes.yaml"
SMALL = ["MODEL.HOURGLASS.WIDTHS", "[16, 16]", "MODEL.HOURGLASS.COUNTS", "[1, 1]", "MODEL.CENTERNET.HEAD_CONV", 16]
DETECTIONS = ["TEST.DETECTIONS_PER_IMAGE", 3, "MODEL.CENTERNET.SCORE_THRESH_TEST", 0.0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.manual_seed(0)
    model = CenterNet(load_config(CONFIG, SMALL))
    widen_boxes(model.heads["BoxHead"])
    torch.save({"model": model.state_dict()}, path)
    return path


@pytest.fixture
def call(weights, tmp_path, capsys, monkeypatch):
    """Function (arguments...) -> exit code, standard error and depths in the JSON file of the demo."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    write_boxes_on_ground(tmp_path / "scenes", {"all": 3})

    def run(*arguments):
        results = tmp_path / "results.json"
        options = ["--config-file", CONFIG, "--weights", weights, "--json", results, "--opts", *SMALL, *DETECTIONS]
        code = demo.main([*map(str, (tmp_path / "scenes/training/image_2", *arguments, *options))])
        depths = [entry["box3d"][2] for entry in json.loads(results.read_text())] if results.exists() else None
        results.unlink(missing_ok=True)
        return code, capsys.readouterr().err, depths

    return run


def test_birds_eye_view_is_drawn_next_to_image(call, tmp_path):
    calibration = tmp_path / "scenes/training/calib"
    code, _, depths = call("--calibration", calibration, "--output", tmp_path / "out", "--threshold", 0.0)
    assert code == 0
    assert len(depths) == 9
    source = cv2.imread(str(tmp_path / "scenes/training/image_2/000001.png"))
    drawn = cv2.imread(str(tmp_path / "out/000001.png"))
    assert drawn.shape == (288, 864 + 288, 3)
    assert (drawn[:, :864] != source).any()


def test_camera_from_file_folder_focal_length_or_default(call, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("detectron2.utils.logger._LOG_COUNTER", Counter())
    folder = tmp_path / "scenes/training/calib"
    by_folder = call("--calibration", folder, "--batch-size", 2)[2]
    by_file = call("--calibration", folder / "000001.txt")[2]
    by_focal = call("--focal-length", 405)[2]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    code, _, by_default = call()
    assert code == 0
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["neither --calibration nor --focal-length is set: using BOX3D.DEFAULT_CAMERA of the config"]
    # The focal lengths of the images are 270, 405 and 210.
    assert by_focal == pytest.approx(by_file, rel=1e-4)
    assert by_folder[3:6] == pytest.approx(by_file[3:6], rel=1e-4)
    assert [z * 405 / 270 for z in by_folder[:3]] == pytest.approx(by_file[:3], rel=1e-4)
    assert [z * 707.0493 / 405 for z in by_file] == pytest.approx(by_default, rel=1e-2)


def test_image_without_calibration_is_skipped(call, tmp_path):
    (tmp_path / "scenes/training/calib/000000.txt").unlink()
    (tmp_path / "scenes/training/calib/000002.txt").write_text("P2: 1 2 3\n")
    code, err, depths = call("--calibration", tmp_path / "scenes/training/calib")
    assert code == 1
    assert "calib/000000.txt does not exist" in err
    assert "000002.txt, line 1: P2 has 3 numbers, but must have 12" in err
    assert len(depths) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--focal-length", "-3"], "--focal-length is -3.0, but must be positive"),
        (["--focal-length", "3", "--calibration", "x"], "--calibration and --focal-length are mutually exclusive"),
        (["--calibration", "nowhere.txt"], "the calibration file nowhere.txt does not exist"),
    ],
)
def test_invalid_options_are_one_line(call, arguments, message):
    code, err, depths = call(*arguments)
    assert code == 1
    assert message in err
    assert depths is None


def test_camera_options_require_3d_boxes(weights, tmp_path, capsys):
    write_boxes_on_ground(tmp_path, {"all": 1})
    options = ["--config-file", "Shapes/centernet_R_18_shapes.yaml", "--weights", str(weights), "--focal-length", "9"]
    assert demo.main([str(tmp_path / "training/image_2"), "--json", str(tmp_path / "r.json"), *options]) == 1
    assert "--focal-length requires the property box3d, which this config does not predict" in capsys.readouterr().err
