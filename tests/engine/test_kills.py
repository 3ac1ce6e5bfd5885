"""Trainings that are killed again and again, and end as the one that was not; a few kills here, many in the long proof.

    KILLS=100 python -m pytest -m long -s tests/engine/test_kills.py

KILLS_SEED repeats the moments of another time.
Real processes are killed, so some are started: forked, as importing everything takes longer than such a training.
"""

import os
import random
import select
import shutil
import signal
import sys
import time

import pytest
import torch
from torch import nn

from centernet_d2.checkpoint import checkpoint_files, load_file
from centernet_d2.cli import train as command
from centernet_d2.engine import Trainer

KILLS = int(os.environ.get("KILLS", "100"))

OPTIONS = {
    "SOLVER__MAX_ITER": 8,
    "SOLVER__STEPS": "(4,)",
    "SOLVER__CHECKPOINT_PERIOD": 1,
    "SOLVER__MAX_TO_KEEP": 2,
    "SOLVER__EMA__ENABLED": True,
    "SOLVER__PATIENCE": 4,
    "TEST__EVAL_PERIOD": 2,
    "SEED": 7,
}


def start(args, log, *flags):
    """The number of a process that trains; it starts from the same weights in every one."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            sys.stdout = sys.stderr = os.fdopen(file, "w", buffering=1)
            torch.set_num_threads(1)
            torch.manual_seed(0)
            code = command.run(["--config-file", args.config_file, *flags, *args.opts])
        finally:
            os._exit(code)
    return child


def kill(child, folder, chance, seconds):
    """Kill a process at a random moment, or at one when it writes; whether it was still there."""
    writing, end = chance.random() < 0.5, time.monotonic() + chance.uniform(0, seconds)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        is_due = time.monotonic() >= end
        if is_due and (not writing or any(folder.glob(".*.tmp"))):
            time.sleep(chance.uniform(0, 0.01) if writing else 0)
            os.kill(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        time.sleep(0.0005)
    return False


def finished(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def iteration_of(folder):
    """Of the newest checkpoint, all of which must be whole."""
    return max((load_file(path)["iteration"] for path in checkpoint_files(folder)), default=-1)


def weights(folder):
    return {
        f"{name}: {key}": tensor
        for name in ("model_final.pth", "model_ema.pth", "model_best.pth")
        for key, tensor in load_file(folder / name)["model"].items()
    }


@pytest.mark.parametrize("kills", [2, pytest.param(KILLS, marks=pytest.mark.long)])
def test_killed_trainings_end_as_the_one_that_was_not(kills, arguments, tiny_model, tmp_path, monkeypatch):
    def build_model(cfg):
        model = tiny_model(cfg)
        model.ballast = nn.Parameter(torch.zeros(1_000_000))  # So that writing takes its time.
        return model

    monkeypatch.setattr("sys.argv", ["train_net.py"])
    monkeypatch.setattr(Trainer, "build_model", staticmethod(build_model))
    log = tmp_path / "screen.txt"
    begin = time.monotonic()
    finished(start(arguments(OUTPUT_DIR=tmp_path / "whole", **OPTIONS), log))
    seconds, expected = time.monotonic() - begin, weights(tmp_path / "whole")
    seed = int(os.environ.get("KILLS_SEED", random.randrange(10**6)))
    chance = random.Random(seed)
    killed = within_writes = runs = equal = lost = 0
    while killed < kills:
        folder, runs, progress, ended = tmp_path / f"run_{runs}", runs + 1, -1, False
        while not ended:
            options = {**OPTIONS, "OUTPUT_DIR": folder, "DATALOADER__NUM_WORKERS": chance.choice((0, 1, 2))}
            child = start(arguments(**options), log, "--resume")
            if killed >= kills:
                finished(child)
                break
            was_killed = kill(child, folder, chance, seconds)
            killed, ended = killed + was_killed, not was_killed
            within_writes += any(folder.glob(".*.tmp"))  # What a write leaves that was cut off.
            lost += (now := iteration_of(folder)) < progress
            progress = max(progress, now)
        finished(start(arguments(OUTPUT_DIR=folder, **OPTIONS), log, "--resume"))
        ends = weights(folder)
        equal += ends.keys() == expected.keys() and all(torch.equal(ends[key], expected[key]) for key in expected)
        shutil.rmtree(folder)
    print(
        f"seed {seed}: {killed} kills ({within_writes} within writes) in {runs} trainings; {equal} of {runs} ended "
        f"equal, {lost} checkpoints lost"
    )
    assert (equal, lost) == (runs, 0), log.read_text()[-5000:]


def test_workers_end_with_a_training_that_was_killed(arguments, tiny_model, tmp_path, monkeypatch):
    begun = tmp_path / "begun"

    def build_model(cfg):
        model = tiny_model(cfg)
        # Meanwhile the workers send more than a pipe holds.
        model.register_forward_pre_hook(lambda *_: (begun.touch(), time.sleep(600))[:0])
        return model

    monkeypatch.setattr("sys.argv", ["train_net.py"])
    monkeypatch.setattr(Trainer, "build_model", staticmethod(build_model))
    watched, held = os.pipe()  # It ends when all processes have that were forked from here on.
    child = start(arguments(**OPTIONS, DATALOADER__NUM_WORKERS=2, SOLVER__IMS_PER_BATCH=16), tmp_path / "screen.txt")
    os.close(held)
    end = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert begun.exists()
    # torch's workers look after their process every five seconds.
    assert select.select([watched], [], [], 30)[0]
    os.close(watched)
