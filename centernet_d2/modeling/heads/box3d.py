"""3-D boxes from one image: depth, dimensions and orientation of the object at its center (paper, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import Transform
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor

from ...config import check_choice
from ...data.augmentations import is_mirrored
from ...data.boxes3d import check_boxes3d
from ...structures.boxes3d import (
    Boxes3D,
    alpha_to_rotation_y,
    check_camera,
    location_from_center,
    orientation_to_alpha,
)
from ..geometry import Geometry, apply_affine
from ..losses import log_depth_loss, orientation_loss, regression_loss
from ..points import Peaks, Points, SparseTarget
from .point_head import POINT_HEAD_REGISTRY, Annotator, PointHead

__all__ = ["Box3DHead"]

DEPTH_LOSSES = ("l1", "log")
AUGMENTED_DEPTH = ("mask", "camera")

# Half the width of the bins of the observation angle beyond a quarter turn to each side: they overlap (SPEC 6.6).
BIN_OVERLAP = math.pi / 6
# What a network says about an orientation: per bin the logits of outside and inside, sine and cosine.
ORIENTATION_SIZE = 8
# What regions to ignore need not say.
_UNKNOWN = {"location": (0, 0, 0), "dimensions": (0, 0, 0), "rotation_y": 0, "depth": 0, "alpha": 0}
# Channels of the sines, which change sign in a mirror.
SINES = (2, 6)


def raw_to_depth(raw: Tensor) -> Tensor:
    """What a network says, any real number -> depth (SPEC 7); float32."""
    return 1 / (raw.float().sigmoid() + 1e-6) - 1


def orientation_bins(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) observation angles -> (N, 2) whether they lie in each bin, and (N, 2) the angle to its center (SPEC 6.6)."""
    first = (alpha < BIN_OVERLAP) | (alpha > math.pi - BIN_OVERLAP)
    second = (alpha > -BIN_OVERLAP) | (alpha < BIN_OVERLAP - math.pi)
    residual = torch.stack([alpha + math.pi / 2, alpha - math.pi / 2], dim=1)
    bins = torch.stack([first, second], dim=1).float()
    return bins, residual * bins


def describe_orientation(bins: Tensor, residual: Tensor) -> Tensor:
    """(..., 2) and (..., 2) as from :func:`orientation_bins` -> (..., 8), what a perfect network says."""
    return torch.stack([1 - bins, bins, residual.sin(), residual.cos()], dim=-1).flatten(-2)


def annotate_boxes3d(
    annotations: Sequence[dict], transforms: Sequence[Transform], image_size: tuple[int, int], *, augmented: str
) -> dict[str, object]:
    """3-D boxes of one image under its transforms.

    Args:
        annotations: with ``location`` and ``depth`` in metres, ``dimensions`` [h, w, l], ``rotation_y`` and ``alpha``;
            regions to ignore need none of these.
        transforms: what the image went through; mirrored an odd number of times, left and right swap in space too.
        image_size: not needed.
        augmented: "mask" leaves depth and dimensions of shifted and scaled images without supervision.

    Returns:
        ``gt_boxes3d`` (camera coordinates), ``gt_depth`` and ``gt_alpha`` (N,), and ``gt_metric`` (N,), 1 where depth
        and dimensions are to be learned.
    """
    annotations = [{**_UNKNOWN, **x} if x.get("ignore") else x for x in annotations]
    rows = [[*x["location"], *x["dimensions"], x["rotation_y"], x["depth"], x["alpha"]] for x in annotations]
    values = np.array(rows, dtype=np.float64).reshape(-1, 9)
    if is_mirrored(transforms):
        values[:, 0] *= -1
        # Of angles about the y axis, the one that points to the other side; back into -pi..pi.
        for column in (6, 8):
            values[:, column] = np.pi - values[:, column]
            values[:, column] -= 2 * np.pi * (values[:, column] > np.pi)
    jittered = any(getattr(transform, "jittered", False) for transform in transforms)
    values = torch.from_numpy(values).float()
    return {
        "gt_boxes3d": Boxes3D(values[:, :7]),
        "gt_depth": values[:, 7],
        "gt_alpha": values[:, 8],
        "gt_metric": torch.full((len(values),), float(augmented == "camera" or not jittered)),
    }


@POINT_HEAD_REGISTRY.register()
class Box3DHead(PointHead):
    """Depth, height, width and length in metres, and orientation in two bins, at the center of the 2-D box.

    Of an object that is not in front of the camera (its depth is not positive) no depth is learned.
    ``pred_boxes3d`` (:class:`Boxes3D`) and ``pred_alpha`` are in the camera coordinates of the original image.
    """

    requires = ("centers",)
    provides = ("boxes3d",)
    # Boxes in space of several test scales are not merged (SPEC 9.4).
    multi_scale = False

    @configurable
    def __init__(
        self,
        *,
        depth_loss: str = "l1",
        depth_log_balance: float = 0.5,
        depth_weight: float = 1.0,
        dimensions_weight: float = 1.0,
        orientation_weight: float = 1.0,
        loss_slots: int = 0,
        reference_focal: float = 0.0,
        augmented_depth: str = "mask",
        default_camera: Sequence[Sequence[float]] | None = None,
        stride: int = 4,
        **common: object,
    ) -> None:
        """
        Args:
            depth_loss: "l1" or "log", see :func:`log_depth_loss`.
            depth_log_balance: of the latter.
            depth_weight, dimensions_weight, orientation_weight: factors of the losses.
            loss_slots: divide the losses by this many objects per image, however many there are; 0 divides by the
                objects.
            reference_focal: focal length in input pixels for which depths are predicted; 0: whatever it is.
            augmented_depth: "mask" or "camera", see :func:`annotate_boxes3d`.
            default_camera: (3, 4) projection matrix of images that have none.
            stride: input pixels per map pixel.
            common: see :class:`PointHead`.

        Raises:
            ValueError: an unknown choice, depths of augmented images without a reference, or a default camera that is
                none (:func:`check_camera`).
        """
        check_choice("MODEL.CENTERNET.BOX3D.DEPTH_LOSS", depth_loss, DEPTH_LOSSES)
        _check_augmented(augmented_depth, reference_focal)
        try:
            camera = None if default_camera is None else check_camera(default_camera)
        except ValueError as error:
            raise ValueError(f"MODEL.CENTERNET.BOX3D.DEFAULT_CAMERA: {error}") from error
        super().__init__({"depth": 1, "orientation": ORIENTATION_SIZE, "dimensions": 3}, **common)
        self.depth_loss = depth_loss
        self.depth_log_balance = depth_log_balance
        self.depth_weight = depth_weight
        self.dimensions_weight = dimensions_weight
        self.orientation_weight = orientation_weight
        self.loss_slots = loss_slots
        self.reference_focal = reference_focal
        self.default_camera = camera
        self.stride = stride

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec, num_stacks: int) -> dict[str, object]:
        node = cfg.MODEL.CENTERNET.BOX3D
        return {
            "depth_loss": node.DEPTH_LOSS,
            "depth_log_balance": node.DEPTH_LOG_BALANCE,
            "depth_weight": node.DEPTH_WEIGHT,
            "dimensions_weight": node.DIMENSIONS_WEIGHT,
            "orientation_weight": node.ORIENTATION_WEIGHT,
            "loss_slots": cfg.MODEL.CENTERNET.LOSS_SLOTS,
            "reference_focal": node.REFERENCE_FOCAL,
            "augmented_depth": node.AUGMENTED_DEPTH,
            "default_camera": node.DEFAULT_CAMERA,
            "stride": input_shape.stride,
            **cls.common_config(cfg, input_shape, num_stacks),
        }

    @classmethod
    def build_annotator(cls, cfg: CfgNode) -> Annotator:
        node = cfg.MODEL.CENTERNET.BOX3D
        _check_augmented(node.AUGMENTED_DEPTH, node.REFERENCE_FOCAL)
        return partial(annotate_boxes3d, augmented=node.AUGMENTED_DEPTH)

    @classmethod
    def check_data(cls, cfg: CfgNode, dicts: Sequence[dict]) -> None:
        if cfg.INPUT.AFFINE.ROTATE_PROB > 0:
            raise ValueError("INPUT.AFFINE.ROTATE_PROB turns images, of which 3-D boxes learn nothing: set it to 0")
        check_boxes3d(dicts)

    def activate(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Depth in metres (for the reference focal length, if there is one); the other maps are linear."""
        return {**{name: maps[name] for name in self.maps}, "depth": raw_to_depth(maps["depth"])}

    def targets(self, gt: Sequence[Instances], points: Points) -> dict[str, SparseTarget]:
        """See :meth:`PointHead.targets`."""
        depth, alpha, metric = (torch.cat([x.get(name) for x in gt]) for name in ("gt_depth", "gt_alpha", "gt_metric"))
        dimensions = torch.cat([x.gt_boxes3d.dimensions for x in gt])
        if self.reference_focal:
            depth = depth * self.reference_focal / torch.cat([x.gt_camera for x in gt])[:, 0, 0]
        known = (points.weight * metric)[:, None]
        # Of an object beside the camera the bottom center may be behind it; networks say positive depths.
        ahead = depth[:, None] > 0
        return {
            "depth": points.target(depth[:, None], known * ahead),
            "dimensions": points.target(dimensions, known.expand_as(dimensions)),
            "orientation": points.target(describe_orientation(*orientation_bins(alpha))),
        }

    def losses(self, maps: dict[str, Tensor], targets: dict[str, Tensor | SparseTarget]) -> dict[str, Tensor]:
        images = len(maps["depth"])
        slots = self.loss_slots * images
        depth, dimensions, orientation = (targets[name] for name in ("depth", "dimensions", "orientation"))
        predicted = raw_to_depth(depth.gather(maps["depth"]))
        if self.depth_loss == "l1":
            loss_depth = regression_loss(predicted, depth.value, depth.weight, slots=slots)
        else:
            loss_depth = log_depth_loss(
                predicted, depth.value, depth.weight, depth.image, images, self.depth_log_balance
            )
        loss_dimensions = regression_loss(
            dimensions.gather(maps["dimensions"]), dimensions.value, dimensions.weight, slots=slots
        )
        loss_orientation = orientation_loss(
            orientation.gather(maps["orientation"]), orientation.value, orientation.weight[:, 0], slots
        )
        return {
            "loss_depth": self.depth_weight * loss_depth,
            "loss_dimensions": self.dimensions_weight * loss_dimensions,
            "loss_orientation": self.orientation_weight * loss_orientation,
        }

    def unflip(self, maps: dict[str, Tensor]) -> dict[str, Tensor | None]:
        """A mirror takes alpha to pi - alpha, which stays in its bin on the other side of its center.

        The original never mirrors 3-D boxes.
        """
        sign = maps["orientation"].new_ones(ORIENTATION_SIZE, 1, 1)
        sign[list(SINES)] = -1
        back = {name: maps[name].flip(-1) for name in self.maps}
        return {**back, "orientation": back["orientation"] * sign}

    def decode(self, maps: dict[str, Tensor], peaks: Peaks, fields: dict[str, Tensor]) -> dict[str, Tensor]:
        """(B, K) depth, (B, K, 3) dimensions and (B, K, 8) orientation as the network says them."""
        return {
            "depth": peaks.gather(maps["depth"])[..., 0],
            "dimensions": peaks.gather(maps["dimensions"]),
            "orientation": peaks.gather(maps["orientation"]),
        }

    def to_image(self, fields: dict[str, Tensor], geometry: Geometry) -> dict[str, object]:
        """``pred_boxes3d`` and ``pred_alpha`` (N,) by the camera of the original image (SPEC 9.3).

        Raises:
            ValueError: the image has no camera, and the head no default.
        """
        camera = geometry.camera
        if camera is None:
            if self.default_camera is None:
                raise ValueError("3-D boxes need the camera of an image: a (3, 4) projection matrix as its 'camera'")
            camera = self.default_camera
        centers, dimensions, depth = fields["centers"], fields["dimensions"], fields["depth"]
        if self.reference_focal:
            # The focal length in the network input: a map pixel shows to_image[0, 0] pixels of the original image.
            focal = camera[0, 0] * self.stride / geometry.to_image[0, 0].abs().to(camera)
            depth = depth * float(focal / self.reference_focal)
        # Some thousand pixels times some ten metres: half a dozen digits are too few for the original's millimetres.
        places = apply_affine(centers.double(), geometry.to_image)
        alpha = orientation_to_alpha(fields["orientation"])
        location = location_from_center(places, depth.double(), dimensions.double(), camera)
        rotation_y = alpha_to_rotation_y(alpha.double(), places[:, 0], camera)
        boxes = Boxes3D(torch.cat([location, dimensions.double(), rotation_y[:, None]], dim=1))
        return {"pred_boxes3d": boxes, "pred_alpha": alpha}


def _check_augmented(augmented: str, reference_focal: float) -> None:
    check_choice("MODEL.CENTERNET.BOX3D.AUGMENTED_DEPTH", augmented, AUGMENTED_DEPTH)
    if augmented == "camera" and not reference_focal > 0:
        raise ValueError(
            "MODEL.CENTERNET.BOX3D.AUGMENTED_DEPTH is 'camera', which needs a positive REFERENCE_FOCAL: how far away "
            "something is cannot be seen in a scaled image without its focal length"
        )
