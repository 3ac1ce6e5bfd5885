"""Measured training speed, and the number of iterations in a time budget."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import islice

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from ..data import register_from_config
from ..engine.trainer import Trainer, choose_loop
from ..evaluation.build import validation_config
from ..utils.screen import progress_bar
from .choices import evaluation_period

__all__ = [
    "Pace",
    "iterations_within",
    "measure_pace",
    "minutes_for",
    "readable_duration",
    "training_seconds",
]

# Number of iterations before the timed ones.
WARM_UP = 3
# Smallest number of timed iterations.
STEPS = 5
# Largest number of timed test images.
TEST_IMAGES = 8
# Factor for the time of evaluators, seconds for start and end of an evaluation, and share of the budget that is used.
MARGIN, REST, SAFETY = 1.5, 5.0, 0.97


@dataclass(frozen=True)
class Pace:
    """Measured durations in seconds.

    Attributes:
        step: of an iteration.
        evaluation: of an evaluation during training.
        final: of the evaluation after training.
        start: of the start of a training, up to its first iteration.
    """

    step: float
    evaluation: float
    final: float
    start: float


def measure_pace(cfg: CfgNode, seconds: float) -> Pace:
    """Time training iterations and detection on the dataset with a temporary model.

    Args:
        cfg: complete config.
        seconds: minimum duration of the timed iterations.
    """
    register_from_config(cfg)
    begin = time.perf_counter()
    model = Trainer.build_model(cfg)
    loop = choose_loop(cfg)(model, Trainer.build_train_loader(cfg), Trainer.build_optimizer(cfg, model))
    with EventStorage(0), progress_bar(seconds, "timing iterations") as bar:
        for loop.iter in range(WARM_UP):
            loop.run_step()
        start = before = _now()
        steps = 0
        while steps < STEPS or _now() - before < seconds:
            loop.run_step()
            steps += 1
            bar.update(min(seconds, _now() - before) - bar.n)
        step = (_now() - before) / steps
    model.eval()
    durations = {name: _evaluation(cfg, model, name) for name in cfg.DATASETS.TEST}
    evaluation = sum(durations[name] for name in validation_config(cfg).DATASETS.TEST)
    return Pace(step, evaluation + REST, sum(durations.values()) + REST, start - begin)


def _evaluation(cfg: CfgNode, model: torch.nn.Module, name: str) -> float:
    """Estimate the seconds of the evaluation on a dataset from a few images."""
    loader = Trainer.build_test_loader(cfg, name).loader  # Without a progress line.
    with torch.no_grad():
        batches = iter(loader)
        model(next(batches))
        before, seen = _now(), 0
        for batch in islice(batches, TEST_IMAGES):
            model(batch)
            seen += 1
    # A dataset of a single image has no measurement; REST covers it.
    return MARGIN * len(loader) * (_now() - before) / max(seen, 1)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def iterations_within(seconds: float, pace: Pace) -> int:
    """Return the number of iterations that fit into a time budget, at least 1.

    Start and evaluations are part of the budget.

    Args:
        seconds: time budget.
        pace: measured durations.
    """
    available = SAFETY * (seconds - pace.start - pace.final)
    iterations = max(1, int(available / pace.step))
    between = _evaluations(iterations, evaluation_period(iterations, pace.step, pace.evaluation))
    return max(1, int((available - between * pace.evaluation) / pace.step))


def training_seconds(iterations: int, period: int, pace: Pace) -> float:
    """Estimate the duration of a training.

    Args:
        iterations: length of the training.
        period: number of iterations between evaluations, or 0.
        pace: measured durations.
    """
    return pace.start + iterations * pace.step + _evaluations(iterations, period) * pace.evaluation + pace.final


def minutes_for(iterations: int, elapsed: float, pace: Pace) -> float:
    """Return the time budget for a number of iterations, in minutes.

    The result is rounded up to one decimal.

    Args:
        iterations: number of iterations.
        elapsed: seconds that have passed before the training.
        pace: measured durations.
    """
    period = evaluation_period(iterations, pace.step, pace.evaluation)
    training = training_seconds(iterations + 1, period, pace) - pace.start - pace.final
    return math.ceil((training / SAFETY + pace.start + pace.final + elapsed) / 6) / 10


def _evaluations(iterations: int, period: int) -> int:
    """Return the number of evaluations before the last one."""
    return (iterations - 1) // period if period > 0 else 0


def readable_duration(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 100 * 60 else f"{seconds / 3600:.1f} hours"
