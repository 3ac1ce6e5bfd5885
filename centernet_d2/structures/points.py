"""Objects as points: the annotated objects of a batch, the peaks found in one, and what maps should say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor

__all__ = ["HALF_PIXEL", "DenseTarget", "Peaks", "Points", "SparseTarget", "known_objects", "optional_field"]

# Detectron2 shifts keypoints by half a pixel when it reads and writes them; here, pixel centers are at integers.
HALF_PIXEL = 0.5


@dataclass
class DenseTarget:
    """What a map should say everywhere.

    Attributes:
        value: (B, C, H, W) wanted values.
        weight: in 0..1, broadcastable to the same shape; 0 where nothing is known. None: all is known.
    """

    value: Tensor
    weight: Tensor | None = None


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
        unlabelled: per image the names of the properties that its data set does not label.
        labelled_classes: (B, C) bool, the classes that the data set of each image labels; None: all of them.
        reach: the radius on the CPU, wherever the rest is; None: it would have to be asked of another device.
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
    unlabelled: Sequence[Collection[str]] = ()
    labelled_classes: Tensor | None = None
    reach: Tensor | None = None

    def to(self, device: torch.device) -> Points:
        """The same on a device; the reach stays on the CPU."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name != "reach"
        }
        return replace(self, **moved)

    def labelled(self, name: str) -> Tensor | None:
        """(B, 1, 1, 1) bool: whether the data set of each image labels a property; None if all do."""
        if not any(name in names for names in self.unlabelled):
            return None
        known = [name not in names for names in self.unlabelled]
        return torch.tensor(known).to(self.boxes.device, non_blocking=True)[:, None, None, None]

    def target(self, value: Tensor, weight: Tensor | None = None) -> SparseTarget:
        """A target at the objects' cells: (N, D) values, with the objects' weight unless (N, D) `weight` is given."""
        weight = self.weight[:, None].expand_as(value) if weight is None else weight
        return SparseTarget(self.image, self.cells, value, weight)


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
