"""Optional non-maximum suppression: NMS, soft-NMS (arXiv 1704.04503) and the merging of test scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import batched_nms, nms

from ..utils.validation import check_choice

__all__ = ["NMS_MODES", "SOFT_NMS_METHODS", "best_with_ties", "merge_scales", "soft_nms", "suppress"]

NMS_MODES = ("", "class", "agnostic")


def suppress(instances: Instances, mode: str, threshold: float) -> Instances:
    """Drop detections whose box overlaps that of a better one.

    Args:
        instances: one image's, with ``pred_boxes``, ``scores`` and ``pred_classes``.
        mode: "class" compares within a class, "agnostic" across classes, "" drops nothing.
        threshold: intersection over union above which a box goes.

    Returns:
        What is left, best first.
    """
    if not mode:
        return instances
    boxes = instances.pred_boxes.tensor.float()
    if mode == "class":
        return instances[batched_nms(boxes, instances.scores, instances.pred_classes, threshold)]
    return instances[nms(boxes, instances.scores, threshold)]


SOFT_NMS_METHODS = ("gaussian", "linear", "hard")


@dataclass(frozen=True)
class SoftNMS:
    """What soft-NMS leaves, in the order in which it was picked.

    Attributes:
        index: (M,) rows of the input from which boxes come.
        rest: (M,) rows of the input from which everything else comes; differs from `index` in stale rows only.
        scores: (M,) float32 lowered scores.
        num_valid: how many rows count; what follows them is stale.
    """

    index: Tensor
    rest: Tensor
    scores: Tensor
    num_valid: int


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    method: str = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.001,
    keep_stale: bool = False,
) -> SoftNMS:
    """Lower the scores of boxes that overlap better ones, one pick after the other (original.md: Soft-NMS).

    Runs on the CPU: every pick depends on the one before.

    Args:
        boxes: (N, 4) XYXY in pixels; sides and overlaps count the last pixel, as in the original.
        scores: (N,).
        method: "gaussian" multiplies by exp(-iou² / sigma), "linear" by 1 - iou and "hard" by 0 above `iou_threshold`.
        sigma: for "gaussian".
        iou_threshold: for "linear" and "hard".
        score_threshold: an overlapping row that falls below is dropped.
        keep_stale: the original lets its callers see the slots of dropped rows too, which hold copies of other rows
            (original.md: Soft-NMS); True returns all N slots with the same content.

    Raises:
        ValueError: unknown method.
    """
    check_choice("method", method, SOFT_NMS_METHODS)
    boxes, scores = boxes.detach().cpu().float(), scores.detach().cpu().float().clone()
    index = torch.arange(len(boxes))
    rest = index.clone()
    count = len(boxes)
    iou = _pixel_iou(boxes)
    factors, overlaps = _decay(iou, method, sigma, iou_threshold), iou > 0
    for pick in range(len(boxes)):
        if pick >= count:
            break
        best = pick + int(scores[pick:count].argmax())  # the first of equal ones
        if best > pick:
            for column in (index, rest, scores):
                column[[pick, best]] = column[[best, pick]]
        later = slice(pick + 1, count)
        own, others = int(index[pick]), index[later]
        lowered = scores[later] * factors[own][others]
        dropped = overlaps[own][others] & (lowered < score_threshold)
        if dropped.any():
            count = _drop(index, rest, scores, lowered.tolist(), dropped.tolist(), pick + 1)
        else:
            scores[later] = lowered
    left = slice(None) if keep_stale else slice(count)
    return SoftNMS(index[left], rest[left], scores[left], count)


def _pixel_iou(boxes: Tensor) -> Tensor:
    """(N, N) intersection over union of all pairs of (N, 4) boxes, where a box of one pixel has the sides 1."""
    corner = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    sides = (torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corner + 1).clamp(min=0)
    shared = sides.prod(dim=2)
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(dim=1)
    return torch.where(shared > 0, shared / (areas[:, None] + areas - shared), 0.0)


def _decay(iou: Tensor, method: str, sigma: float, iou_threshold: float) -> Tensor:
    """The factors of the scores; 1 where nothing overlaps."""
    if method == "gaussian":
        return torch.exp(-(iou * iou) / sigma)
    return torch.where(iou > iou_threshold, 1 - iou if method == "linear" else 0.0, 1.0)


def _drop(index: Tensor, rest: Tensor, scores: Tensor, lowered: list[float], dropped: list[bool], first: int) -> int:
    """Lower scores and drop rows as the original does: the last row moves into the gap and is looked at there.

    Args:
        index, rest, scores: the slots, changed in place.
        lowered: new scores of the rows from slot `first` on.
        dropped: which of them go.
        first: first slot that is looked at.

    Returns:
        Number of slots that are left; slots behind them keep what they held when their row was moved.
    """
    slot, count = first, first + len(dropped)
    while slot < count:
        scores[slot] = lowered[slot - first]
        if not dropped[slot - first]:
            slot += 1
            continue
        last = count - 1
        index[slot], scores[slot] = index[last].clone(), scores[last].clone()
        # The original swaps what belongs to a row beyond box and score, where it copies those.
        rest[[slot, last]] = rest[[last, slot]]
        lowered[slot - first], dropped[slot - first] = lowered[last - first], dropped[last - first]
        count = last
    return count


def best_with_ties(scores: Tensor, limit: int | None) -> Tensor:
    """(N,) bool: the `limit` best scores and those equal to the last (original.md: Merging scales); None keeps all."""
    if limit is None or len(scores) <= limit:
        return torch.ones_like(scores, dtype=torch.bool)
    return scores >= scores.topk(limit).values[-1]


def merge_scales(
    detections: Sequence[Instances],
    *,
    limit: int | None,
    method: str = "gaussian",
    keep_stale: bool = False,
) -> Instances:
    """One image's detections at several test scales as one (original.md: Merging scales).

    With more than one scale, soft-NMS runs class by class; then the best are kept.

    Args:
        detections: per scale, in pixels of the original image, with ``pred_boxes``, ``scores``, ``pred_classes``.
        limit: how many detections to keep, more if their scores are equal; None keeps all.
        method, keep_stale: see :func:`soft_nms`.

    Returns:
        Detections grouped by class, in ascending order.
    """
    together = Instances.cat(list(detections))
    classes = together.pred_classes.cpu()
    merged = []
    for category in classes.unique().tolist():
        rows = torch.nonzero(classes == category)[:, 0]
        own = together[rows.to(together.scores.device)]
        if len(detections) > 1:
            own = _suppress(own, soft_nms(own.pred_boxes.tensor, own.scores, method=method, keep_stale=keep_stale))
        merged.append(own)
    merged = Instances.cat(merged) if merged else together
    return merged[best_with_ties(merged.scores, limit)]


def _suppress(detections: Instances, kept: SoftNMS) -> Instances:
    """The detections that soft-NMS left, with their lowered scores."""
    device = detections.scores.device
    result = detections[kept.rest.to(device)]
    result.pred_boxes = detections.pred_boxes[kept.index.to(device)]
    result.scores = kept.scores.to(detections.scores)
    return result
