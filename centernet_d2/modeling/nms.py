"""NMS, soft-NMS (arXiv 1704.04503) and merging of test scales."""

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
    """Apply non-maximum suppression to the detections of one image.

    Args:
        instances: detections with ``pred_boxes``, ``scores`` and ``pred_classes``.
        mode: "class" suppresses within each class, "agnostic" across classes, "" disables NMS.
        threshold: IoU threshold.

    Returns:
        Remaining detections, by descending score.
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
    """Result of soft-NMS, in the order of selection.

    Attributes:
        index: (M,) input rows of the boxes.
        rest: (M,) input rows of all other fields; only differs from `index` in stale rows.
        scores: (M,) float32 decayed scores.
        num_valid: number of valid rows; the following rows are stale.
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
    """Decay scores of boxes that overlap higher-scoring boxes.

    Boxes are selected one by one by descending score (original.md: Soft-NMS). Each selection depends on the previous
    ones, so this runs on the CPU.

    Args:
        boxes: (N, 4) XYXY in pixels; widths and heights include the last pixel, as in the reference implementation.
        scores: (N,) scores.
        method: "gaussian" multiplies by exp(-iou² / sigma), "linear" by 1 - iou and "hard" by 0 above `iou_threshold`.
        sigma: parameter of "gaussian".
        iou_threshold: parameter of "linear" and "hard".
        score_threshold: overlapping boxes whose score falls below this are dropped.
        keep_stale: return all N rows, as the reference implementation does; rows of dropped boxes are copies of other
            rows (original.md: Soft-NMS).

    Raises:
        ValueError: if the method is unknown.
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
        best = pick + int(scores[pick:count].argmax())  # the first of equal scores
        if best > pick:
            for column in (index, rest, scores):
                column[[pick, best]] = column[[best, pick]]
        later = slice(pick + 1, count)
        picked, others = int(index[pick]), index[later]
        decayed = scores[later] * factors[picked][others]
        dropped = overlaps[picked][others] & (decayed < score_threshold)
        if dropped.any():
            count = _drop(index, rest, scores, decayed.tolist(), dropped.tolist(), pick + 1)
        else:
            scores[later] = decayed
    kept = slice(None) if keep_stale else slice(count)
    return SoftNMS(index[kept], rest[kept], scores[kept], count)


def _pixel_iou(boxes: Tensor) -> Tensor:
    """Compute the (N, N) pairwise IoU of (N, 4) boxes that include their last pixel."""
    corner = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    sides = (torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corner + 1).clamp(min=0)
    shared = sides.prod(dim=2)
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(dim=1)
    return torch.where(shared > 0, shared / (areas[:, None] + areas - shared), 0.0)


def _decay(iou: Tensor, method: str, sigma: float, iou_threshold: float) -> Tensor:
    """Return the decay factors of scores, 1 for boxes that do not overlap."""
    if method == "gaussian":
        return torch.exp(-(iou * iou) / sigma)
    return torch.where(iou > iou_threshold, 1 - iou if method == "linear" else 0.0, 1.0)


def _drop(index: Tensor, rest: Tensor, scores: Tensor, decayed: list[float], dropped: list[bool], first: int) -> int:
    """Update scores and drop rows in the order of the reference implementation.

    The last row replaces a dropped row and is processed next.

    Args:
        index, rest, scores: columns of the rows, modified in place.
        decayed: new scores of the rows, starting with row `first`.
        dropped: True for rows to drop, starting with row `first`.
        first: index of the first row to process.

    Returns:
        Number of remaining rows; the following rows are stale.
    """
    slot, count = first, first + len(dropped)
    while slot < count:
        scores[slot] = decayed[slot - first]
        if not dropped[slot - first]:
            slot += 1
            continue
        last = count - 1
        index[slot], scores[slot] = index[last].clone(), scores[last].clone()
        # The reference implementation copies box and score, but swaps the other columns.
        rest[[slot, last]] = rest[[last, slot]]
        decayed[slot - first], dropped[slot - first] = decayed[last - first], dropped[last - first]
        count = last
    return count


def best_with_ties(scores: Tensor, limit: int | None) -> Tensor:
    """Return (N,) bool, True for the `limit` best scores and ties with the last one.

    None keeps all scores (original.md: Merging scales).
    """
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
    """Merge detections of one image at several scales (original.md: Merging scales).

    With more than one scale, soft-NMS is applied to each class before the best detections are kept.

    Args:
        detections: detections of each scale, in pixels of the original image, with ``pred_boxes``, ``scores`` and
            ``pred_classes``.
        limit: number of detections to keep, more in case of ties; None keeps all.
        method, keep_stale: see :func:`soft_nms`.

    Returns:
        Detections, grouped by class in ascending order.
    """
    combined = Instances.cat(list(detections))
    classes = combined.pred_classes.cpu()
    merged = []
    for category in classes.unique().tolist():
        rows = torch.nonzero(classes == category)[:, 0]
        group = combined[rows.to(combined.scores.device)]
        if len(detections) > 1:
            kept = soft_nms(group.pred_boxes.tensor, group.scores, method=method, keep_stale=keep_stale)
            group = _select(group, kept)
        merged.append(group)
    merged = Instances.cat(merged) if merged else combined
    return merged[best_with_ties(merged.scores, limit)]


def _select(detections: Instances, kept: SoftNMS) -> Instances:
    """Return the detections kept by soft-NMS, with decayed scores."""
    device = detections.scores.device
    result = detections[kept.rest.to(device)]
    result.pred_boxes = detections.pred_boxes[kept.index.to(device)]
    result.scores = kept.scores.to(detections.scores)
    return result
