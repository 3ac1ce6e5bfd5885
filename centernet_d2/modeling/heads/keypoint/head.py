"""Keypoints: displacements from the center, refined by heatmaps of the joints themselves (paper, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.structures import Instances
from torch import Tensor

from ....config.registry import POINT_HEAD_REGISTRY
from ....imaging.geometry import Geometry, apply_affine
from ....structures.points import HALF_PIXEL, DenseTarget, Peaks, Points, SparseTarget, optional_field
from ....structures.types import Fields, Maps, Targets
from ...heatmap import paint_gaussians, peak_filter
from ...losses import focal_loss_with_logits, regression_loss
from ..point_head import PointHead, unflip_vectors
from .prop import KeypointProperty
from .schema import KeypointSchema

__all__ = ["KeypointHead", "snap_to_peaks"]

# A joint takes over a peak of its heatmap that scores above this and is nearer than this share of the larger side of
# the box (original.md: Pose decoding).
PEAK_THRESHOLD = 0.1
MAX_DISTANCE = 0.3


def snap_to_peaks(
    joints: Tensor, boxes: Tensor, positions: Tensor, scores: Tensor, fallback: Tensor
) -> tuple[Tensor, Tensor]:
    """Move regressed joints to confident peaks of their heatmaps (original.md: Pose decoding).

    Args:
        joints: (B, K, J, 2) regressed joints of K objects.
        boxes: (B, K, 4) XYXY boxes of the objects.
        positions: (B, J, P, 2) candidates, the peaks of each joint's heatmap.
        scores: (B, J, P) of the candidates.
        fallback: (B, K, J) scores of the regressed joints, for those that stay.

    Returns:
        (B, K, J, 2) joints and (B, K, J) scores.
    """
    confident = scores > PEAK_THRESHOLD
    far = positions.new_full((), -10000.0)
    positions = torch.where(confident[..., None], positions, far)
    distance = (joints[:, :, :, None] - positions[:, None]).norm(dim=4)
    distance, nearest = distance.min(dim=3)
    index = nearest.transpose(1, 2)
    candidate = positions.gather(2, index[..., None].expand(-1, -1, -1, 2)).transpose(1, 2)
    score = torch.where(confident, scores, -1).gather(2, index).transpose(1, 2)
    low, high = boxes[:, :, None, :2], boxes[:, :, None, 2:]
    reach = MAX_DISTANCE * (boxes[..., 2:] - boxes[..., :2]).amax(dim=2)[..., None]
    inside = ((candidate >= low) & (candidate <= high)).all(dim=3)
    accepted = inside & (score >= PEAK_THRESHOLD) & (distance <= reach)
    return torch.where(accepted[..., None], candidate, joints), torch.where(accepted, score, fallback)


@POINT_HEAD_REGISTRY.register()
class KeypointHead(PointHead):
    """Keypoints of the object around a center.

    The displacement says where each joint is, seen from the cell of the center. Class-agnostic heatmaps find all joints
    of a kind in the image, with the offset within their cell; they decide the exact place.
    """

    prop: KeypointProperty
    property_type = KeypointProperty
    original_names = {"keypoint_displacement": "hps", "keypoint_heatmap": "hm_hp", "keypoint_offset": "hp_offset"}
    keys = {
        "refine": "MODEL.CENTERNET.KEYPOINTS.REFINE",
        "offset": "MODEL.CENTERNET.KEYPOINTS.OFFSET",
        "constant_score": "MODEL.CENTERNET.QUIRKS.KEYPOINTS.CONSTANT_SCORE",
        "offset_weight": "MODEL.CENTERNET.OFFSET_WEIGHT",
        "average_offsets": "MODEL.CENTERNET.QUIRKS.AVERAGE_OFFSETS",
    }
    heatmaps = ("keypoint_heatmap",)
    requires = ("scores", "boxes")
    provides = ("keypoints",)
    # The original merges poses of several scales without a limit (original.md: Merging scales).
    limit_merged = False

    @configurable
    def __init__(
        self,
        *,
        prop: KeypointProperty,
        refine: bool = True,
        offset: bool = True,
        constant_score: bool = False,
        offset_weight: float = 1.0,
        average_offsets: bool = False,
        **common: Any,
    ) -> None:
        """
        Args:
            prop: with number and mirror images of the keypoints.
            refine: predict heatmaps of the joints and snap to their peaks.
            offset: predict the offset of a joint within its cell; without it peaks are taken at the middle of a cell.
            constant_score: give every joint the score 1, as the original does, instead of its own.
            offset_weight: factor of the offset loss.
            average_offsets: average offsets over mirrored images too, see :meth:`unflip`.
            common: see :class:`PointHead`.
        """
        maps = {"keypoint_displacement": 2 * len(prop.schema)}
        if refine:
            maps["keypoint_heatmap"] = len(prop.schema)
            if offset:
                maps["keypoint_offset"] = 2
        super().__init__(maps, prop=prop, **common)
        self.constant_score = constant_score
        self.offset_weight = offset_weight
        self.average_offsets = average_offsets

    @property
    def schema(self) -> KeypointSchema:
        """Of the property, which may learn names and mirror images after the head was built."""
        return self.prop.schema

    def targets(self, gt: Sequence[Instances], points: Points) -> Targets:
        batch, height, width = points.map_size
        keypoints = torch.cat([instances.gt_keypoints for instances in gt])
        positions = keypoints[..., :2] / points.stride
        x, y = positions.unbind(2)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        # In a turned image, the box of a visible person may be anywhere.
        alive = (points.valid | optional_field(gt, "gt_blind", points.valid.new_zeros(()))) & ~points.ignore
        known = (keypoints[..., 2] > 0) & inside & alive[:, None]
        displacement = (positions - points.cells[:, None]).flatten(1)
        supervised = (known * points.weight[:, None]).repeat_interleave(2, dim=1)
        targets: dict[str, DenseTarget | SparseTarget] = {
            "keypoint_displacement": points.target(displacement, supervised)
        }
        if "keypoint_heatmap" in self.maps:
            image = points.image.repeat_interleave(len(self.schema))
            cells = torch.where(known[..., None], positions, 0).long().flatten(0, 1)
            joint = torch.arange(len(self.schema), device=image.device).repeat(len(keypoints))
            radius = points.radius.repeat_interleave(len(self.schema))
            reach = None if points.reach is None else points.reach.repeat_interleave(len(self.schema))
            canvas = positions.new_zeros(batch * len(self.schema), height, width)
            paint_gaussians(canvas, image * len(self.schema) + joint, cells, radius, known.flatten(), reach)
            labelled = points.labelled(self.prop.name)
            weight = None if labelled is None else labelled.float()
            targets["keypoint_heatmap"] = DenseTarget(canvas.unflatten(0, (batch, -1)), weight)
            if "keypoint_offset" in self.maps:
                offset = positions.flatten(0, 1) - cells
                weight = known.float().flatten()[:, None].expand_as(offset)
                targets["keypoint_offset"] = SparseTarget(image, cells, offset, weight)
        return targets

    def losses(self, maps: Maps, targets: Targets) -> dict[str, Tensor]:
        losses = {"loss_keypoint_displacement": _l1(maps["keypoint_displacement"], targets["keypoint_displacement"])}
        if "keypoint_heatmap" in self.maps:
            target = targets["keypoint_heatmap"]
            heatmap = focal_loss_with_logits(maps["keypoint_heatmap"], target.value, target.weight)
            losses["loss_keypoint_heatmap"] = heatmap
        if "keypoint_offset" in self.maps:
            offset = _l1(maps["keypoint_offset"], targets["keypoint_offset"])
            losses["loss_keypoint_offset"] = self.offset_weight * offset
        return losses

    def unflip(self, maps: Maps) -> dict[str, Tensor | None]:
        """Displacements turn their x, left and right swap; offsets are not averaged (original.md: Flip test).

        With `average_offsets` they are, and the mirror is exact.
        """
        # The original only turns the sign.
        shift = (self.stride - 1) / self.stride if self.average_offsets else 0.0
        displacement = maps["keypoint_displacement"].unflatten(1, (-1, 2))[:, self.schema.mirror]
        upright: dict[str, Tensor | None] = {"keypoint_displacement": unflip_vectors(displacement, shift).flatten(1, 2)}
        if "keypoint_heatmap" in self.maps:
            upright["keypoint_heatmap"] = maps["keypoint_heatmap"].flip(-1)[:, self.schema.mirror]
        if "keypoint_offset" in self.maps:
            offset = maps["keypoint_offset"]
            upright["keypoint_offset"] = unflip_vectors(offset, shift) if self.average_offsets else None
        return upright

    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """(B, K, J, 3) keypoints: x, y in map pixels, and a score.

        A joint that was moved to a peak has the score of the peak; one that was not, the value of its heatmap where it
        is; without heatmaps every joint has the score of its object.
        """
        displacement = peaks.gather(maps["keypoint_displacement"]).unflatten(2, (-1, 2))
        joints = displacement + peaks.cells[:, :, None]
        scores = fields["scores"][..., None].expand(joints.shape[:3])
        if "keypoint_heatmap" in self.maps:
            positions, peak_scores = self._joint_peaks(maps, peaks.scores.shape[1])
            fallback = _read_at(maps["keypoint_heatmap"], joints)
            joints, scores = snap_to_peaks(joints, fields["boxes"], positions, peak_scores, fallback)
        if self.constant_score:
            scores = torch.ones_like(scores)
        return {"keypoints": torch.cat([joints, scores[..., None]], dim=3)}

    def _joint_peaks(self, maps: Maps, count: int) -> tuple[Tensor, Tensor]:
        """(B, J, P, 2) positions and (B, J, P) scores of the best peaks of every joint."""
        heatmap = maps["keypoint_heatmap"]
        height, width = heatmap.shape[2:]
        scores, index = peak_filter(heatmap).flatten(2).topk(min(count, height * width), dim=2)
        positions = torch.stack([index % width, index // width], dim=3).float()
        if "keypoint_offset" not in self.maps:
            return positions + 0.5, scores
        offset = maps["keypoint_offset"].flatten(2).transpose(1, 2)[:, None].expand(-1, heatmap.shape[1], -1, -1)
        return positions + offset.gather(2, index[..., None].expand(-1, -1, -1, 2)), scores

    def to_image(self, fields: Fields, geometry: Geometry) -> dict[str, Any]:
        """``pred_keypoints`` (N, J, 3), half a pixel up as Detectron2 wants them."""
        keypoints = fields["keypoints"]
        positions = apply_affine(keypoints[..., :2], geometry.to_image) + HALF_PIXEL
        return {"pred_keypoints": torch.cat([positions, keypoints[..., 2:]], dim=2)}


def _l1(tensor: Tensor, target: SparseTarget) -> Tensor:
    return regression_loss(target.gather(tensor), target.value, target.weight)


def _read_at(heatmap: Tensor, joints: Tensor) -> Tensor:
    """(B, K, J) values of (B, J, H, W) heatmaps at the cells of (B, K, J, 2) joints; 0 outside."""
    height, width = heatmap.shape[2:]
    x, y = joints.floor().long().unbind(3)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).transpose(1, 2)
    return heatmap.flatten(2).gather(2, index).transpose(1, 2) * inside
