"""3-D box head: depth, dimensions and orientation (paper, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.structures import Instances
from torch import Tensor

from ....config.registry import POINT_HEAD_REGISTRY
from ....imaging.geometry import Geometry, apply_affine
from ....structures.boxes3d import Boxes3D, alpha_to_rotation_y, location_from_center, orientation_to_alpha
from ....structures.points import Peaks, Points
from ....structures.types import Fields, Maps, Targets
from ....utils.validation import check_choice
from ...losses import log_depth_loss, orientation_loss, regression_loss
from ..point_head import PointHead
from .prop import Box3DProperty

__all__ = ["Box3DHead"]

DEPTH_LOSSES = ("l1", "log")

# Each bin of the observation angle extends by this angle beyond a quarter turn on both sides, so that bins overlap
# (original.md: Orientation bins).
BIN_OVERLAP = math.pi / 6
# Channels of the orientation map: per bin the logits of outside and inside, sine and cosine.
ORIENTATION_SIZE = 8
# Sine channels; horizontal flipping negates them.
SINES = (2, 6)


def raw_to_depth(raw: Tensor) -> Tensor:
    """Convert raw network output to depth in float32 (original.md: Depth transform)."""
    return 1 / (raw.float().sigmoid() + 1e-6) - 1


def orientation_bins(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Assign (N,) observation angles to bins (original.md: Orientation bins).

    Returns:
        (N, 2) float, 1 for angles inside the bin, and (N, 2) angles relative to the bin center, 0 outside the bin.
    """
    first = (alpha < BIN_OVERLAP) | (alpha > math.pi - BIN_OVERLAP)
    second = (alpha > -BIN_OVERLAP) | (alpha < BIN_OVERLAP - math.pi)
    residual = torch.stack([alpha + math.pi / 2, alpha - math.pi / 2], dim=1)
    bins = torch.stack([first, second], dim=1).float()
    return bins, residual * bins


def encode_orientation(bins: Tensor, residual: Tensor) -> Tensor:
    """Encode the output of :func:`orientation_bins` as (..., 8) orientation targets."""
    return torch.stack([1 - bins, bins, residual.sin(), residual.cos()], dim=-1).flatten(-2)


@POINT_HEAD_REGISTRY.register()
class Box3DHead(PointHead):
    """Head that regresses 3-D boxes at the centers of 2-D boxes.

    It predicts depth, height, width and length in meters, and the orientation in two bins. Depth is not supervised for
    objects that are not in front of the camera (depth <= 0).

    ``pred_boxes3d`` (:class:`Boxes3D`) and ``pred_alpha`` are in the camera coordinates of the original image.
    """

    property_type = Box3DProperty
    prop: Box3DProperty
    original_names = {"depth": "dep", "orientation": "rot", "dimensions": "dim"}
    keys = {
        "depth_loss": "MODEL.CENTERNET.BOX3D.DEPTH_LOSS",
        "depth_weight": "MODEL.CENTERNET.BOX3D.DEPTH_WEIGHT",
        "loss_slots": "MODEL.CENTERNET.QUIRKS.LOSS_SLOTS",
    }
    requires = ("centers",)
    provides = ("boxes3d",)
    converters = {"pred_boxes3d": Boxes3D}
    # 3-D boxes of several test scales cannot be merged (original.md: Merging scales).
    multi_scale = False

    @configurable
    def __init__(
        self,
        *,
        depth_loss: str = "l1",
        depth_weight: float = 1.0,
        loss_slots: int = 0,
        **common: Any,
    ) -> None:
        """
        Args:
            depth_loss: "l1" or "log", see :func:`log_depth_loss`.
            depth_weight: weight of the depth loss.
            loss_slots: if positive, divide the losses by this fixed number of objects per image instead of the actual
                number.
            common: see :class:`PointHead`.

        Raises:
            ValueError: if `depth_loss` is unknown.
        """
        check_choice("depth_loss", depth_loss, DEPTH_LOSSES)
        super().__init__({"depth": 1, "orientation": ORIENTATION_SIZE, "dimensions": 3}, **common)
        self.depth_loss = depth_loss
        self.depth_weight = depth_weight
        self.loss_slots = loss_slots

    def activate(self, maps: Maps) -> Maps:
        """Convert the depth map to meters; the other maps are linear.

        With a reference focal length, depths hold for that focal length.
        """
        return {**{name: maps[name] for name in self.maps}, "depth": raw_to_depth(maps["depth"])}

    def targets(self, gt: Sequence[Instances], points: Points) -> Targets:
        """Build the targets, see :meth:`PointHead.targets`."""
        names = ("gt_depth", "gt_alpha", "gt_focal", "gt_space", "gt_metric")
        depth, alpha, focal, space, metric = (torch.cat([x.get(name) for x in gt]) for name in names)
        dimensions = torch.cat([x.gt_boxes3d.dimensions for x in gt])
        if self.prop.reference_focal:
            depth = depth * self.prop.reference_focal / focal
        known = (points.weight * metric)[:, None]
        # Objects next to the camera may have a bottom center behind the camera, but predicted depths are positive.
        in_front = depth[:, None] > 0
        orientation = encode_orientation(*orientation_bins(alpha))
        return {
            "depth": points.target(depth[:, None], known * in_front),
            "dimensions": points.target(dimensions, known.expand_as(dimensions)),
            "orientation": points.target(orientation, (points.weight * space)[:, None].expand_as(orientation)),
        }

    def losses(self, maps: Maps, targets: Targets) -> dict[str, Tensor]:
        images = len(maps["depth"])
        slots = self.loss_slots * images
        depth, dimensions, orientation = (targets[name] for name in ("depth", "dimensions", "orientation"))
        predicted = raw_to_depth(depth.gather(maps["depth"]))
        if self.depth_loss == "l1":
            loss_depth = regression_loss(predicted, depth.value, depth.weight, slots=slots)
        else:
            loss_depth = log_depth_loss(predicted, depth.value, depth.weight, depth.image, images)
        loss_dimensions = regression_loss(
            dimensions.gather(maps["dimensions"]), dimensions.value, dimensions.weight, slots=slots
        )
        loss_orientation = orientation_loss(
            orientation.gather(maps["orientation"]), orientation.value, orientation.weight[:, 0], slots
        )
        return {
            "loss_depth": self.depth_weight * loss_depth,
            "loss_dimensions": loss_dimensions,
            "loss_orientation": loss_orientation,
        }

    def unflip(self, maps: Maps) -> dict[str, Tensor | None]:
        """Invert a horizontal flip of the maps.

        Flipping maps alpha to pi - alpha, which is in the same bin on the other side of its center. The reference
        implementation does not flip 3-D boxes.
        """
        sign = maps["orientation"].new_ones(ORIENTATION_SIZE, 1, 1)
        sign[list(SINES)] = -1
        flipped = {name: maps[name].flip(-1) for name in self.maps}
        return {**flipped, "orientation": flipped["orientation"] * sign}

    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """Decode (B, K) depth, (B, K, 3) dimensions and (B, K, 8) raw orientation."""
        return {
            "depth": peaks.gather(maps["depth"])[..., 0],
            "dimensions": peaks.gather(maps["dimensions"]),
            "orientation": peaks.gather(maps["orientation"]),
        }

    def to_image(self, fields: Fields, geometry: Geometry) -> Fields:
        """Convert decoded fields to 3-D boxes (original.md: 3-D results).

        Returns:
            ``pred_boxes3d`` and ``pred_alpha`` (N,) in the camera coordinates of the original image.

        Raises:
            ValueError: if neither the image nor the config specifies a camera.
        """
        camera = geometry.inputs.get("camera", self.prop.default_camera)
        if camera is None:
            raise ValueError("3-D boxes need the camera of the image: set its 'camera' to a (3, 4) projection matrix")
        centers, dimensions, depth = fields["centers"], fields["dimensions"], fields["depth"]
        if self.prop.reference_focal:
            # Focal length in the network input: one map pixel covers to_image[0, 0] pixels of the original image.
            focal = camera[0, 0] * self.stride / geometry.to_image[0, 0].abs().to(camera)
            depth = depth * (focal / self.prop.reference_focal).to(depth)
        # float64: products of 1000s of pixels and 10s of meters need more than 6 digits for millimeter accuracy, which
        # the reference implementation has.
        positions = apply_affine(centers.double(), geometry.to_image)
        alpha = orientation_to_alpha(fields["orientation"])
        location = location_from_center(positions, depth.double(), dimensions.double(), camera)
        rotation_y = alpha_to_rotation_y(alpha.double(), positions[:, 0], camera)
        boxes = torch.cat([location, dimensions.double(), rotation_y[:, None]], dim=1)
        return {"pred_boxes3d": boxes.float(), "pred_alpha": alpha}
