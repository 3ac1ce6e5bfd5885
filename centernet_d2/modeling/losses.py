"""The losses of the paper as pure functions (section 3; SPEC 7). All compute in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["REGRESSION_LOSSES", "focal_loss", "focal_loss_with_logits", "normalizer", "regression_loss"]

REGRESSION_LOSSES = ("l1", "smooth_l1")

# The original clamps training probabilities to [1e-4, 1 - 1e-4]: no gradient beyond.
_PROBABILITY_MARGIN = 1e-4
# In every denominator of the original, so that no objects give no loss instead of 0 / 0.
_EPSILON = 1e-4


def focal_loss(probability: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Penalty-reduced focal loss, alpha 2 and beta 4 (paper, equation 1).

    Args:
        probability: any shape, inside (0, 1).
        target: same shape; exactly 1 at centers, less around them.
        weight: broadcastable to the same shape; scales the loss of cells that are not centers.

    Returns:
        The sum over all cells, divided by the number of centers if there are any.
    """
    center = target == 1
    at_center = probability.log() * (1 - probability) ** 2
    elsewhere = (1 - probability).log() * probability**2 * (1 - target) ** 4
    if weight is not None:
        elsewhere = elsewhere * weight
    return -torch.where(center, at_center, elsewhere).sum() / center.sum().clamp(min=1)


def focal_loss_with_logits(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """:func:`focal_loss` of the clamped sigmoid, in float32 whatever the type of the logits."""
    probability = logits.float().sigmoid().clamp(_PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
    return focal_loss(probability, target, weight)


def normalizer(weight: Tensor, loss: str = "l1", slots: int = 0) -> Tensor:
    """What a regression loss is divided by: the supervised values (l1) or objects (smooth_l1) of the batch.

    Args:
        weight: (N, D).
        loss: one of REGRESSION_LOSSES.
        slots: if not 0, divide by this many objects, however many there are, as the original does for 3-D boxes.
    """
    if slots:
        return weight.new_tensor(float(slots * weight.shape[1]))
    count = weight.sum() if loss == "l1" else weight.amax(dim=1).sum()
    return count + _EPSILON


def regression_loss(prediction: Tensor, target: Tensor, weight: Tensor, loss: str = "l1", slots: int = 0) -> Tensor:
    """L1 loss averaged over values, or smooth L1 loss averaged over objects (paper, equations 2 and 3).

    Args:
        prediction, target: (N, D).
        weight: (N, D) in 0..1.
        loss: one of REGRESSION_LOSSES.
        slots: see :func:`normalizer`.

    Returns:
        Scalar; 0, and connected to the prediction, if there are no objects.
    """
    function = F.l1_loss if loss == "l1" else F.smooth_l1_loss
    total = function(prediction.float() * weight, target * weight, reduction="sum")
    return total / normalizer(weight, loss, slots)
