"""Conversion of annotated objects to points on the maps."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..structures.points import Points, optional_field
from .heatmap import gaussian_radius

__all__ = ["build_points"]


def build_points(
    gt: Sequence[Instances],
    map_size: Sequence[int],
    stride: int,
    *,
    radius_policy: str = "original",
    round_up: bool = True,
    unlabeled: Sequence[Collection[str]] = (),
    labeled_classes: Tensor | None = None,
) -> Points:
    """Convert annotated objects to points (original.md: Boxes on the map).

    Objects that are completely outside the map are marked as invalid, not removed, because removing them would require
    synchronization with the device.

    Args:
        gt: ground truth of each image, with ``gt_boxes`` (input pixels) and ``gt_classes``, and optionally
            ``gt_ignore`` (bool) and ``gt_weight`` (weight of the regression losses, default 1). Not modified.
        map_size: height and width of the maps.
        stride: output stride, in input pixels per map pixel.
        radius_policy: see :func:`gaussian_radius`.
        round_up: round box sizes up to integers before computing radii. The reference implementation does not round
            for 3-D boxes (original.md: Radius).
        unlabeled, labeled_classes: description of partially labeled datasets, see :class:`Points`.
    """
    height, width = map_size
    boxes = Boxes.cat([instances.gt_boxes for instances in gt]).tensor.float() / stride
    limit = boxes.new_tensor([width - 1, height - 1, width - 1, height - 1])
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    size = boxes[:, 2:] - boxes[:, :2]
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    extent = size.ceil() if round_up else size
    valid = (size > 0).all(dim=1)
    ignore = optional_field(gt, "gt_ignore", valid.new_zeros(()))
    radius = gaussian_radius(extent[:, 1], extent[:, 0], policy=radius_policy).clamp(min=0).long()
    lengths = torch.tensor([len(instances) for instances in gt])
    return Points(
        image=torch.arange(len(gt)).repeat_interleave(lengths).to(boxes.device, non_blocking=True),
        classes=torch.cat([instances.gt_classes for instances in gt]),
        boxes=boxes,
        centers=centers,
        cells=centers.long(),
        radius=radius,
        valid=valid,
        weight=optional_field(gt, "gt_weight", boxes.new_ones(())) * (valid & ~ignore),
        ignore=ignore,
        map_size=(len(gt), height, width),
        stride=stride,
        unlabeled=unlabeled,
        labeled_classes=labeled_classes,
        radius_cpu=radius if radius.device.type == "cpu" else None,
    )
