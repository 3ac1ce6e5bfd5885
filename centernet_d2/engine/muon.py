"""Muon: steps along the momentum of a convolution's weights, made orthogonal; AdamW for all other parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon", "orthogonalize"]

# Of x (a + b x^2 + c x^4): in five rounds it brings singular values between about 0.003 and 1 to between 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Rounds on one product x x^T. All five on one go astray where products are in bfloat16, and only there.
ROUNDS = (3, 2)
# Weights of fewer channels on either side, as in the stem, are no matrices worth the name.
MIN_CHANNELS = 16
# The size of AdamW's steps, root mean square, relative to the learning rate.
STEP_SIZE = 0.2


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest matrices with orthonormal rows, or columns, roughly: singular values of 0.7 to 1.2.

    By Newton and Schulz's iteration with the coefficients of Jordan et al., "Muon" (2024). A polynomial of x x^T times
    x is what a round makes, so some rounds are done on the small x x^T, and x is multiplied once for all of them.

    Args:
        matrices: (N, R, C); zeros stay zeros.

    Returns:
        (N, R, C) float32.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.mT).mT
    a, b, c = COEFFICIENTS
    # A loop of training may be in half precision as a whole.
    with torch.autocast(matrices.device.type, enabled=False):
        x = matrices.float()
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        for rounds in ROUNDS:
            gram = x @ x.mT
            product = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
            for _ in range(rounds):
                factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
                factor.diagonal(dim1=1, dim2=2).add_(a)
                product = factor @ product
                gram = factor @ gram @ factor
            x = product @ x
        return x


class Muon(torch.optim.AdamW):
    """Muon for the weights of convolutions with MIN_CHANNELS or more on both sides, AdamW for the rest.

    A weight is a matrix with a row for each index of its first dimension: an output channel, or an input channel of a
    transposed convolution. Its steps are as large as AdamW's (Liu et al., "Muon is scalable for LLM training", arXiv
    2502.16982, section 2.2), so that rates and decays are of the same kind for all.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.95,
        plain: Iterable[Tensor] = (),
        **adamw: Any,
    ) -> None:
        """
        Args:
            params: groups; each is split in two, told apart by ``orthogonal``.
            lr: learning rate.
            momentum: of the matrices; Nesterov's.
            plain: parameters that are no matrices whatever their shape, such as the last layers of a network.
            adamw: see :class:`torch.optim.AdamW`.
        """
        self._momentum, self._plain = momentum, {id(parameter) for parameter in plain}
        super().__init__(params, lr=lr, foreach=True, **adamw)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Add the two halves of a group."""
        parameters = list(group["params"])
        for orthogonal in (False, True):
            own = [parameter for parameter in parameters if self._is_matrix(parameter) == orthogonal]
            if own:
                super().add_param_group({**group, "params": own, "orthogonal": orthogonal, "momentum": self._momentum})

    def _is_matrix(self, parameter: Tensor) -> bool:
        return parameter.ndim == 4 and min(parameter.shape[:2]) >= MIN_CHANNELS and id(parameter) not in self._plain

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have gradients; returns what the closure does."""
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
        """Matrices of one shape are orthogonalised together."""
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                ahead = self._advance(parameter, parameter.grad, group["momentum"])
                by_shape.setdefault(parameter.shape, []).append((parameter, ahead.reshape(len(ahead), -1)))
        for shape, rows in by_shape.items():
            steps = orthogonalize(torch.stack([ahead for _, ahead in rows]))
            size = STEP_SIZE * math.sqrt(max(steps.shape[1:]))
            for (parameter, _), step in zip(rows, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(step.reshape(shape), alpha=-group["lr"] * size)

    def _advance(self, parameter: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        """The momentum of a parameter after a gradient, and as it were after the same one again."""
        state = self.state[parameter]
        if not state:
            # As AdamW keeps it, which looks for the number of steps when a state is loaded.
            state["step"] = torch.tensor(0.0)
            state["momentum"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - momentum)
        return torch.lerp(gradient, state["momentum"], momentum)
