"""The points themselves: a heatmap of object centers and the part of a center that its cell does not tell."""

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

# A target that makes a cell cost nothing without being a center (original.md: Regions to ignore, Rotation).
ALMOST_CENTER = 0.9999

IGNORE_POLICIES = ("mask", "center", "box")


def render_centers(points: Points, num_classes: int) -> Tensor:
    """The center heatmap of a batch: a Gaussian per object on the plane of its class (original.md: Gaussian).

    Returns:
        (B, C, H, W) float32, exactly 1 at the cells of the objects.
    """
    batch, height, width = points.map_size
    # Only regions to ignore belong to all classes, and they are not drawn.
    planes = points.image * num_classes + points.classes.clamp(min=0)
    canvas = points.boxes.new_zeros(batch * num_classes, height, width)
    paint_gaussians(canvas, planes, points.cells, points.radius, points.valid & ~points.ignore, points.reach)
    return canvas.unflatten(0, (batch, num_classes))


def render_ignored(points: Points, num_classes: int) -> Tensor:
    """1 inside the boxes of the regions to ignore, on the planes of their classes, else 0: (B, C, H, W) float32."""
    low, high = points.boxes[:, :2].floor(), points.boxes[:, 2:].ceil()
    return _paint(points, num_classes, points.valid & points.ignore, *_rectangles(points, low, high))


def render_with_ignored(points: Points, num_classes: int, policy: str) -> Tensor:
    """The center heatmap of the original for 3-D boxes, with its regions to ignore (original.md: Regions to ignore).

    A region sets cells to 0.9999, which cost nothing, and overwrites the peaks of earlier objects there; the peak of a
    later object wins. (Where a later Gaussian is above 0.9999 beside its peak, which takes a box of 776 cells, the
    original keeps that value; its loss differs by 1e-16.)

    Args:
        points: the objects.
        num_classes: planes.
        policy: "center" draws the Gaussian of the region and sets its center cell; "box" sets the cells of its whole
            box, inclusive truncated corners, and draws nothing.

    Returns:
        (B, C, H, W) float32.
    """
    height, width = points.map_size[1:]
    rows, columns = gaussian_profiles(points.cells, points.radius, (height, width))
    drawn = points.valid if policy == "center" else points.valid & ~points.ignore
    heatmap = _paint(points, num_classes, drawn, rows, columns)
    if policy == "center":
        support = _rectangles(points, points.cells, points.cells)
    else:
        support = _rectangles(points, points.boxes[:, :2].floor(), points.boxes[:, 2:].floor())
    # For every cell the last region that sets it, counted from 1; 0 is none.
    order = torch.arange(1, len(points.classes) + 1, device=points.boxes.device, dtype=torch.float32)
    last = _paint(points, num_classes, points.valid & points.ignore, support[0] * order[:, None], support[1])
    heatmap = torch.where(last > 0, ALMOST_CENTER, heatmap)
    place = (points.image, points.classes.clamp(min=0), points.cells[:, 1], points.cells[:, 0])
    wins = points.valid & ~points.ignore & (order > last[place])
    # Several objects may share a cell: the largest value stays, so those that do not win change nothing.
    flat = ((place[0] * num_classes + place[1]) * height + place[2]) * width + place[3]
    return heatmap.flatten().scatter_reduce(0, flat, wins.float(), "amax").view_as(heatmap)


def _rectangles(points: Points, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(N, H) and (N, W) profiles of rectangles between inclusive (N, 2) cells (x, y): 1 inside, 0 outside."""

    def inside(axis: int, length: int) -> Tensor:
        cells = torch.arange(length, device=low.device)
        return ((cells >= low[:, axis, None]) & (cells <= high[:, axis, None])).float()

    return inside(1, points.map_size[1]), inside(0, points.map_size[2])


def _paint(points: Points, num_classes: int, chosen: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    batch, height, width = points.map_size
    # What belongs to all classes is drawn once, on a plane of its own.
    planes = torch.where(points.classes < 0, num_classes, points.classes)
    canvas = points.boxes.new_zeros(batch * (num_classes + 1), height, width)
    paint_max(canvas, points.image * (num_classes + 1) + planes, rows * chosen[:, None], columns)
    canvas = canvas.unflatten(0, (batch, num_classes + 1))
    own = canvas[:, :-1]
    # In place: these are the largest tensors of a training step's targets.
    return torch.maximum(own, canvas[:, -1:], out=own)


class CenterProperty(Property):
    """Centers, scores and classes. Boxes do not turn with an image, so where it was turned, centers are not known."""

    name = "center"
    fields = ("scores", "pred_classes")

    def annotate(self, record: DatasetDict, transforms: Sequence[Transform], size: tuple[int, int]) -> dict[str, Any]:
        """Of a turned image ``gt_blind``, and ``gt_weight`` 0 for what is read at centers (original.md: Rotation)."""
        if not any(getattr(transform, "rotates", False) for transform in transforms):
            return {}
        count = len(record["annotations"])
        return {"gt_blind": torch.ones(count, dtype=torch.bool), "gt_weight": torch.zeros(count)}

    def to_json(self, instances: Instances) -> list[dict[str, Any]]:
        """``category_id``, the number of the class from 0, and ``score``."""
        pairs = zip(instances.pred_classes.tolist(), instances.scores.tolist(), strict=True)
        return [{"category_id": category, "score": score} for category, score in pairs]


@POINT_HEAD_REGISTRY.register()
class CenterHead(PointHead):
    """Object centers: class heatmap and sub-cell offset (paper, section 3).

    Objects with ``gt_blind`` say that the centers of their image are not known (it was turned without its boxes, for
    instance): nothing is learned from its heatmap.
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
            num_classes: channels of the heatmap.
            offset: predict the offset; without it centers are taken at the middle of their cell.
            offset_loss: "l1" or "smooth_l1".
            heatmap_weight, offset_weight: factors of the losses.
            average_offsets: average the offset over mirrored images too. The original does not.
            ignore_regions: "mask" takes the boxes of ``gt_ignore`` out of the loss of the heatmap; "center" and "box"
                act on the heatmap as the original does for 3-D boxes, see :func:`render_with_ignored`.
            loss_slots: divide the loss of the offset by this many objects per image, however many there are; 0 divides
                by the objects.
            common: see :class:`PointHead`.

        Raises:
            ValueError: unknown loss or policy.
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
        """See :meth:`PointHead.targets`; the heatmap has no weight in regions to ignore, nor in unlabelled classes."""
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
        known = points.valid.new_zeros(())
        blind = torch.stack([x.gt_blind.any() if x.has("gt_blind") else known for x in gt])
        return heatmap.masked_fill(blind[:, None, None, None], ALMOST_CENTER)

    def _heatmap_weight(self, gt: Sequence[Instances], points: Points) -> Tensor | None:
        weight = None
        if self.ignore_regions == "mask" and any(instances.has("gt_ignore") for instances in gt):
            weight = 1 - render_ignored(points, self.num_classes)
        if points.labelled_classes is not None:
            labelled = points.labelled_classes[:, :, None, None].float()
            weight = labelled if weight is None else weight * labelled
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
        """The heatmap is averaged, the offset only if asked for (original.md: Flip test)."""
        upright: dict[str, Tensor | None] = {"heatmap": maps["heatmap"].flip(-1)}
        if "offset" in self.maps:
            shift = (self.stride - 1) / self.stride
            upright["offset"] = unflip_vectors(maps["offset"], shift) if self.average_offsets else None
        return upright

    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """(B, K) scores and classes, (B, K, 2) centers."""
        offset = peaks.gather(maps["offset"]) if "offset" in self.maps else 0.5
        return {"scores": peaks.scores, "classes": peaks.classes, "centers": peaks.cells + offset}

    def to_image(self, fields: Fields, geometry: Geometry) -> dict[str, Any]:
        return {"scores": fields["scores"], "pred_classes": fields["classes"]}
