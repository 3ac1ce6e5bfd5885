"""Keypoint head: center displacements and joint heatmaps (paper, section 4.2)."""

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
from ...heatmap import best_peaks, paint_gaussians, to_cells
from ...losses import focal_loss_with_logits, regression_loss
from ..point_head import PointHead, unflip_vectors
from .prop import KeypointProperty
from .schema import KeypointSchema

__all__ = ["KeypointHead", "snap_to_peaks"]

# A joint snaps to a heatmap peak with a score above PEAK_THRESHOLD within MAX_DISTANCE, relative to the longer side of
# the box (original.md: Pose decoding).
PEAK_THRESHOLD = 0.1
MAX_DISTANCE = 0.3


def snap_to_peaks(
    joints: Tensor, boxes: Tensor, positions: Tensor, scores: Tensor, fallback: Tensor
) -> tuple[Tensor, Tensor]:
    """Snap regressed joints to confident heatmap peaks (original.md: Pose decoding).

    Args:
        joints: (B, K, J, 2) regressed joints of K objects.
        boxes: (B, K, 4) XYXY boxes of the objects.
        positions: (B, J, P, 2) heatmap peaks of each joint.
        scores: (B, J, P) scores of the peaks.
        fallback: (B, K, J) scores of joints that do not snap to a peak.

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
    max_distance = MAX_DISTANCE * (boxes[..., 2:] - boxes[..., :2]).amax(dim=2)[..., None]
    inside = ((candidate >= low) & (candidate <= high)).all(dim=3)
    accepted = inside & (score >= PEAK_THRESHOLD) & (distance <= max_distance)
    return torch.where(accepted[..., None], candidate, joints), torch.where(accepted, score, fallback)


def add_half_pixel(keypoints: Tensor) -> Tensor:
    """Shift (N, J, 3) keypoints to Detectron2's convention."""
    return torch.cat([keypoints[..., :2] + HALF_PIXEL, keypoints[..., 2:]], dim=2)


@POINT_HEAD_REGISTRY.register()
class KeypointHead(PointHead):
    """Head that predicts keypoints.

    Displacements from the center cell are regressed for each joint. Class-agnostic heatmaps detect all joints of each
    type in the image, with their sub-cell offsets, and refine the regressed positions.
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
    converters = {"pred_keypoints": add_half_pixel}
    # The reference implementation merges poses of several scales without a limit (original.md: Merging scales).
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
            prop: keypoint property.
            refine: predict joint heatmaps and snap joints to their peaks.
            offset: predict sub-cell offsets of joints; otherwise, peaks are at cell centers.
            constant_score: set all joint scores to 1, as the reference implementation does.
            offset_weight: weight of the offset loss.
            average_offsets: average offsets in flip testing too, see :meth:`unflip`.
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
        """Current schema of the property, which metadata of a checkpoint may replace."""
        return self.prop.schema

    def targets(self, gt: Sequence[Instances], points: Points) -> Targets:
        batch, height, width = points.map_size
        keypoints = torch.cat([instances.gt_keypoints for instances in gt])
        positions = keypoints[..., :2] / points.stride
        x, y = positions.unbind(2)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        # Boxes of rotated images are invalid, so keypoints count even if the box is outside the image.
        active = (points.valid | optional_field(gt, "gt_blind", points.valid.new_zeros(()))) & ~points.ignore
        known = (keypoints[..., 2] > 0) & inside & active[:, None]
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
            radius_cpu = None if points.radius_cpu is None else points.radius_cpu.repeat_interleave(len(self.schema))
            canvas = positions.new_zeros(batch * len(self.schema), height, width)
            paint_gaussians(canvas, image * len(self.schema) + joint, cells, radius, known.flatten(), radius_cpu)
            labeled = points.labeled(self.prop.name)
            weight = None if labeled is None else labeled.float()
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
        """Invert a horizontal flip (original.md: Flip test).

        Displacements change sign in x, and left and right joints are swapped. Offsets are only averaged with
        `average_offsets`, which also makes the inverse of the displacements exact.
        """
        # The reference implementation only changes the sign of x.
        shift = (self.stride - 1) / self.stride if self.average_offsets else 0.0
        displacement = maps["keypoint_displacement"].unflatten(1, (-1, 2))[:, self.schema.mirror]
        unflipped: dict[str, Tensor | None] = {
            "keypoint_displacement": unflip_vectors(displacement, shift).flatten(1, 2)
        }
        if "keypoint_heatmap" in self.maps:
            unflipped["keypoint_heatmap"] = maps["keypoint_heatmap"].flip(-1)[:, self.schema.mirror]
        if "keypoint_offset" in self.maps:
            offset = maps["keypoint_offset"]
            unflipped["keypoint_offset"] = unflip_vectors(offset, shift) if self.average_offsets else None
        return unflipped

    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """Decode (B, K, J, 3) keypoints: x, y in map pixels, and score.

        The score of a joint is the score of the peak it snapped to, otherwise the value of its heatmap at its position,
        or the score of its object if there are no heatmaps.
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
        """Return (B, J, P, 2) positions and (B, J, P) scores of the best peaks of each joint."""
        heatmap = maps["keypoint_heatmap"]
        scores, index = best_peaks(heatmap, count)
        positions = to_cells(index, heatmap.shape[3]).float()
        if "keypoint_offset" not in self.maps:
            return positions + 0.5, scores
        offset = maps["keypoint_offset"].flatten(2).transpose(1, 2)[:, None].expand(-1, heatmap.shape[1], -1, -1)
        return positions + offset.gather(2, index[..., None].expand(-1, -1, -1, 2)), scores

    def to_image(self, fields: Fields, geometry: Geometry) -> Fields:
        """Return ``pred_keypoints`` (N, J, 3)."""
        keypoints = fields["keypoints"]
        positions = apply_affine(keypoints[..., :2], geometry.to_image)
        return {"pred_keypoints": torch.cat([positions, keypoints[..., 2:]], dim=2)}


def _l1(tensor: Tensor, target: SparseTarget) -> Tensor:
    return regression_loss(target.gather(tensor), target.value, target.weight)


def _read_at(heatmap: Tensor, joints: Tensor) -> Tensor:
    """Read (B, J, H, W) heatmaps at the cells of (B, K, J, 2) joints; 0 outside the maps."""
    height, width = heatmap.shape[2:]
    x, y = joints.floor().long().unbind(3)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).transpose(1, 2)
    return heatmap.flatten(2).gather(2, index).transpose(1, 2) * inside
