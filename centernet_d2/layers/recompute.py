"""Activation checkpointing, which reduces memory at the cost of recomputation."""

from __future__ import annotations

from itertools import count

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

__all__ = ["RecomputedSequential"]


class RecomputedSequential(nn.Sequential):
    """``nn.Sequential`` with activation checkpointing.

    In training, only the input is stored; the backward pass recomputes the activations. Losses, gradients, running
    statistics and state dicts are the same as with ``nn.Sequential``. Without gradients and in evaluation mode, nothing
    is recomputed.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last module."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        passes = count()

        def run(x: Tensor) -> Tensor:
            is_recomputation = next(passes) > 0
            for module in self:
                x = _call_with_copied_buffers(module, x) if is_recomputation else module(x)
            return x

        return checkpoint(run, x, use_reentrant=False)


def _call_with_copied_buffers(module: nn.Module, x: Tensor) -> Tensor:
    """Call a module without updating its buffers, as the first pass has updated the batch statistics."""
    return functional_call(module, {name: buffer.clone() for name, buffer in module.named_buffers()}, (x,))
