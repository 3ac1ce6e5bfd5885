"""Training and evaluation with --data."""

import json
import re
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from centernet_d2 import Predictor, load_config
from centernet_d2.autoconfig import plan
from centernet_d2.autoconfig.budget import Pace
from centernet_d2.cli.train import run
from centernet_d2.engine import Trainer
from centernet_d2.utils.files import open_regular
from conftest import restore_catalogs
from support.folders import TRUTH, write_coco_folders, write_labelme, write_table, write_voc, write_yolo

# Tiny network and batch.
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.HOURGLASS.WIDTHS": "[8, 8]",
    "MODEL.HOURGLASS.COUNTS": "[1, 1]",
    "MODEL.CENTERNET.HEAD_CONV": "8",
    "SOLVER.AMP.ENABLED": "False",
    "SOLVER.IMS_PER_BATCH": "2",
    "DATALOADER.NUM_WORKERS": "0",
}
MAKERS = {
    "voc": write_voc,
    "yolo": write_yolo,
    "coco": write_coco_folders,
    "labelme": write_labelme,
    "csv": write_table,
}


def command(data, out, *options, **keys):
    """Return the arguments of a tiny training."""
    keys = {**TINY, "OUTPUT_DIR": str(out), **{key.replace("__", "."): value for key, value in keys.items()}}
    return ["--data", str(data), *options, *[part for pair in keys.items() for part in pair]]


@pytest.fixture
def folder(tmp_path):
    return write_yolo(tmp_path / "cells")


@pytest.mark.parametrize("layout", MAKERS)
def test_train_and_evaluate_each_layout(layout, tmp_path, capsys):
    data, out = MAKERS[layout](tmp_path / "cells"), tmp_path / f"out_{layout}"
    assert run(command(data, out, SOLVER__MAX_ITER="2")) == 0
    screen = capsys.readouterr().out
    assert "train 4 images, 6 objects" in screen
    for line in (
        "network         Base-HG-small",
        "device          cpu",
        "input size      48 x 64",
        "batch           2",
    ):
        assert line in screen
    assert screen.index("configuration (append") < screen.index("Starting training")
    cfg = load_config(out / "config.yaml")
    assert cfg.MODEL.CENTERNET.NUM_CLASSES == 3
    assert (cfg.SOLVER.MAX_ITER, cfg.DATASETS.TEST) == (2, ("cells_val",))
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert any("bbox/AP" in line for line in lines)


def test_recorded_config_trains_equal_weights(folder, tmp_path):
    assert run(command(folder, tmp_path / "first", "--epochs", "1")) == 0
    config = str(tmp_path / "first" / "config.yaml")
    assert run(["--config-file", config, "OUTPUT_DIR", str(tmp_path / "second")]) == 0
    first, second = (torch.load(tmp_path / name / "model_final.pth")["model"] for name in ("first", "second"))
    assert load_config(config).SOLVER.MAX_ITER == 2
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.reports
def test_sheets_do_not_change_the_weights(folder, tmp_path, monkeypatch):
    keys = {"SOLVER__MAX_ITER": "2", "SEED": "3", "DATALOADER__NUM_WORKERS": "1"}
    with restore_catalogs():
        assert run(command(folder, tmp_path / "with", **keys)) == 0
    sheets = ["images.jpg", "augmented.jpg", "predictions.jpg"]
    assert all((tmp_path / "with" / name).stat().st_size > 1000 for name in sheets)
    monkeypatch.setattr("centernet_d2.cli.training.training_sheets", lambda *_, **__: nullcontext())
    assert run(command(folder, tmp_path / "without", **keys)) == 0
    assert not any((tmp_path / "without" / name).exists() for name in sheets)
    first, second = (torch.load(tmp_path / name / "model_final.pth")["model"] for name in ("with", "without"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.reports
def test_training_continues_without_sheets(folder, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("centernet_d2.cli.sheets.write_jpeg", fail)
    assert run(command(folder, tmp_path / "out", SOLVER__MAX_ITER="1", DATASETS__TEST="()")) == 0
    assert "warning: sheets of training images were not written: no space" in capsys.readouterr().out
    assert (tmp_path / "out" / "model_final.pth").exists()


def test_run_is_resumed_from_recorded_config(folder, tmp_path):
    out = tmp_path / "out"
    assert run(command(folder, out, SOLVER__MAX_ITER="1", DATASETS__TEST="()")) == 0
    assert run(["--config-file", str(out / "config.yaml"), "--resume", "SOLVER.MAX_ITER", "2"]) == 0
    assert load_config(out / "config.yaml").SOLVER.MAX_ITER == 2


def test_run_is_resumed_and_evaluated_from_output_folder(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(command(folder, out, "--epochs", "1")) == 0
    assert run(["--resume", "OUTPUT_DIR", str(out), "SOLVER.MAX_ITER", "3"]) == 0
    cfg = load_config(out / "config.yaml")
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH) == (3, 2)
    capsys.readouterr()
    assert run(["--data", str(folder), "--eval-only", "OUTPUT_DIR", str(out)]) == 0
    screen = capsys.readouterr().out
    assert "results (complete tables: log.txt)\n  bbox: " in screen
    assert "configuration (append" not in screen, "no new plan is made"


def test_run_is_found_by_data(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = command(folder, "", SOLVER__MAX_ITER="1", DATASETS__TEST="()")
    index = options.index("OUTPUT_DIR")
    assert run([*options[:index], *options[index + 2 :]]) == 0
    assert run(["--data", str(folder), "--resume", "SOLVER.MAX_ITER", "2"]) == 0
    assert load_config(tmp_path / "output" / "cells" / "config.yaml").SOLVER.MAX_ITER == 2
    assert not (tmp_path / "output" / "cells-2").exists()


@pytest.mark.parametrize("option", ["--epochs", "--minutes"])
def test_config_files_are_read_once(folder, tmp_path, monkeypatch, option):
    """Each base config is read once per training, and no other YAML file."""
    opened = Counter()

    def counted(path, *args, **kwargs):
        opened[str(Path(path).resolve())] += Path(path).suffix == ".yaml"
        return open_regular(path, *args, **kwargs)

    monkeypatch.setattr("centernet_d2.utils.files.open_regular", counted)
    assert run(command(folder, tmp_path / "out", option, "0.01", DATASETS__TEST="()", SOLVER__MAX_ITER="1")) == 0
    files = {name: count for name, count in opened.items() if count and not name.endswith("data.yaml")}
    assert {Path(name).name for name in files} == {
        "Base-HG-small-boxes.yaml",
        "Base-HG-small.yaml",
        "Base-CenterNet.yaml",
    }
    assert set(files.values()) == {1}


def test_released_weights_are_fine_tuned_for_other_classes(released, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CENTERNET_D2_CACHE", str(released))
    keys = {"MODEL__CENTERNET__HEAD_CONV": "64", "SOLVER__BASE_LR": "1e-12", "INPUT__AFFINE__SIZE": "[64, 64]"}
    options = command(
        folder, tmp_path / "out", "--model", "r18-coco", SOLVER__MAX_ITER="1", DATASETS__TEST="()", **keys
    )
    assert run(options) == 0
    assert load_config(tmp_path / "out" / "config.yaml").MODEL.WEIGHTS == "r18-coco"
    reference = torch.load(released / "ctdet_coco_resdcn18.pth")["state_dict"]
    trained = torch.load(tmp_path / "out" / "model_final.pth")["model"]
    for name, original in (
        ("backbone.layer4.1.conv2.weight", "layer4.1.conv2.weight"),
        ("heads.CenterHead.stacks.0.heatmap.0.weight", "hm.0.weight"),
        ("heads.BoxHead.stacks.0.size.2.weight", "wh.2.weight"),
    ):
        torch.testing.assert_close(trained[name], reference[f"module.{original}"])
    assert trained["heads.CenterHead.stacks.0.heatmap.2.weight"].shape[0] == 3
    log = (tmp_path / "out" / "log.txt").read_text()
    (line,) = [line for line in log.splitlines() if " WARNING: " in line and "checkpoint" in line]
    assert line.endswith(
        "1 of 61 layers are new, because the file has no tensors of their shape (heads.CenterHead.stacks.0.heatmap.2)"
    )


def test_minutes_become_iterations(folder, tmp_path, monkeypatch, capsys):
    pace = Pace(step=1.0, evaluation=5.0, final=5.0, start=0.0)
    monkeypatch.setattr(plan, "measure_pace", lambda cfg, seconds: pace)
    assert run(command(folder, tmp_path / "out", "--minutes", "0.4")) == 0
    screen = capsys.readouterr().out
    assert "SOLVER.MAX_ITER; --minutes 0.4" in screen
    # 0.97 of 24 - 5 seconds, minus the seconds before the training.
    assert 10 <= load_config(tmp_path / "out" / "config.yaml").SOLVER.MAX_ITER <= 18


def test_short_minutes_are_refused_and_short_epochs_are_noted(folder, tmp_path, monkeypatch, capsys):
    """A length that the user sets is used; a length derived from --minutes must be useful."""
    pace = Pace(step=10.0, evaluation=5.0, final=5.0, start=20.0)
    monkeypatch.setattr(plan, "measure_pace", lambda cfg, seconds: pace)
    assert run(command(folder, tmp_path / "out", "--minutes", "0.5")) == 1
    (minutes,) = re.findall(
        r"--minutes 0.5 is enough for 0.5 epochs, but a training needs at least 5: use --minutes ([\d.]+) or more",
        capsys.readouterr().err,
    )
    assert 2.2 < float(minutes) < 3  # Ten iterations of 10 s, 25 s for start and end, and a margin.
    assert run(command(folder, tmp_path / "out", "--minutes", "0.5", SOLVER__MAX_ITER="1")) == 0
    screen = capsys.readouterr().out
    assert "warning: less than 5 epochs" in screen
    assert re.search(r"duration +about 35 seconds +10 s per iteration, 5 s per evaluation", screen)


def test_test_set_is_evaluated_once_at_the_end(tmp_path, monkeypatch):
    """The validation set selects model_best.pth; the test set has no influence on the training."""
    evaluated = []
    test = Trainer.test.__func__
    monkeypatch.setattr(
        Trainer,
        "test",
        classmethod(lambda cls, cfg, *args: evaluated.append(cfg.DATASETS.TEST) or test(cls, cfg, *args)),
    )
    truth = {**TRUTH, "test": {"g": [("RBC", (10, 11, 20, 31))]}}
    data, out = write_yolo(tmp_path / "cells", truth), tmp_path / "out"
    assert run(command(data, out, SOLVER__MAX_ITER="4", TEST__EVAL_PERIOD="1")) == 0
    cfg = load_config(out / "config.yaml")
    assert (cfg.DATASETS.TEST, cfg.DATASETS.VAL) == (("cells_val", "cells_test"), ("cells_val",))
    assert evaluated == [cfg.DATASETS.VAL] * 3 + [cfg.DATASETS.TEST]
    last = json.loads((out / "metrics.json").read_text().splitlines()[-1])
    assert {"cells_val/bbox/AP", "cells_test/bbox/AP"} <= last.keys()
    assert (out / "model_best.pth").exists()


def test_run_is_fine_tuned_for_other_classes(folder, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(command(folder, first, SOLVER__MAX_ITER="1")) == 0
    train = {"a": [("cell", (0, 0, 10, 20))], "b": [("dust", (5, 6, 30, 40))]}
    two = write_voc(tmp_path / "two", {"train": train, "val": {"e": [("dust", (10, 11, 20, 31))]}})
    capsys.readouterr()
    options = ["--model", str(first), "--data", str(two), "OUTPUT_DIR", str(second), "SOLVER.MAX_ITER", "1"]
    assert run([*options, "MODEL.DEVICE", "cpu", "SOLVER.BASE_LR", "1e-12", "SOLVER.IMS_PER_BATCH", "2"]) == 0
    screen = capsys.readouterr().out
    words = " ".join(screen.split())  # Without line breaks.
    assert f"--model; starts from {first / 'model_final.pth'}" in words
    assert re.search(r"1 of \d+ layers are new, .* \(heads.CenterHead.stacks.0.heatmap.2\)", words)
    old, new = (torch.load(path / "model_final.pth")["model"] for path in (first, second))
    name = "heads.BoxHead.stacks.0.size.2.weight"
    torch.testing.assert_close(new[name], old[name])
    assert new["heads.CenterHead.stacks.0.heatmap.2.weight"].shape[0] == 2


def test_trunk_of_timm_by_name(folder, tmp_path, capsys):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet10t.pth")
    keys = {"MODEL.UPCONV.WIDTH": "8", "MODEL.TRUNK_WEIGHTS": str(tmp_path / "resnet10t.pth")}
    keys |= {"SOLVER.TRUNK_LR_FACTOR": "0.1", "MODEL.TRUNK_FROZEN_STAGES": "1", "SOLVER.MAX_ITER": "2"}
    assert run(command(folder, tmp_path / "out", "--model", "timm:resnet10t", **keys)) == 0
    screen = " ".join(capsys.readouterr().out.split())
    assert "network timm:resnet10t --model; set by you" in screen
    keys_of_pixels = "INPUT.FORMAT, MODEL.PIXEL_MEAN, MODEL.PIXEL_STD"
    assert f"pixels RGB, mean 123.7 116.3 103.5 {keys_of_pixels}; from the weights of resnet10t" in screen
    trained = torch.load(tmp_path / "out" / "model_final.pth")["model"]
    frozen = torch.load(tmp_path / "resnet10t.pth")["conv1.0.weight"]
    assert torch.equal(trained["backbone.trunk.conv1.0.weight"], frozen)
    detect = Predictor(tmp_path / "out" / "model_final.pth", device="cpu")
    assert "instances" in detect(np.zeros((48, 64, 3), np.uint8))


def test_statistics_set_by_the_user_win(folder, tmp_path, capsys):
    pytest.importorskip("timm")
    keys = {
        "MODEL.PIXEL_MEAN": "[1.0, 2.0, 3.0]",
        "SOLVER.MAX_ITER": "1",
        "DATASETS.TEST": "()",
        "MODEL.UPCONV.WIDTH": "8",
    }
    assert run(command(folder, tmp_path / "out", "--model", "timm:resnet10t", **keys)) == 0
    assert "MODEL.PIXEL_MEAN, MODEL.PIXEL_STD; set by you" in " ".join(capsys.readouterr().out.split())
    assert load_config(tmp_path / "out" / "config.yaml").MODEL.PIXEL_MEAN == [1.0, 2.0, 3.0]


def test_other_keys_are_shown(folder, tmp_path, capsys):
    assert run(command(folder, tmp_path / "out", SOLVER__MAX_ITER="1", DATASETS__TEST="()", VIS_PERIOD="7")) == 0
    assert re.search(r"other keys set by you .*VIS_PERIOD 7", " ".join(capsys.readouterr().out.split()))


def test_output_folder_is_new_and_named_after_data(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output" / "cells").mkdir(parents=True)
    options = command(folder, "", SOLVER__MAX_ITER="1", DATASETS__TEST="()")
    index = options.index("OUTPUT_DIR")
    assert run([*options[:index], *options[index + 2 :]]) == 0
    assert (tmp_path / "output" / "cells-2" / "model_final.pth").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--data", "~nobody.known"], "~nobody.known does not exist"),
        (["--data", ".", "--config-file", "a.yaml"], "--data and --config-file are mutually exclusive"),
        (["--data", ".", "--resume"], "set OUTPUT_DIR to its folder"),
        (["--eval-only"], "set OUTPUT_DIR to its folder"),
        (["--data", ".", "--resume", "OUTPUT_DIR", "nowhere"], "OUTPUT_DIR nowhere contains no run"),
        (["--data", ".", "--resume", "--minutes", "3"], "--minutes requires --data and a new training"),
        (["--data", ".", "--epochs", "0"], "--epochs is 0, but must be greater than 0"),
        (
            ["--data", ".", "--minutes", "5", "--num-gpus", "2", "MODEL.DEVICE", "cpu"],
            "does not support several processes: use --epochs",
        ),
        (["--data", ".", "--model", "yolo"], "config file, run or model yolo does not exist"),
        (["--data", ".", "--model", "timm:resnet19"], "'resnet19', which is not a network of timm"),
        (["--data", ".", "--model", "dla34-coc"], "did you mean dla34-coco?"),
        (
            ["--data", ".", "--model", "dla34-coco"],
            "download it from https://drive.google.com/file/d/18Q3fzzAsha_3Qid6mn4jc",
        ),
        (["--data", ".", "MODEL.TRUNK_WEIGHTS", "resnet18.pth"], "the weights file resnet18.pth does not exist"),
        (["--data", ".", "MODEL.WEIGHTS", "a.pth"], "set --model"),
        (["--data", ".", "SOLVER.MAX_ITERS", "5"], "did you mean SOLVER.MAX_ITER?"),
        (["--data", ".", "SOLVER.MAX_ITER"], "has no value"),
        (["--data", "."], "has no supported layout\nSupported layouts:"),
        (["--minutes", "5"], "no data and no config is specified"),
    ],
)
def test_invalid_options_are_reported(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gdown", None)
    assert run(options) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_folder_of_another_run_is_not_changed(folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model_final.pth").touch()
    assert run(command(folder, out)) == 1
    assert "already contains trained weights" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["model_final.pth"]


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("bccd", 3),
        ("coco128", 80),
        pytest.param("keypoints_mouse", 1, marks=pytest.mark.reports),
        ("keypoints_coco", 1),
        pytest.param("kitti_sample", 3, marks=pytest.mark.reports),
    ],
)
def test_public_datasets(name, classes, shared, tmp_path):
    out = tmp_path / f"run_{name}"
    size = "[32, 96]" if name == "kitti_sample" else "[64, 64]"
    assert run(command(shared / "data" / name, out, SOLVER__MAX_ITER="1", INPUT__AFFINE__SIZE=size)) == 0
    assert load_config(out / "config.yaml").MODEL.CENTERNET.NUM_CLASSES == classes
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert any("AP" in key or "_R40" in key for line in lines for key in line)
    assert (out / "report.html").exists() == (name in ("keypoints_mouse", "kitti_sample"))
