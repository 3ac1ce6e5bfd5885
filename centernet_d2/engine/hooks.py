"""Training hooks that Detectron2 does not have."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
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
    """Exponential moving average (EMA) of the weights and buffers of a model.

    The average is saved as model_ema.pth after the last iteration. The decay at iteration t is at most
    (1 + t) / (10 + t), so that the average of a short training is not dominated by its first iterations.
    """

    def __init__(
        self, model: nn.Module, decay: float, folder: str, metadata: Mapping[str, object] = MappingProxyType({})
    ) -> None:
        """
        Args:
            model: model without the DistributedDataParallel wrapper.
            decay: weight of the old average in each update, in [0, 1).
            folder: output folder of model_ema.pth.
            metadata: metadata of this file.

        Raises:
            ValueError: the decay is out of range.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"SOLVER.EMA.DECAY is {decay}, but must be at least 0 and less than 1")
        self._source = model
        self._decay = decay
        self._average = AveragedModel(model, multi_avg_fn=self._mix, use_buffers=True)
        self._average.requires_grad_(False)
        self.model = self._average.module
        self._checkpointer = CenterNetCheckpointer(self.model, folder, metadata=metadata)

    def after_step(self) -> None:
        self._average.update_parameters(self._source)
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self.save()

    def _mix(self, averaged: Sequence[Tensor], current: Sequence[Tensor], count: Any) -> None:
        # `count` may be on a GPU; reading it would synchronize. The iteration of the trainer is the same number.
        done = self.trainer.iter
        get_ema_multi_avg_fn(min(self._decay, (1 + done) / (10 + done)))(averaged, current, count)

    def save(self) -> None:
        """Save model_ema.pth; see :meth:`CenterNetCheckpointer.save`."""
        self._checkpointer.save("model_ema")

    def state_dict(self) -> dict:
        return self._average.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self._average.load_state_dict(state)


class Checkpoints(PeriodicCheckpointer):
    """PeriodicCheckpointer that keeps only the newest checkpoints."""

    def __init__(self, checkpointer: CenterNetCheckpointer, period: int, *, keep: int = 0) -> None:
        """
        Args:
            checkpointer: checkpointer that saves.
            period: number of iterations between checkpoints.
            keep: number of numbered checkpoints to keep, including those written before a resume; 0 keeps all.

        Raises:
            ValueError: `keep` is negative.
        """
        if keep < 0:
            raise ValueError(f"SOLVER.MAX_TO_KEEP is {keep}, but must be at least 0")
        super().__init__(checkpointer, period)
        self.keep = keep

    def step(self, iteration: int, **kwargs: object) -> None:
        super().step(iteration, **kwargs)
        if self.keep and self.checkpointer.iteration == iteration:
            # The first one is new. Later iterations remain if the user has set last_checkpoint back.
            for path in self.checkpointer.numbered_files(iteration)[self.keep :]:
                path.unlink()


class CheckGradients(HookBase):
    """Hook that checks that all gradients are finite before the optimizer step.

    Register it with a training loop (SimpleTrainer), not with the trainer. With a gradient scaler, an iteration with
    non-finite gradients is allowed as long as the scaler can reduce its scale, because the scaler skips the step.
    """

    def after_backward(self) -> None:
        """
        Raises:
            FloatingPointError: a gradient is NaN or infinite; the message lists the parts of the network.
        """
        gradients = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        if not gradients or torch.stack(torch._foreach_norm(gradients)).isfinite().all():
            return
        scaler = getattr(self.trainer, "grad_scaler", None)
        if scaler is None or scaler.get_scale() <= 1:
            raise FloatingPointError(f"in the gradients of {', '.join(self._non_finite_parts())}")

    def _non_finite_parts(self) -> list[str]:
        """Return "backbone" and the names of heads whose parameters have non-finite gradients."""
        parts = {
            re.sub(r"^(module\.)?(heads\.)?([^.]+)\..*", r"\3", name): None
            for name, parameter in self.trainer.model.named_parameters()
            if parameter.grad is not None and not parameter.grad.norm().isfinite()
        }
        return list(parts)


class StopOnSignal(HookBase):
    """Hook that stops training after a process received a signal.

    All processes stop after the same iteration.
    """

    def after_step(self) -> None:
        if number := _max_over_processes(self.trainer.signals.number, self.trainer.model):
            self.trainer.stop(number)


def _max_over_processes(number: int, model: nn.Module) -> int:
    """Return the maximum of a number over all processes."""
    if comm.get_world_size() == 1:
        return number
    numbers = torch.tensor(number, device=next(model.parameters()).device)
    torch.distributed.all_reduce(numbers, op=torch.distributed.ReduceOp.MAX)
    return int(numbers)


class EarlyStop(BaseException):
    """Early stopping.

    It derives from BaseException because Detectron2 logs every Exception with a traceback.
    """


class BestWeights(BestCheckpointer):
    """BestCheckpointer with early stopping and a state that is restored on resume.

    Register it after the evaluation hook, in all processes.
    """

    def __init__(self, period: int, checkpointer: CenterNetCheckpointer, metric: str, *, patience: int = 0) -> None:
        """
        Args:
            period: number of iterations between evaluations.
            checkpointer: checkpointer that saves model_best.pth.
            metric: name of the metric, for example "bbox/AP"; larger is better.
            patience: number of consecutive evaluations without improvement after which training stops; 0 disables
                early stopping.
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
            EarlyStop: there were `patience` evaluations without improvement.
        """
        count = self.trainer.iter + 1
        if count % self.period == 0 and count != self.trainer.max_iter and self._is_measured():
            super().after_step()
            self.waited = 0 if self.best_iter == self.trainer.iter else self.waited + 1
            if self.is_exhausted:
                raise EarlyStop(self.reason())

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter and self._is_measured():
            super().after_train()

    def _is_measured(self) -> bool:
        """Return True if the evaluation at this iteration returned the metric; log a warning otherwise."""
        _, iteration = self.trainer.storage.latest().get(self.metric, (None, None))
        if iteration == self.trainer.iter:
            return True
        available = ", ".join(name for name in self.trainer.storage.latest() if "/" in name)
        logging.getLogger(__name__).warning(
            f"TEST.BEST_METRIC is {self.metric}, but the evaluation does not return this metric, so model_best.pth is "
            f"not updated. Available metrics: {available or 'none'}"
        )
        return False

    def best_with(self, value: float, count: int) -> tuple[float, int] | None:
        """Return the best value so far, including a new one, and its iteration count.

        Args:
            value: value of the metric.
            count: number of iterations so far.
        """
        is_better = not math.isnan(value) and (self.best_metric is None or value > self.best_metric)
        if is_better:
            return value, count
        return None if self.best_metric is None else (self.best_metric, self.best_iter + 1)

    def reason(self) -> str:
        """Return the reason for early stopping, for the log."""
        best = "none so far" if self.best_metric is None else f"{self.best_metric:.5g} at iteration {self.best_iter}"
        return f"{self.waited} evaluations without a better {self.metric} (best: {best}; SOLVER.PATIENCE)"

    def state_dict(self) -> dict:
        return {"best_metric": self.best_metric, "best_iter": self.best_iter, "waited": self.waited}

    def load_state_dict(self, state: dict) -> None:
        self.best_metric, self.best_iter, self.waited = (state[key] for key in ("best_metric", "best_iter", "waited"))
