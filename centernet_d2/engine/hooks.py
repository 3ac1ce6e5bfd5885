"""Hooks of a training beside Detectron2's."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import BestCheckpointer, PeriodicCheckpointer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..checkpoint import CenterNetCheckpointer

__all__ = ["AverageWeights", "BestWeights", "CheckGradients", "Checkpoints", "EarlyStop", "StopOnSignal"]


class AverageWeights(HookBase):
    """An exponential moving average of the weights and buffers of a model; ends as a weights file, model_ema.pth.

    Iteration t keeps (1 + t) / (10 + t) of it at most: else a short training ends with an average of its beginnings.
    """

    def __init__(self, model: nn.Module, decay: float, folder: str) -> None:
        """
        Args:
            model: without the wrapper of several processes.
            decay: share of the average that an iteration keeps, 0 to 1.
            folder: for the file.

        Raises:
            ValueError: the decay is no such share.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"SOLVER.EMA.DECAY is {decay}, but must be at least 0 and less than 1")
        self._source = model
        self._decay = decay
        self._average = AveragedModel(model, multi_avg_fn=self._mix, use_buffers=True)
        self._average.requires_grad_(False)
        self.model = self._average.module
        self._checkpointer = CenterNetCheckpointer(self.model, folder)

    def after_step(self) -> None:
        self._average.update_parameters(self._source)
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self.save()

    def _mix(self, averaged: Sequence[Tensor], current: Sequence[Tensor], count: Any) -> None:
        # By the trainer's count: that of the average may be on a GPU, which would have to be waited for.
        done = self.trainer.iter
        get_ema_multi_avg_fn(min(self._decay, (1 + done) / (10 + done)))(averaged, current, count)

    def save(self) -> None:
        """Write the file; see :meth:`CenterNetCheckpointer.save`."""
        self._checkpointer.save("model_ema")

    def state_dict(self) -> dict:
        return self._average.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self._average.load_state_dict(state)


class Checkpoints(PeriodicCheckpointer):
    """Detectron2's, which leaves the newest checkpoints only."""

    def __init__(self, checkpointer: CenterNetCheckpointer, period: int, *, keep: int = 0) -> None:
        """
        Args:
            checkpointer: saves.
            period: iterations from one checkpoint to the next.
            keep: so many numbered checkpoints are left, also of the run before a resume; 0: all.

        Raises:
            ValueError: a number below 0.
        """
        if keep < 0:
            raise ValueError(f"SOLVER.MAX_TO_KEEP is {keep}, but must be at least 0")
        super().__init__(checkpointer, period)
        self.keep = keep

    def step(self, iteration: int, **kwargs: object) -> None:
        super().step(iteration, **kwargs)
        if self.keep and self.checkpointer.iteration == iteration:
            numbered = [path for path in self.checkpointer.files() if path.stem != "model_final"]
            for path in numbered[self.keep :]:
                path.unlink()


class CheckGradients(HookBase):
    """Stops before gradients that are not finite reach the weights. It belongs to a training loop of Detectron2.

    A loss scaling skips such iterations itself and lowers its scale, as long as there is a scale to lower.
    """

    def after_backward(self) -> None:
        """
        Raises:
            FloatingPointError: a gradient is NaN or infinite; names the parts of the network.
        """
        gradients = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        if not gradients or torch.stack(torch._foreach_norm(gradients)).isfinite().all():
            return
        scaler = getattr(self.trainer, "grad_scaler", None)
        if scaler is None or scaler.get_scale() <= 1:
            raise FloatingPointError(f"in the gradients of {', '.join(self._broken())}")

    def _broken(self) -> list[str]:
        """Parts of the network with such gradients: the backbone, and the heads whose loss they come from."""
        broken = {
            re.sub(r"^(module\.)?(heads\.)?([^.]+)\..*", r"\3", name): None
            for name, parameter in self.trainer.model.named_parameters()
            if parameter.grad is not None and not parameter.grad.norm().isfinite()
        }
        return list(broken)


class StopOnSignal(HookBase):
    """Ends a training after an iteration in which a signal came; all processes after the same one."""

    def after_step(self) -> None:
        if number := _largest(self.trainer.signals.number, self.trainer.model):
            self.trainer.stop(number)


def _largest(number: int, model: nn.Module) -> int:
    """The largest number of all processes."""
    if comm.get_world_size() == 1:
        return number
    numbers = torch.tensor(number, device=next(model.parameters()).device)
    torch.distributed.all_reduce(numbers, op=torch.distributed.ReduceOp.MAX)
    return int(numbers)


class EarlyStop(BaseException):
    """A training ends because it does not get better any more. No error: Detectron2 logs those with a traceback."""


class BestWeights(BestCheckpointer):
    """Detectron2's, whose best result so far survives a resume; ends a training that does not get better any more.

    It goes behind the hook that evaluates, in all processes.
    """

    def __init__(self, period: int, checkpointer: CenterNetCheckpointer, metric: str, *, patience: int = 0) -> None:
        """
        Args:
            period: of the evaluations, iterations.
            checkpointer: writes model_best.pth.
            metric: such as "bbox/AP"; more is better.
            patience: so many evaluations in a row without a better result end the training; 0: none do.
        """
        super().__init__(period, checkpointer, metric)
        self.metric = metric
        self.period = period
        self.patience = patience
        self.waited = 0

    @property
    def is_exhausted(self) -> bool:
        return 0 < self.patience <= self.waited

    def after_step(self) -> None:
        """
        Raises:
            EarlyStop: the patience is over.
        """
        count = self.trainer.iter + 1
        if count % self.period == 0 and count != self.trainer.max_iter and self._is_known():
            super().after_step()
            self.waited = 0 if self.best_iter == self.trainer.iter else self.waited + 1
            if self.is_exhausted:
                raise EarlyStop(self.reason())

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter and self._is_known():
            super().after_train()

    def _is_known(self) -> bool:
        """Whether the evaluation at this iteration has measured the metric."""
        _, iteration = self.trainer.storage.latest().get(self.metric, (None, None))
        if iteration == self.trainer.iter:
            return True
        known = ", ".join(name for name in self.trainer.storage.latest() if "/" in name)
        logging.getLogger(__name__).warning(
            f"TEST.BEST_METRIC is {self.metric}, which the evaluation does not measure, so no weights are the best. "
            f"It measures {known or 'nothing'}"
        )
        return False

    def reason(self) -> str:
        """Why the training ends early."""
        best = "none so far" if self.best_metric is None else f"{self.best_metric:.5g} at iteration {self.best_iter}"
        return f"{self.waited} evaluations without a better {self.metric} (best: {best}), as SOLVER.PATIENCE says"

    def state_dict(self) -> dict:
        return {"best_metric": self.best_metric, "best_iter": self.best_iter, "waited": self.waited}

    def load_state_dict(self, state: dict) -> None:
        self.best_metric, self.best_iter, self.waited = (state[key] for key in ("best_metric", "best_iter", "waited"))
