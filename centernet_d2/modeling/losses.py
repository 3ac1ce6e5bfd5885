"""The losses of the paper as functions (section 3; original.md: Losses). All compute in float32.

Several processes that share a batch divide by what all of them count together, see :func:`average_over_processes`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = [
    "REGRESSION_LOSSES",
    "focal_loss",
    "focal_loss_with_logits",
    "log_depth_loss",
    "orientation_loss",
    "average_over_processes",
    "regression_loss",
]

REGRESSION_LOSSES = ("l1", "smooth_l1")

# The original clamps training probabilities to [1e-4, 1 - 1e-4]: no gradient beyond.
_PROBABILITY_MARGIN = 1e-4
# In every denominator of the original, so that no objects give no loss instead of 0 / 0.
_EPSILON = 1e-4
# Depths are at least a millimetre before their logarithm is taken; the depth that a network says may be negative.
_MIN_DEPTH = 1e-3


def average_over_processes(count: Tensor, *, plus: float = 0.0, at_least: float = 0.0) -> Tensor:
    """What a loss is divided by, so that several processes together learn what one would from the whole batch.

    Gradients are averaged over the processes, and so are logged losses. The average of sum / (total / processes) is
    the sum of all processes over the total of all. Every process must call this in the same order, with objects or not.

    Args:
        count: what this process counts, any shape.
        plus, at_least: of the total, against a division by 0: first the one is added, then the other is the least.

    Returns:
        The total of all processes divided by their number, without gradient; in a single process its own count.
    """
    total, processes = count.detach().clone(), comm.get_world_size()
    if processes > 1:
        torch.distributed.all_reduce(total)
    return (total + plus).clamp(min=at_least) / processes


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
    return -torch.where(center, at_center, elsewhere).sum() / average_over_processes(center.sum(), minimum=1)


def focal_loss_with_logits(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """:func:`focal_loss` of the clamped sigmoid, in float32 whatever the type of the logits (float64 stays so).

    The gradient is a formula of its own: autograd would keep and read again a dozen tensors as large as the heatmaps.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return _FocalSum.apply(logits, target, weight) / average_over_processes((target == 1).sum(), minimum=1)


class _FocalSum(torch.autograd.Function):
    """The sum of the focal loss over all cells, by logits. What backward needs is made on the way forward.

    With p the clamped sigmoid and q = 1 - p, the derivatives by the logit (dp = p q) are, inside the clamp, of the loss
    at centers -q^2 log p: q^2 (2 p log p - q); of that elsewhere, -p^2 log q (1 - t)^4: p^2 (p - 2 q log q) (1 - t)^4.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        probability = logits.sigmoid().clamp_(_PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
        center = target == 1
        # Chance of the right answer and of the wrong one: each cell has one formula, of either sign.
        wrong = torch.where(center, 1 - probability, probability)
        right = 1 - wrong
        scale = (1 - target.to(logits.dtype)).square_().square_()
        if weight is not None:
            scale *= weight
        scale = scale.masked_fill_(center, 1).mul_(wrong).mul_(wrong)
        log = right.log()
        total = -(scale * log).sum()
        if ctx.needs_input_grad[0]:
            inside = (probability > _PROBABILITY_MARGIN) & (probability < 1 - _PROBABILITY_MARGIN)
            gradient = wrong.addcmul_(right, log, value=-2).mul_(scale).mul_(inside)
            ctx.save_for_backward(torch.where(center, -gradient, gradient))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None


def normalizer(weight: Tensor, loss: str = "l1", slots: int = 0) -> Tensor:
    """What a regression loss is divided by: the supervised values (l1) or objects (smooth_l1), over all processes.

    Args:
        weight: (N, D).
        loss: one of REGRESSION_LOSSES.
        slots: if not 0, divide by this many objects, however many there are, as the original does for 3-D boxes.
    """
    if slots:
        return average_over_processes(weight.new_full((), slots * weight.shape[1]))
    return average_over_processes(weight.sum() if loss == "l1" else weight.amax(dim=1).sum(), eps=_EPSILON)


def regression_loss(prediction: Tensor, target: Tensor, weight: Tensor, loss: str = "l1", slots: int = 0) -> Tensor:
    """L1 loss averaged over values, or smooth L1 loss averaged over objects (paper, equations 2 and 3).

    Args:
        prediction, target: (N, D); targets without weight may be anything, NaN too.
        weight: (N, D) in 0..1.
        loss: one of REGRESSION_LOSSES.
        slots: see :func:`normalizer`.

    Returns:
        Scalar; 0, and connected to the prediction, if there are no objects.
    """
    target = _zero_unweighted(target, weight)
    function = F.l1_loss if loss == "l1" else F.smooth_l1_loss
    total = function(prediction.float() * weight, target * weight, reduction="sum")
    return total / normalizer(weight, loss, slots)


def log_depth_loss(
    prediction: Tensor, target: Tensor, weight: Tensor, image: Tensor, images: int, balance: float = 0.5
) -> Tensor:
    """The scale-invariant error of depths in log space: mean(d^2) - balance * mean(d)^2 with d = log y - log y'.

    Args:
        prediction, target: (N, 1) depths; targets without weight may be anything, NaN too.
        weight: (N, 1) in 0..1.
        image: (N,) index into the batch; the means are over the objects of one image.
        images: size of the batch.
        balance: how much of an error that all objects of an image share is forgiven, 0..1.

    Returns:
        The mean over images with objects; 0, and connected to the prediction, if there are none.
    """
    target = _zero_unweighted(target, weight)
    prediction, target = (tensor.float().clamp(min=_MIN_DEPTH).log() for tensor in (prediction, target))
    difference = (prediction - target) * weight
    sums = torch.stack([weight[:, 0], difference[:, 0], (difference * (prediction - target))[:, 0]], dim=1)
    count, total, squares = sums.new_zeros(images, 3).index_add(0, image, sums).unbind(1)
    count = count.clamp(min=_EPSILON)
    per_image = squares / count - balance * (total / count) ** 2
    return per_image.sum() / average_over_processes((count > _EPSILON).sum(), minimum=1)


def orientation_loss(prediction: Tensor, target: Tensor, weight: Tensor, slots: int = 0) -> Tensor:
    """Two bins, each with a class (outside, inside) and an angle (paper, equation 6; original.md: Orientation loss).

    Args:
        prediction: (N, 8), per bin two logits, sine and cosine of the angle to its center.
        target: (N, 8), in place of the logits 1 for the right class and 0 for the other; sine and cosine are only read
            where the angle lies in the bin. Targets without weight may be anything, NaN too.
        weight: (N,) in 0..1.
        slots: divide the cross entropy by this many objects; those that are missing cost ln 2 per bin, as in the
            original. 0: by the objects.

    Returns:
        Cross entropy of both bins, and smooth L1 of sine and cosine averaged over the objects of each bin.
    """
    target = _zero_unweighted(target, weight[:, None])
    prediction, target = prediction.float().unflatten(1, (2, 4)), target.unflatten(1, (2, 4))
    logits, vector = prediction[..., :2], prediction[..., 2:]
    bins = target[..., 1]
    wanted = _zero_unweighted(target[..., 2:], bins[..., None])
    entropy = F.cross_entropy(logits.flatten(0, 1), bins.long().flatten(), reduction="none").view_as(bins)
    entropy = (entropy * weight[:, None]).sum()
    if slots:
        places = average_over_processes(weight.new_full((), slots))
        missing = (places - average_over_processes(weight.sum())).clamp(min=0)
        entropy = (entropy + 2 * math.log(2) * missing) / places
    else:
        entropy = entropy / average_over_processes(weight.sum(), eps=_EPSILON)
    inside = bins * weight[:, None]
    difference = F.smooth_l1_loss(vector, wanted, reduction="none").sum(dim=2)
    # No epsilon in the original: an empty bin has no loss, a filled one its exact mean.
    angle = (difference * inside).sum(dim=0) / average_over_processes(inside.sum(dim=0), minimum=1)
    return entropy + angle.sum()


def _zero_unweighted(target: Tensor, weight: Tensor) -> Tensor:
    """The target, with 0 for what has no weight: 0 times NaN would be NaN."""
    return torch.where(weight > 0, target, 0)
