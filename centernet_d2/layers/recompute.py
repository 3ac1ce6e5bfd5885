"""Activation checkpointing: time for memory in training."""

from __future__ import annotations

from itertools import count

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

__all__ = ["RecomputedSequential"]


class RecomputedSequential(nn.Sequential):
    """Modules in a row, of which a training keeps the input alone: the backward pass computes what is inside again.

    Losses, gradients and running statistics are those of ``nn.Sequential``, and so are the names in state dicts.
    Without gradients and in evaluation mode it is one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """What the last module makes of it."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        passes = count()

        def run(x: Tensor) -> Tensor:
            again = next(passes) > 0
            for module in self:
                x = _without_a_trace(module, x) if again else module(x)
            return x

        return checkpoint(run, x, use_reentrant=False)


def _without_a_trace(module: nn.Module, x: Tensor) -> Tensor:
    """What a module makes of x, its own buffers left alone: batch norms counted x when they first saw it."""
    return functional_call(module, {name: buffer.clone() for name, buffer in module.named_buffers()}, (x,))
