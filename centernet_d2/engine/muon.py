"""Muon optimizer for convolution weights, with AdamW for all other parameters.

Muon orthogonalizes the momentum of each weight matrix before the update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon", "orthogonalize"]

# Coefficients a, b, c of the polynomial x (a + b x^2 + c x^4). Five iterations map singular values between about 0.003
# and 1 to values between 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Numbers of iterations that share one product x x^T. Five iterations on one product diverge if matrix products are
# computed in bfloat16.
ITERATIONS = (3, 2)
# Weights with fewer input or output channels, for example of the stem, are updated by AdamW.
MIN_CHANNELS = 16
# Root mean square of AdamW's updates relative to the learning rate.
STEP_SIZE = 0.2


def orthogonalize(matrices: Tensor) -> Tensor:
    """Orthogonalize matrices approximately: singular values become 0.7 to 1.2.

    This is the Newton-Schulz iteration with the coefficients of Jordan et al., "Muon" (2024). Each iteration multiplies
    x by a polynomial of x x^T. Several iterations are therefore computed on the smaller matrix x x^T, and x is
    multiplied by their product once.

    Args:
        matrices: (N, R, C); zero matrices are returned unchanged.

    Returns:
        (N, R, C) float32.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.mT).mT
    a, b, c = COEFFICIENTS
    # The training loop may run under autocast.
    with torch.autocast(matrices.device.type, enabled=False):
        x = matrices.float()
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        for iterations in ITERATIONS:
            gram = x @ x.mT
            product = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
            for _ in range(iterations):
                factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
                factor.diagonal(dim1=1, dim2=2).add_(a)
                product = factor @ product
                gram = factor @ gram @ factor
            x = product @ x
        return x


class Muon(torch.optim.AdamW):
    """Muon for convolutions and linear layers, AdamW for other parameters.

    Muon updates the weights of convolutions and linear layers with at least MIN_CHANNELS input and output channels. A
    weight is treated as a matrix with one row per index of its first dimension: an output channel, or an input channel
    of a transposed convolution. Therefore, Muon updates 1x1 convolutions like linear layers, and AdamW updates
    depthwise convolutions, whose weights have one input channel per group. Updates are scaled to the size of AdamW's
    updates (Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982, section 2.2), so that one learning rate
    and one weight decay apply to all parameters.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.95,
        exclude: Iterable[Tensor] = (),
        **adamw: Any,
    ) -> None:
        """
        Args:
            params: parameter groups. Each is split into a group with ``orthogonal=False`` (AdamW) and one with
                ``orthogonal=True`` (Muon).
            lr: learning rate.
            momentum: Nesterov momentum of Muon.
            exclude: parameters that AdamW updates regardless of their shape, such as the last layers of a network.
            adamw: see :class:`torch.optim.AdamW`.
        """
        self._momentum, self._excluded = momentum, {id(parameter) for parameter in exclude}
        super().__init__(params, lr=lr, foreach=True, **adamw)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Add a parameter group, split into its AdamW and Muon parameters."""
        parameters = list(group["params"])
        for orthogonal in (False, True):
            own = [parameter for parameter in parameters if self._is_matrix(parameter) == orthogonal]
            if own:
                super().add_param_group({**group, "params": own, "orthogonal": orthogonal, "momentum": self._momentum})

    def _is_matrix(self, parameter: Tensor) -> bool:
        return (
            parameter.ndim in (2, 4)
            and min(parameter.shape[:2]) >= MIN_CHANNELS
            and id(parameter) not in self._excluded
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have gradients; return the result of `closure`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        """Update matrices. Matrices of the same shape are orthogonalized in one batch."""
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                update = self._update_momentum(parameter, parameter.grad, group["momentum"])
                by_shape.setdefault(parameter.shape, []).append((parameter, update.reshape(len(update), -1)))
        for shape, rows in by_shape.items():
            steps = orthogonalize(torch.stack([update for _, update in rows]))
            size = STEP_SIZE * math.sqrt(max(steps.shape[1:]))
            for (parameter, _), step in zip(rows, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(step.reshape(shape), alpha=-group["lr"] * size)

    def _update_momentum(self, parameter: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        """Update the momentum buffer of a parameter and return its Nesterov momentum."""
        state = self.state[parameter]
        if not state:
            # A tensor as in AdamW, whose __setstate__ reads it when a state is loaded.
            state["step"] = torch.tensor(0.0)
            state["momentum"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - momentum)
        return torch.lerp(gradient, state["momentum"], momentum)
