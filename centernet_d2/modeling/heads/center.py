"""Center head: heatmap of object centers and their sub-cell offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.data.transforms import Transform
from detectron2.structures import Instances
from torch import Tensor

from ...config.registry import POINT_HEAD_REGISTRY
from ...imaging.geometry import Geometry
from ...structures.points import DenseTarget, Peaks, Points, SparseTarget
from ...structures.types import DatasetDict, Fields, Maps, Targets
from ...utils.validation import check_choice
from ..heatmap import gaussian_profiles, paint_gaussians, paint_max
from ..losses import REGRESSION_LOSSES, focal_loss_with_logits, regression_loss
from .point_head import PointHead, Property, unflip_vectors

__all__ = ["CenterHead", "CenterProperty", "render_centers"]

# Target value with zero loss that is not a center (original.md: Regions to ignore, Rotation).
ALMOST_CENTER = 0.9999

IGNORE_POLICIES = ("mask", "center", "box")


def render_centers(points: Points, num_classes: int) -> Tensor:
    """Render the center heatmap of a batch (original.md: Gaussian).

    Each object is a Gaussian on the plane of its class.

    Returns:
        (B, C, H, W) float32, exactly 1 at the cells of the objects.
    """
    batch, height, width = points.map_size
    # Negative classes only occur in regions to ignore, which are not painted.
    planes = points.image * num_classes + points.classes.clamp(min=0)
    canvas = points.boxes.new_zeros(batch * num_classes, height, width)
    paint_gaussians(canvas, planes, points.cells, points.radius, points.valid & ~points.ignore, points.radius_cpu)
    return canvas.unflatten(0, (batch, num_classes))


def render_ignored(points: Points, num_classes: int) -> Tensor:
    """Render a mask of the regions to ignore on the planes of their classes.

    Returns:
        (B, C, H, W) float32, 1 inside the boxes and 0 outside.
    """
    low, high = points.boxes[:, :2].floor(), points.boxes[:, 2:].ceil()
    return _paint(points, num_classes, points.valid & points.ignore, *_rectangles(points, low, high))


def render_with_ignored(points: Points, num_classes: int, policy: str) -> Tensor:
    """Render the center heatmap of the reference implementation for 3-D boxes.

    A region to ignore sets cells to 0.9999, which has zero loss, and overwrites peaks of earlier objects there. Peaks
    of later objects overwrite the region (original.md: Regions to ignore). One difference is that the reference
    implementation keeps values of later Gaussians above 0.9999 next to their peaks. This requires a box of 776 cells
    and changes the loss by 1e-16.

    Args:
        points: annotated objects of a batch.
        num_classes: number of planes.
        policy: "center" paints the Gaussian of a region and sets its center cell; "box" sets all cells of its box
            between the truncated corners, inclusively, and paints no Gaussian.

    Returns:
        (B, C, H, W) float32.
    """
    height, width = points.map_size[1:]
    rows, columns = gaussian_profiles(points.cells, points.radius, (height, width))
    painted = points.valid if policy == "center" else points.valid & ~points.ignore
    heatmap = _paint(points, num_classes, painted, rows, columns)
    if policy == "center":
        support = _rectangles(points, points.cells, points.cells)
    else:
        support = _rectangles(points, points.boxes[:, :2].floor(), points.boxes[:, 2:].floor())
    # Index + 1 of the last region that sets each cell, or 0.
    order = torch.arange(1, len(points.classes) + 1, device=points.boxes.device, dtype=torch.float32)
    last = _paint(points, num_classes, points.valid & points.ignore, support[0] * order[:, None], support[1])
    heatmap = torch.where(last > 0, ALMOST_CENTER, heatmap)
    index = (points.image, points.classes.clamp(min=0), points.cells[:, 1], points.cells[:, 0])
    wins = points.valid & ~points.ignore & (order > last[index])
    # Objects may share a cell; "amax" ignores the zeros of objects that a region overwrites.
    flat = ((index[0] * num_classes + index[1]) * height + index[2]) * width + index[3]
    return heatmap.flatten().scatter_reduce(0, flat, wins.float(), "amax").view_as(heatmap)


def _rectangles(points: Points, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N, H) and (N, W) profiles of rectangles, 1 inside and 0 outside.

    `low` and `high` are (N, 2) inclusive corner cells (x, y).
    """

    def inside(axis: int, length: int) -> Tensor:
        cells = torch.arange(length, device=low.device)
        return ((cells >= low[:, axis, None]) & (cells <= high[:, axis, None])).float()

    return inside(1, points.map_size[1]), inside(0, points.map_size[2])


def _paint(points: Points, num_classes: int, mask: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    batch, height, width = points.map_size
    # Regions of all classes are painted once, on a separate plane.
    planes = torch.where(points.classes < 0, num_classes, points.classes)
    canvas = points.boxes.new_zeros(batch * (num_classes + 1), height, width)
    paint_max(canvas, points.image * (num_classes + 1) + planes, rows * mask[:, None], columns)
    canvas = canvas.unflatten(0, (batch, num_classes + 1))
    heatmap = canvas[:, :-1]
    # In place, because these are the largest target tensors.
    return torch.maximum(heatmap, canvas[:, -1:], out=heatmap)


class CenterProperty(Property):
    """Centers, scores and classes.

    Boxes are not rotated with the image, so the centers of rotated images are unknown.
    """

    name = "center"
    fields = ("scores", "pred_classes")

    def annotate(self, record: DatasetDict, transforms: Sequence[Transform], size: tuple[int, int]) -> dict[str, Any]:
        """Mark objects of rotated images as unsupervised (original.md: Rotation).

        Returns:
            ``gt_blind`` True and ``gt_weight`` 0 for a rotated image; otherwise nothing.
        """
        if not any(getattr(transform, "rotates", False) for transform in transforms):
            return {}
        count = len(record["annotations"])
        return {"gt_blind": torch.ones(count, dtype=torch.bool), "gt_weight": torch.zeros(count)}

    def to_json(self, instances: Instances) -> list[dict[str, Any]]:
        """Return ``category_id``, the zero-based class index, and ``score``."""
        pairs = zip(instances.pred_classes.tolist(), instances.scores.tolist(), strict=True)
        return [{"category_id": category, "score": score} for category, score in pairs]


@POINT_HEAD_REGISTRY.register()
class CenterHead(PointHead):
    """Head that detects object centers (paper, section 3).

    It predicts class heatmaps and sub-cell offsets. The heatmap is not supervised in images with ``gt_blind``, whose
    centers are unknown, for example because the image was rotated without its boxes.
    """

    property_type = CenterProperty
    original_names = {"heatmap": "hm", "offset": "reg"}
    keys = {
        "num_classes": "MODEL.CENTERNET.NUM_CLASSES",
        "offset": "MODEL.CENTERNET.OFFSET",
        "offset_loss": "MODEL.CENTERNET.OFFSET_LOSS",
        "heatmap_weight": "MODEL.CENTERNET.HEATMAP_WEIGHT",
        "offset_weight": "MODEL.CENTERNET.OFFSET_WEIGHT",
        "average_offsets": "MODEL.CENTERNET.QUIRKS.AVERAGE_OFFSETS",
        "ignore_regions": "MODEL.CENTERNET.QUIRKS.IGNORE_REGIONS",
        "loss_slots": "MODEL.CENTERNET.QUIRKS.LOSS_SLOTS",
    }
    heatmaps = ("heatmap",)
    provides = ("scores", "classes", "centers")

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        offset: bool = True,
        offset_loss: str = "l1",
        heatmap_weight: float = 1.0,
        offset_weight: float = 1.0,
        average_offsets: bool = False,
        ignore_regions: str = "mask",
        loss_slots: int = 0,
        **common: Any,
    ) -> None:
        """
        Args:
            num_classes: number of channels of the heatmap.
            offset: predict sub-cell offsets; otherwise, object centers are at cell centers.
            offset_loss: "l1" or "smooth_l1".
            heatmap_weight, offset_weight: weights of the losses.
            average_offsets: average offsets in flip testing too. The reference implementation does not.
            ignore_regions: "mask" excludes boxes with ``gt_ignore`` from the heatmap loss; "center" and "box" modify
                the heatmap as the reference implementation does for 3-D boxes, see :func:`render_with_ignored`.
            loss_slots: if positive, divide the offset loss by this fixed number of objects per image instead of the
                actual number.
            common: see :class:`PointHead`.

        Raises:
            ValueError: if `offset_loss` or `ignore_regions` is unknown.
        """
        check_choice("offset_loss", offset_loss, REGRESSION_LOSSES)
        check_choice("ignore_regions", ignore_regions, IGNORE_POLICIES)
        super().__init__({"heatmap": num_classes, **({"offset": 2} if offset else {})}, **common)
        self.num_classes = num_classes
        self.offset_loss = offset_loss
        self.heatmap_weight = heatmap_weight
        self.offset_weight = offset_weight
        self.average_offsets = average_offsets
        self.ignore_regions = ignore_regions
        self.loss_slots = loss_slots

    def targets(self, gt: Sequence[Instances], points: Points) -> Targets:
        """Build the targets, see :meth:`PointHead.targets`.

        The heatmap has zero weight in regions to ignore and for unlabeled classes.
        """
        heatmap = DenseTarget(self._heatmap(gt, points), self._heatmap_weight(gt, points))
        targets: dict[str, DenseTarget | SparseTarget] = {"heatmap": heatmap}
        if "offset" in self.maps:
            targets["offset"] = points.target(points.centers - points.cells)
        return targets

    def _heatmap(self, gt: Sequence[Instances], points: Points) -> Tensor:
        if self.ignore_regions != "mask" and any(instances.has("gt_ignore") for instances in gt):
            heatmap = render_with_ignored(points, self.num_classes, self.ignore_regions)
        else:
            heatmap = render_centers(points, self.num_classes)
        if not any(instances.has("gt_blind") for instances in gt):
            return heatmap
        default = points.valid.new_zeros(())
        blind = torch.stack([x.gt_blind.any() if x.has("gt_blind") else default for x in gt])
        return heatmap.masked_fill(blind[:, None, None, None], ALMOST_CENTER)

    def _heatmap_weight(self, gt: Sequence[Instances], points: Points) -> Tensor | None:
        weight = None
        if self.ignore_regions == "mask" and any(instances.has("gt_ignore") for instances in gt):
            weight = 1 - render_ignored(points, self.num_classes)
        if points.labeled_classes is not None:
            labeled = points.labeled_classes[:, :, None, None].float()
            weight = labeled if weight is None else weight * labeled
        return weight

    def losses(self, maps: Maps, targets: Targets) -> dict[str, Tensor]:
        target = targets["heatmap"]
        heatmap = focal_loss_with_logits(maps["heatmap"], target.value, target.weight)
        losses = {"loss_heatmap": self.heatmap_weight * heatmap}
        if "offset" in self.maps:
            target = targets["offset"]
            slots = self.loss_slots * len(maps["offset"])
            predicted = target.gather(maps["offset"])
            offset = regression_loss(predicted, target.value, target.weight, self.offset_loss, slots)
            losses["loss_offset"] = self.offset_weight * offset
        return losses

    def unflip(self, maps: Maps) -> dict[str, Tensor | None]:
        """Invert a horizontal flip (original.md: Flip test).

        The offset is None unless `average_offsets` is set.
        """
        unflipped: dict[str, Tensor | None] = {"heatmap": maps["heatmap"].flip(-1)}
        if "offset" in self.maps:
            shift = (self.stride - 1) / self.stride
            unflipped["offset"] = unflip_vectors(maps["offset"], shift) if self.average_offsets else None
        return unflipped

    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """Return (B, K) scores and classes, and (B, K, 2) centers."""
        offset = peaks.gather(maps["offset"]) if "offset" in self.maps else 0.5
        return {"scores": peaks.scores, "classes": peaks.classes, "centers": peaks.cells + offset}

    def to_image(self, fields: Fields, geometry: Geometry) -> Fields:
        return {"scores": fields["scores"], "pred_classes": fields["classes"]}
