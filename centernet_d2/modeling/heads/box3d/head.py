"""3-D boxes from one image: depth, dimensions and orientation of the object at its center (paper, section 4.1)."""

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

# Half the width of the bins of the observation angle beyond a quarter turn to each side: they overlap
# (original.md: Orientation bins).
BIN_OVERLAP = math.pi / 6
# What a network says about an orientation: per bin the logits of outside and inside, sine and cosine.
ORIENTATION_SIZE = 8
# Channels of the sines, which change sign in a mirror.
SINES = (2, 6)


def raw_to_depth(raw: Tensor) -> Tensor:
    """What a network says, any real number -> depth (original.md: Depth transform); float32."""
    return 1 / (raw.float().sigmoid() + 1e-6) - 1


def orientation_bins(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) observation angles -> (N, 2) whether they lie in each bin, and (N, 2) the angle to its center
    (original.md: Orientation bins)."""
    first = (alpha < BIN_OVERLAP) | (alpha > math.pi - BIN_OVERLAP)
    second = (alpha > -BIN_OVERLAP) | (alpha < BIN_OVERLAP - math.pi)
    residual = torch.stack([alpha + math.pi / 2, alpha - math.pi / 2], dim=1)
    bins = torch.stack([first, second], dim=1).float()
    return bins, residual * bins


def describe_orientation(bins: Tensor, residual: Tensor) -> Tensor:
    """(..., 2) and (..., 2) as from :func:`orientation_bins` -> (..., 8), what a perfect network says."""
    return torch.stack([1 - bins, bins, residual.sin(), residual.cos()], dim=-1).flatten(-2)


@POINT_HEAD_REGISTRY.register()
class Box3DHead(PointHead):
    """Depth, height, width and length in metres, and orientation in two bins, at the center of the 2-D box.

    Of an object that is not in front of the camera (its depth is not positive) no depth is learned.
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
    # Boxes in space of several test scales are not merged (original.md: Merging scales).
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
            depth_weight: factor of the depth loss.
            loss_slots: divide the losses by this many objects per image, however many there are; 0 divides by the
                objects.
            common: see :class:`PointHead`.

        Raises:
            ValueError: an unknown choice.
        """
        check_choice("depth_loss", depth_loss, DEPTH_LOSSES)
        super().__init__({"depth": 1, "orientation": ORIENTATION_SIZE, "dimensions": 3}, **common)
        self.depth_loss = depth_loss
        self.depth_weight = depth_weight
        self.loss_slots = loss_slots

    def activate(self, maps: Maps) -> Maps:
        """Depth in metres (for the reference focal length, if there is one); the other maps are linear."""
        return {**{name: maps[name] for name in self.maps}, "depth": raw_to_depth(maps["depth"])}

    def targets(self, gt: Sequence[Instances], points: Points) -> Targets:
        """See :meth:`PointHead.targets`."""
        names = ("gt_depth", "gt_alpha", "gt_focal", "gt_space", "gt_metric")
        depth, alpha, focal, space, metric = (torch.cat([x.get(name) for x in gt]) for name in names)
        dimensions = torch.cat([x.gt_boxes3d.dimensions for x in gt])
        if self.prop.reference_focal:
            depth = depth * self.prop.reference_focal / focal
        known = (points.weight * metric)[:, None]
        # Of an object beside the camera the bottom center may be behind it; networks say positive depths.
        ahead = depth[:, None] > 0
        orientation = describe_orientation(*orientation_bins(alpha))
        return {
            "depth": points.target(depth[:, None], known * ahead),
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
        """A mirror takes alpha to pi - alpha, which stays in its bin on the other side of its center.

        The original never mirrors 3-D boxes.
        """
        sign = maps["orientation"].new_ones(ORIENTATION_SIZE, 1, 1)
        sign[list(SINES)] = -1
        back = {name: maps[name].flip(-1) for name in self.maps}
        return {**back, "orientation": back["orientation"] * sign}

    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """(B, K) depth, (B, K, 3) dimensions and (B, K, 8) orientation as the network says them."""
        return {
            "depth": peaks.gather(maps["depth"])[..., 0],
            "dimensions": peaks.gather(maps["dimensions"]),
            "orientation": peaks.gather(maps["orientation"]),
        }

    def to_image(self, fields: Fields, geometry: Geometry) -> dict[str, Any]:
        """``pred_boxes3d`` and ``pred_alpha`` (N,) by the camera of the original image (original.md: 3-D results).

        Raises:
            ValueError: the image has no camera, and the head no default.
        """
        camera = geometry.inputs.get("camera", self.prop.default_camera)
        if camera is None:
            raise ValueError("3-D boxes need the camera of an image: a (3, 4) projection matrix as its 'camera'")
        centers, dimensions, depth = fields["centers"], fields["dimensions"], fields["depth"]
        if self.prop.reference_focal:
            # The focal length in the network input: a map pixel shows to_image[0, 0] pixels of the original image.
            focal = camera[0, 0] * self.stride / geometry.to_image[0, 0].abs().to(camera)
            depth = depth * float(focal / self.prop.reference_focal)
        # Some thousand pixels times some ten metres: half a dozen digits are too few for the original's millimetres.
        places = apply_affine(centers.double(), geometry.to_image)
        alpha = orientation_to_alpha(fields["orientation"])
        location = location_from_center(places, depth.double(), dimensions.double(), camera)
        rotation_y = alpha_to_rotation_y(alpha.double(), places[:, 0], camera)
        boxes = Boxes3D(torch.cat([location, dimensions.double(), rotation_y[:, None]], dim=1))
        return {"pred_boxes3d": boxes, "pred_alpha": alpha}
