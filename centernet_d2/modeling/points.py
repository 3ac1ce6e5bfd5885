"""Objects as points: the annotated objects of a batch, the peaks found in one, and values at cells of a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .heatmap import gaussian_radius

__all__ = ["Peaks", "Points", "SparseTarget", "build_points", "known_objects", "optional_field"]


@dataclass
class SparseTarget:
    """What a map should say at some of its cells.

    Attributes:
        image: (N,) index into the batch.
        cells: (N, 2) integer (x, y).
        value: (N, D) wanted values.
        weight: (N, D) in 0..1; 0 where nothing is known.
    """

    image: Tensor
    cells: Tensor
    value: Tensor
    weight: Tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """(N, D) values of a (B, D, H, W) map at the cells."""
        return tensor[self.image, :, self.cells[:, 1], self.cells[:, 0]]


@dataclass
class Points:
    """All annotated objects of a batch, in annotation order, in map pixels.

    Attributes:
        image: (N,) index into the batch.
        classes: (N,); negative for regions that are ignored for all classes.
        boxes: (N, 4) XYXY, clipped to the map.
        centers: (N, 2) centers of the clipped boxes.
        cells: (N, 2) centers truncated to integers.
        radius: (N,) integer radius of the Gaussian.
        valid: (N,) False where nothing of the box is left on the map.
        weight: (N,) supervision of everything but the heatmap.
        ignore: (N,) True for regions about which nothing is known, such as crowds.
        map_size: batch size, height and width of the maps.
        stride: input pixels per map pixel.
    """

    image: Tensor
    classes: Tensor
    boxes: Tensor
    centers: Tensor
    cells: Tensor
    radius: Tensor
    valid: Tensor
    weight: Tensor
    ignore: Tensor
    map_size: tuple[int, int, int]
    stride: int

    def target(self, value: Tensor, weight: Tensor | None = None) -> SparseTarget:
        """A target at the objects' cells: (N, D) values, with the objects' weight unless (N, D) `weight` is given."""
        weight = self.weight[:, None].expand_as(value) if weight is None else weight
        return SparseTarget(self.image, self.cells, value, weight)


def build_points(
    gt: Sequence[Instances],
    map_size: tuple[int, int],
    stride: int,
    *,
    radius_policy: str = "original",
    round_up: bool = True,
) -> Points:
    """Flatten the annotated objects of a batch (SPEC 6.3).

    Objects of which nothing is left on the map stay, marked invalid: leaving them out would need the number of the
    others, which only a synchronisation with the device can tell.

    Args:
        gt: per image ``gt_boxes`` (input pixels) and ``gt_classes``; optionally ``gt_ignore`` (bool) and
            ``gt_weight`` (supervision of the regressions, default 1). Not modified.
        map_size: height and width of the maps.
        stride: input pixels per map pixel.
        radius_policy: see :func:`gaussian_radius`.
        round_up: round the sizes of boxes up to whole cells before their radius is taken; not done for 3-D boxes in
            the original (SPEC 6.1).
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
    lengths = torch.tensor([len(instances) for instances in gt])
    return Points(
        image=torch.arange(len(gt)).repeat_interleave(lengths).to(boxes.device, non_blocking=True),
        classes=torch.cat([instances.gt_classes for instances in gt]),
        boxes=boxes,
        centers=centers,
        cells=centers.long(),
        radius=gaussian_radius(*extent.flip(1).unbind(1), policy=radius_policy).clamp(min=0).long(),
        valid=valid,
        weight=optional_field(gt, "gt_weight", boxes.new_ones(())) * (valid & ~ignore),
        ignore=ignore,
        map_size=(len(gt), height, width),
        stride=stride,
    )


def optional_field(gt: Sequence[Instances], name: str, default: Tensor) -> Tensor:
    """An optional (n,) field of all objects; `default` (a scalar) for images that do not have it."""
    return torch.cat([x.get(name) if x.has(name) else default.expand(len(x)) for x in gt])


def known_objects(gt: Instances) -> Instances:
    """The objects of one image without the regions to ignore (``gt_ignore``)."""
    return gt[~gt.gt_ignore] if gt.has("gt_ignore") else gt


@dataclass
class Peaks:
    """The points found in a batch: the K best peaks of the center heatmap of each image.

    Attributes:
        scores: (B, K) in descending order.
        classes: (B, K).
        cells: (B, K, 2) integer (x, y).
    """

    scores: Tensor
    classes: Tensor
    cells: Tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """(B, K, D) values of a (B, D, H, W) map at the peaks."""
        index = self.cells[..., 1] * tensor.shape[3] + self.cells[..., 0]
        index = index[:, None, :].expand(-1, tensor.shape[1], -1)
        return tensor.flatten(2).gather(2, index).transpose(1, 2)
