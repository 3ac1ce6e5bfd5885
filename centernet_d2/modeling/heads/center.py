"""The points themselves: a heatmap of object centers and the part of a center that its cell does not tell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor

from ...config import check_choice
from ..geometry import Geometry
from ..heatmap import gaussian_profiles, paint_max
from ..losses import REGRESSION_LOSSES, focal_loss_with_logits, regression_loss
from ..points import Peaks, Points, SparseTarget
from .point_head import POINT_HEAD_REGISTRY, PointHead

__all__ = ["CenterHead", "render_centers", "render_ignored"]

# A target so close to that of a center that the cell costs nothing, but is none (SPEC 6.5, 6.6).
ALMOST_CENTER = 0.9999


def render_centers(points: Points, num_classes: int) -> Tensor:
    """The center heatmap of a batch: a Gaussian per object on the plane of its class (SPEC 6.2, 6.4).

    Returns:
        (B, C, H, W) float32, exactly 1 at the cells of the objects.
    """
    rows, columns = gaussian_profiles(points.cells, points.radius, points.map_size[1:])
    return _paint(points, num_classes, points.valid & ~points.ignore, rows, columns)


def render_ignored(points: Points, num_classes: int) -> Tensor:
    """1 inside the boxes of the regions to ignore, on the planes of their classes, else 0: (B, C, H, W) float32."""

    def inside(low: Tensor, high: Tensor, length: int) -> Tensor:
        cells = torch.arange(length, device=low.device)
        return ((cells >= low.floor()[:, None]) & (cells <= high.ceil()[:, None])).float()

    rows = inside(points.boxes[:, 1], points.boxes[:, 3], points.map_size[1])
    columns = inside(points.boxes[:, 0], points.boxes[:, 2], points.map_size[2])
    return _paint(points, num_classes, points.valid & points.ignore, rows, columns)


def _paint(points: Points, num_classes: int, chosen: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    batch, height, width = points.map_size
    canvas = points.boxes.new_zeros(batch * num_classes, height, width)
    paint_max(canvas, points.image * num_classes + points.classes, rows * chosen[:, None], columns)
    return canvas.unflatten(0, (batch, num_classes))


@POINT_HEAD_REGISTRY.register()
class CenterHead(PointHead):
    """Object centers: class heatmap and sub-cell offset (paper, section 3).

    Objects with ``gt_blind`` say that the centers of their image are not known (it was turned without its boxes, for
    instance): nothing is learned from its heatmap.
    """

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
        stride: int = 4,
        **common: object,
    ) -> None:
        """
        Args:
            num_classes: channels of the heatmap.
            offset: predict the offset; without it centers are taken at the middle of their cell.
            offset_loss: "l1" or "smooth_l1".
            heatmap_weight, offset_weight: factors of the losses.
            average_offsets: average the offset over mirrored images too. The original does not.
            stride: image pixels per cell.
            common: see :class:`PointHead`.

        Raises:
            ValueError: unknown loss.
        """
        check_choice("MODEL.CENTERNET.OFFSET_LOSS", offset_loss, REGRESSION_LOSSES)
        super().__init__({"heatmap": num_classes, **({"offset": 2} if offset else {})}, **common)
        self.num_classes = num_classes
        self.offset_loss = offset_loss
        self.heatmap_weight = heatmap_weight
        self.offset_weight = offset_weight
        self.average_offsets = average_offsets
        self.stride = stride

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec, num_stacks: int) -> dict[str, object]:
        node = cfg.MODEL.CENTERNET
        return {
            "num_classes": node.NUM_CLASSES,
            "offset": node.OFFSET,
            "offset_loss": node.OFFSET_LOSS,
            "heatmap_weight": node.HEATMAP_WEIGHT,
            "offset_weight": node.OFFSET_WEIGHT,
            "average_offsets": cfg.TEST.AUG.AVERAGE_OFFSETS,
            "stride": input_shape.stride,
            **cls.common_config(cfg, input_shape, num_stacks),
        }

    def targets(self, gt: Sequence[Instances], points: Points) -> dict[str, Tensor | SparseTarget]:
        """See :meth:`PointHead.targets`; where there are regions to ignore, ``heatmap_weight`` is 0 inside them."""
        targets = {
            "heatmap": render_centers(points, self.num_classes),
            "offset": points.target(points.centers - points.cells),
        }
        if any(instances.has("gt_blind") for instances in gt):
            blind = [
                instances.gt_blind.any() if instances.has("gt_blind") else points.valid.new_zeros(())
                for instances in gt
            ]
            unknown = torch.stack(blind)[:, None, None, None]
            targets["heatmap"] = targets["heatmap"].masked_fill(unknown, ALMOST_CENTER)
        if any(instances.has("gt_ignore") for instances in gt):
            targets["heatmap_weight"] = 1 - render_ignored(points, self.num_classes)
        return targets

    def losses(self, maps: dict[str, Tensor], targets: dict[str, Tensor | SparseTarget]) -> dict[str, Tensor]:
        heatmap = focal_loss_with_logits(maps["heatmap"], targets["heatmap"], targets.get("heatmap_weight"))
        losses = {"loss_heatmap": self.heatmap_weight * heatmap}
        if "offset" in self.maps:
            target = targets["offset"]
            offset = regression_loss(target.gather(maps["offset"]), target.value, target.weight, self.offset_loss)
            losses["loss_offset"] = self.offset_weight * offset
        return losses

    def unflip(self, maps: dict[str, Tensor]) -> dict[str, Tensor | None]:
        """The heatmap is averaged, the offset comes from the upright image alone (SPEC 9.2) unless asked for."""
        upright = {"heatmap": maps["heatmap"].flip(-1)}
        if "offset" in self.maps:
            upright["offset"] = self._unflip_offset(maps["offset"]) if self.average_offsets else None
        return upright

    def _unflip_offset(self, offset: Tensor) -> Tensor:
        """A mirror takes the pixels of a cell from 0 ... s - 1 to s - 1 ... 0, in units of 1 / s."""
        x, y = offset.flip(-1).unbind(1)
        return torch.stack([(self.stride - 1) / self.stride - x, y], dim=1)

    def decode(self, maps: dict[str, Tensor], peaks: Peaks, fields: dict[str, Tensor]) -> dict[str, Tensor]:
        """(B, K) scores and classes, (B, K, 2) centers."""
        offset = peaks.gather(maps["offset"]) if "offset" in self.maps else 0.5
        return {"scores": peaks.scores, "classes": peaks.classes, "centers": peaks.cells + offset}

    def to_image(self, fields: dict[str, Tensor], geometry: Geometry) -> dict[str, object]:
        return {"scores": fields["scores"], "pred_classes": fields["classes"]}
