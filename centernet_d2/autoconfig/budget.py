"""Measured training speed, and the number of iterations in a time budget."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from ..data import register_from_config
from ..engine.trainer import Trainer, choose_loop
from ..utils.screen import progress_bar
from .choices import evaluation_period

__all__ = ["Pace", "iterations_within", "measure_pace"]

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
        evaluation: of an evaluation.
        start: from process start to the first timed iteration.
    """

    step: float
    evaluation: float
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
    return Pace(step, _evaluation(cfg, model), start - begin)


def _evaluation(cfg: CfgNode, model: torch.nn.Module) -> float:
    seconds = 0.0
    for name in cfg.DATASETS.TEST:
        loader = Trainer.build_test_loader(cfg, name)
        with torch.no_grad():
            batches = iter(loader)
            model(next(batches))
            before, seen = _now(), 0
            for batch in islice(batches, TEST_IMAGES):
                model(batch)
                seen += 1
        # A dataset of a single image has no measurement; REST covers it.
        seconds += MARGIN * len(loader) * (_now() - before) / max(seen, 1)
    return seconds + REST


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
    available = SAFETY * (seconds - pace.start - pace.evaluation)
    iterations = max(1, int(available / pace.step))
    period = evaluation_period(iterations, pace.step, pace.evaluation)
    between = (iterations - 1) // period if period else 0
    return max(1, int((available - between * pace.evaluation) / pace.step))
