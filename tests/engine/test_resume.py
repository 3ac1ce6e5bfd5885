"""Bitwise equality of resumed and uninterrupted training."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from centernet_d2.cli.training import build_run
from centernet_d2.engine import Trainer
from centernet_d2.engine.setup import setup_run
from conftest import restore_catalogs


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)


def run(arguments, folder, iterations, *flags, **overrides):
    keys = {"SOLVER__STEPS": "(1,)", "DATASETS__TEST": "()", **overrides}
    job = build_run(arguments(*flags, OUTPUT_DIR=str(folder), SOLVER__MAX_ITER=str(iterations), **keys))
    setup_run(job)
    trainer = Trainer(job.cfg)
    trainer.resume_or_load(resume="--resume" in flags)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("sampler", "half", "workers"),
    [("TrainingSampler", False, 2), ("TrainingSampler", True, 0), ("RepeatFactorTrainingSampler", False, 0)],
)
def test_final_weights_equal_those_of_an_uninterrupted_run(arguments, tmp_path, sampler, half, workers):
    keys = {"DATALOADER__SAMPLER_TRAIN": sampler, "DATALOADER__REPEAT_THRESHOLD": "0.9", "SEED": "7"}
    keys["SOLVER__AMP__ENABLED"] = str(half)
    run(arguments, tmp_path / "uninterrupted", 5, **keys)
    run(arguments, tmp_path / "resumed", 3, **keys)
    run(arguments, tmp_path / "resumed", 5, "--resume", DATALOADER__NUM_WORKERS=str(workers), **keys)
    expected, resumed = (weights(tmp_path / name)["model"] for name in ("uninterrupted", "resumed"))
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_random_seed_is_saved_in_the_checkpoint(arguments, tmp_path):
    first = run(arguments, tmp_path / "out", 2, SEED="-1")
    resumed = run(arguments, tmp_path / "out", 3, "--resume", SEED="-1")
    assert resumed.stream.seed == resumed.samples.seed == first.stream.seed
    assert weights(tmp_path / "out")["trainer"]["seed"] == first.stream.seed


def test_changed_dataset_is_reported(arguments, tmp_path, shapes_folder, monkeypatch, caplog):
    with restore_catalogs():
        run(arguments, tmp_path / "out", 2)
        run(arguments, tmp_path / "out", 3, "--resume")
    assert "the training set has changed" not in caplog.text
    data = Path(shutil.copytree(shapes_folder, tmp_path / "data"))
    (path,) = data.rglob("*train*.json")
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][0] += 1
    path.write_text(json.dumps(content))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    run(arguments, tmp_path / "out", 4, "--resume")
    assert "1 of 6 images are new or have other annotations, and 1 of the previous 6 are missing" in caplog.text


def test_training_state_without_seed_raises(arguments, tmp_path):
    run(arguments, tmp_path / "out", 2)
    file = tmp_path / "out" / "model_final.pth"
    content = torch.load(file, weights_only=True)
    del content["trainer"]["seed"]
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"model_final.pth is incomplete \(KeyError\('seed'\)\)"):
        run(arguments, tmp_path / "out", 3, "--resume")


def test_resume_with_another_optimizer_raises(arguments, tmp_path):
    run(arguments, tmp_path / "out", 2, SOLVER__OPTIMIZER="Muon")
    (tmp_path / "out" / "config.yaml").unlink()  # Its check would raise first.
    with pytest.raises(ValueError, match=r"out/model_final.pth does not match SOLVER.OPTIMIZER Adam .*config.yaml"):
        run(arguments, tmp_path / "out", 3, "--resume", SOLVER__OPTIMIZER="Adam")


def test_aspect_ratio_grouping(arguments, tmp_path):
    trainer = run(arguments, tmp_path / "out", 2, DATALOADER__ASPECT_RATIO_GROUPING="True")
    assert trainer.stream is not None
