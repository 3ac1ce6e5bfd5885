"""Trainings that are killed at random times and resumed end with the weights of an uninterrupted training.

The default run has a few kills, the long test many:

    KILLS=100 python -m pytest -m long -s tests/engine/test_kills.py

KILLS_SEED repeats the kill times of an earlier run. Processes are forked, because imports take longer than a training.
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
    """Fork a process that trains from fixed initial weights, and return its process id."""
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


def kill(child, folder, rng, seconds):
    """Kill a process at a random time, or while it writes; return True if it was still running."""
    writing, end = rng.random() < 0.5, time.monotonic() + rng.uniform(0, seconds)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        is_due = time.monotonic() >= end
        if is_due and (not writing or any(folder.glob(".*.tmp"))):
            time.sleep(rng.uniform(0, 0.01) if writing else 0)
            os.kill(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        time.sleep(0.0005)
    return False


def wait_for(child):
    """Wait for the successful end of a process."""
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def iteration_of(folder):
    """Return the iteration of the newest checkpoint, after all checkpoints were read."""
    return max((load_file(path)["iteration"] for path in checkpoint_files(folder)), default=-1)


def weights(folder):
    return {
        f"{name}: {key}": tensor
        for name in ("model_final.pth", "model_ema.pth", "model_best.pth")
        for key, tensor in load_file(folder / name)["model"].items()
    }


@pytest.mark.parametrize("kills", [2, pytest.param(KILLS, marks=pytest.mark.long)])
def test_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    kills, arguments, tiny_model, tmp_path, monkeypatch
):
    def build_model(cfg):
        model = tiny_model(cfg)
        model.ballast = nn.Parameter(torch.zeros(1_000_000))  # Slows down writing.
        return model

    monkeypatch.setattr("sys.argv", ["train_net.py"])
    monkeypatch.setattr(Trainer, "build_model", staticmethod(build_model))
    log = tmp_path / "screen.txt"
    begin = time.monotonic()
    wait_for(start(arguments(OUTPUT_DIR=tmp_path / "uninterrupted", **OPTIONS), log))
    seconds, expected = time.monotonic() - begin, weights(tmp_path / "uninterrupted")
    seed = int(os.environ.get("KILLS_SEED", random.randrange(10**6)))
    rng = random.Random(seed)
    killed = within_writes = runs = equal = lost = 0
    while killed < kills:
        folder, runs, progress, ended = tmp_path / f"run_{runs}", runs + 1, -1, False
        while not ended:
            options = {**OPTIONS, "OUTPUT_DIR": folder, "DATALOADER__NUM_WORKERS": rng.choice((0, 1, 2))}
            child = start(arguments(**options), log, "--resume")
            if killed >= kills:
                wait_for(child)
                break
            was_killed = kill(child, folder, rng, seconds)
            killed, ended = killed + was_killed, not was_killed
            within_writes += any(folder.glob(".*.tmp"))  # Left by an interrupted write.
            lost += (now := iteration_of(folder)) < progress
            progress = max(progress, now)
        wait_for(start(arguments(OUTPUT_DIR=folder, **OPTIONS), log, "--resume"))
        ends = weights(folder)
        equal += ends.keys() == expected.keys() and all(torch.equal(ends[key], expected[key]) for key in expected)
        shutil.rmtree(folder)
    print(
        f"seed {seed}: {killed} kills ({within_writes} during writes) in {runs} trainings; {equal} of {runs} with "
        f"equal weights, {lost} checkpoints lost"
    )
    assert (equal, lost) == (runs, 0), log.read_text()[-5000:]


def test_workers_of_a_killed_training_exit(arguments, tiny_model, tmp_path, monkeypatch):
    started = tmp_path / "started"

    def build_model(cfg):
        model = tiny_model(cfg)
        # During the sleep, the workers send more data than a pipe can hold.
        model.register_forward_pre_hook(lambda *_: (started.touch(), time.sleep(600))[:0])
        return model

    monkeypatch.setattr("sys.argv", ["train_net.py"])
    monkeypatch.setattr(Trainer, "build_model", staticmethod(build_model))
    read, write = os.pipe()  # `read` reaches its end when all processes forked below have exited.
    child = start(arguments(**OPTIONS, DATALOADER__NUM_WORKERS=2, SOLVER__IMS_PER_BATCH=16), tmp_path / "screen.txt")
    os.close(write)
    end = time.monotonic() + 60
    while not started.exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert started.exists()
    # torch's workers check every five seconds that their parent process exists.
    assert select.select([read], [], [], 30)[0]
    os.close(read)
