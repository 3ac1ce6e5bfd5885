"""Annotated objects and detected peaks as points, and targets of maps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor

__all__ = ["HALF_PIXEL", "DenseTarget", "Peaks", "Points", "SparseTarget", "known_objects", "optional_field"]

# Detectron2 adds half a pixel to keypoints. In this project, pixel centers are at integers.
HALF_PIXEL = 0.5


@dataclass
class DenseTarget:
    """Target of a map at all cells.

    Attributes:
        value: (B, C, H, W) target values.
        weight: loss weights in 0..1, broadcastable to the same shape; None for 1 everywhere.
    """

    value: Tensor
    weight: Tensor | None = None


@dataclass
class SparseTarget:
    """Target of a map at selected cells.

    Attributes:
        image: (N,) index into the batch.
        cells: (N, 2) integer (x, y).
        value: (N, D) target values.
        weight: (N, D) loss weights in 0..1.
    """

    image: Tensor
    cells: Tensor
    value: Tensor
    weight: Tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Gather (N, D) values of a (B, D, H, W) map at the cells."""
        return tensor[self.image, :, self.cells[:, 1], self.cells[:, 0]]


@dataclass
class Points:
    """All annotated objects of a batch, in annotation order, in map pixels.

    Attributes:
        image: (N,) index into the batch.
        classes: (N,) class indices; negative for regions that are ignored for all classes.
        boxes: (N, 4) XYXY, clipped to the map.
        centers: (N, 2) centers of the clipped boxes.
        cells: (N, 2) centers truncated to integers.
        radius: (N,) integer radius of the Gaussian.
        valid: (N,) False for boxes completely outside the map.
        weight: (N,) loss weight of everything except the heatmap.
        ignore: (N,) True for regions to ignore, such as crowds.
        map_size: batch size, height and width of the maps.
        stride: input pixels per map pixel.
        unlabeled: for each image, names of the properties that its dataset does not label.
        labeled_classes: (B, C) bool, classes that the dataset of each image labels; None if all are labeled.
        radius_cpu: copy of the radius on the CPU, which avoids synchronization; None if it is only on another device.
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
    unlabeled: Sequence[Collection[str]] = ()
    labeled_classes: Tensor | None = None
    radius_cpu: Tensor | None = None

    def to(self, device: torch.device) -> Points:
        """Move all tensors except `radius_cpu` to a device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name != "radius_cpu"
        }
        return replace(self, **moved)

    def labeled(self, name: str) -> Tensor | None:
        """Return (B, 1, 1, 1) bool, True for images whose dataset labels a property.

        Return None if all datasets label it.
        """
        if not any(name in names for names in self.unlabeled):
            return None
        known = [name not in names for names in self.unlabeled]
        return torch.tensor(known).to(self.boxes.device, non_blocking=True)[:, None, None, None]

    def target(self, value: Tensor, weight: Tensor | None = None) -> SparseTarget:
        """Build a target at the cells of the objects.

        Args:
            value: (N, D) target values.
            weight: (N, D) loss weights; by default, the weight of the objects.
        """
        weight = self.weight[:, None].expand_as(value) if weight is None else weight
        return SparseTarget(self.image, self.cells, value, weight)


def optional_field(gt: Sequence[Instances], name: str, default: Tensor) -> Tensor:
    """Concatenate an optional field over images.

    Args:
        gt: ground truth of each image.
        name: name of a field with one value per object.
        default: scalar value for images without the field.
    """
    return torch.cat([x.get(name) if x.has(name) else default.expand(len(x)) for x in gt])


def known_objects(gt: Instances) -> Instances:
    """Return the objects of one image without regions to ignore (``gt_ignore``)."""
    return gt[~gt.gt_ignore] if gt.has("gt_ignore") else gt


@dataclass
class Peaks:
    """K best peaks of the center heatmap of each image of a batch.

    Attributes:
        scores: (B, K) scores in descending order.
        classes: (B, K) class indices.
        cells: (B, K, 2) integer (x, y).
    """

    scores: Tensor
    classes: Tensor
    cells: Tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Gather (B, K, D) values of a (B, D, H, W) map at the peaks."""
        index = self.cells[..., 1] * tensor.shape[3] + self.cells[..., 0]
        index = index[:, None, :].expand(-1, tensor.shape[1], -1)
        return tensor.flatten(2).gather(2, index).transpose(1, 2)
