"""Loss functions, computed in float32 (paper, section 3; original.md: Losses).

Normalizers are averaged over all processes that share a batch, see :func:`average_over_processes`.
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
    "average_over_processes",
    "focal_loss",
    "focal_loss_with_logits",
    "log_depth_loss",
    "orientation_loss",
    "regression_loss",
]

REGRESSION_LOSSES = ("l1", "smooth_l1")

# Probabilities are clamped to [1e-4, 1 - 1e-4] in training, as in the reference implementation; no gradient outside.
_PROBABILITY_MARGIN = 1e-4
# Added to denominators, as in the reference implementation, to avoid 0 / 0 without objects.
_EPSILON = 1e-4
# Minimum depth in meters before taking the logarithm; predicted depths may be negative.
_MIN_DEPTH = 1e-3


def average_over_processes(count: Tensor, *, eps: float = 0.0, minimum: float = 0.0) -> Tensor:
    """Average a loss normalizer over all processes.

    Gradients and logged losses are averaged over processes. Dividing by the average of the normalizer therefore gives
    the same result as a single process with the complete batch. Every process must call this function in the same
    order, even without objects.

    Args:
        count: normalizer of this process, of any shape.
        eps: value added to the total, to avoid division by 0.
        minimum: lower bound of the total, applied after adding `eps`.

    Returns:
        The total divided by the number of processes, without gradient.
    """
    total, processes = count.detach().clone(), comm.get_world_size()
    if processes > 1:
        torch.distributed.all_reduce(total)
    return (total + eps).clamp(min=minimum) / processes


def focal_loss(probability: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute the penalty-reduced focal loss, alpha 2 and beta 4 (paper, equation 1).

    Args:
        probability: probabilities in (0, 1), of any shape.
        target: tensor of the same shape; exactly 1 at centers, less than 1 elsewhere.
        weight: weight of the loss of cells that are not centers, broadcastable to the same shape.

    Returns:
        The sum over all cells, divided by the number of centers (at least 1).
    """
    center = target == 1
    at_center = probability.log() * (1 - probability) ** 2
    elsewhere = (1 - probability).log() * probability**2 * (1 - target) ** 4
    if weight is not None:
        elsewhere = elsewhere * weight
    return -torch.where(center, at_center, elsewhere).sum() / average_over_processes(center.sum(), minimum=1)


def focal_loss_with_logits(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute :func:`focal_loss` of the clamped sigmoid of logits.

    The loss is computed in float32, or in float64 for float64 logits. The gradient is implemented explicitly, because
    autograd would save a dozen tensors of the size of the heatmaps.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return _FocalSum.apply(logits, target, weight) / average_over_processes((target == 1).sum(), minimum=1)


class _FocalSum(torch.autograd.Function):
    """Sum of the focal loss over all cells, as a function of logits. The gradient is computed in the forward pass.

    Let p be the clamped sigmoid and q = 1 - p. With dp = p q, the derivatives with respect to the logit are, inside the
    clamp range:

    * at centers, with the loss -q^2 log p: q^2 (2 p log p - q);
    * elsewhere, with the loss -p^2 log q (1 - t)^4: p^2 (p - 2 q log q) (1 - t)^4.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        probability = logits.sigmoid().clamp_(_PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
        center = target == 1
        # Probabilities of the right and the wrong class, so that the formula is the same for all cells except for the
        # sign.
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
    """Return the normalizer of a regression loss, averaged over all processes.

    It is the number of supervised values ("l1") or objects ("smooth_l1").

    Args:
        weight: (N, D) weights.
        loss: one of REGRESSION_LOSSES.
        slots: if not 0, use this fixed number of objects, as the reference implementation does for 3-D boxes.
    """
    if slots:
        return average_over_processes(weight.new_full((), slots * weight.shape[1]))
    return average_over_processes(weight.sum() if loss == "l1" else weight.amax(dim=1).sum(), eps=_EPSILON)


def regression_loss(prediction: Tensor, target: Tensor, weight: Tensor, loss: str = "l1", slots: int = 0) -> Tensor:
    """Compute the L1 or smooth L1 loss (paper, equations 2 and 3).

    The L1 loss is averaged over values, the smooth L1 loss over objects.

    Args:
        prediction, target: (N, D); targets with zero weight may have any value, including NaN.
        weight: (N, D) weights in 0..1.
        loss: one of REGRESSION_LOSSES.
        slots: see :func:`normalizer`.

    Returns:
        Scalar; without objects, it is 0 but still depends on the prediction.
    """
    target = _zero_unweighted(target, weight)
    function = F.l1_loss if loss == "l1" else F.smooth_l1_loss
    total = function(prediction.float() * weight, target * weight, reduction="sum")
    return total / normalizer(weight, loss, slots)


def log_depth_loss(
    prediction: Tensor, target: Tensor, weight: Tensor, image: Tensor, images: int, balance: float = 0.5
) -> Tensor:
    """Compute the scale-invariant error of log depths.

    The loss of an image is mean(d^2) - balance * mean(d)^2, with d = log y - log y'.

    Args:
        prediction, target: (N, 1) depths; targets with zero weight may have any value, including NaN.
        weight: (N, 1) weights in 0..1.
        image: (N,) index into the batch; means are computed over the objects of each image.
        images: batch size.
        balance: fraction in 0..1 of the error common to all objects of an image that is not penalized.

    Returns:
        The mean over images with objects; without objects, it is 0 but still depends on the prediction.
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
    """Compute the loss of orientations in two bins (original.md: Orientation loss).

    Each bin has a class (outside, inside) and an angle (paper, equation 6).

    Args:
        prediction: (N, 8), per bin two logits, and sine and cosine of the angle relative to the bin center.
        target: (N, 8), per bin a one-hot class instead of logits; sine and cosine are ignored outside the bin. Targets
            with zero weight may have any value, including NaN.
        weight: (N,) weights in 0..1.
        slots: if not 0, divide the cross entropy by this fixed number of objects; missing objects add ln 2 per bin, as
            in the reference implementation.

    Returns:
        The sum of the cross entropy of both bins, and the smooth L1 loss of sine and cosine averaged over the objects
        of each bin.
    """
    target = _zero_unweighted(target, weight[:, None])
    prediction, target = prediction.float().unflatten(1, (2, 4)), target.unflatten(1, (2, 4))
    logits, vector = prediction[..., :2], prediction[..., 2:]
    bins = target[..., 1]
    target_vector = _zero_unweighted(target[..., 2:], bins[..., None])
    entropy = F.cross_entropy(logits.flatten(0, 1), bins.long().flatten(), reduction="none").view_as(bins)
    entropy = (entropy * weight[:, None]).sum()
    if slots:
        count = average_over_processes(weight.new_full((), slots))
        missing = (count - average_over_processes(weight.sum())).clamp(min=0)
        entropy = (entropy + 2 * math.log(2) * missing) / count
    else:
        entropy = entropy / average_over_processes(weight.sum(), eps=_EPSILON)
    inside = bins * weight[:, None]
    difference = F.smooth_l1_loss(vector, target_vector, reduction="none").sum(dim=2)
    # No epsilon, as in the reference implementation: the loss is 0 for an empty bin, and the exact mean otherwise.
    angle = (difference * inside).sum(dim=0) / average_over_processes(inside.sum(dim=0), minimum=1)
    return entropy + angle.sum()


def _zero_unweighted(target: Tensor, weight: Tensor) -> Tensor:
    """Replace targets with zero weight by 0, because 0 * NaN is NaN."""
    return torch.where(weight > 0, target, 0)
