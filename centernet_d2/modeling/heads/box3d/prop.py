"""3-D box property: annotations, cameras, error metrics, visualization, JSON."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import Transform
from detectron2.structures import Instances
from detectron2.utils.logger import log_first_n
from torch import Tensor

from ....imaging.transforms import is_mirrored
from ....imaging.visualization import class_color
from ....structures.boxes3d import Boxes3D, check_camera
from ....structures.plots import Plot, histogram
from ....structures.points import known_objects
from ....structures.types import DatasetDict
from ....utils.validation import ArgumentError, check_choice
from ..point_head import Property
from .cameras import CameraLookup, camera_lookup, transform_camera
from .drawing import draw_birds_eye, draw_boxes3d

if TYPE_CHECKING:  # It imports matplotlib, which takes a second.
    from detectron2.utils.visualizer import Visualizer

__all__ = ["Box3DProperty"]

AUGMENTED_DEPTH = ("mask", "camera")
# Annotation key -> number of values.
_KEYS = {"location": 3, "dimensions": 3, "rotation_y": 1, "depth": 1, "alpha": 1}
_SIZES = ("Height", "Width", "Length")


class Box3DProperty(Property):
    """3-D boxes in camera coordinates of the original image.

    An annotation has either all of ``location`` and ``depth`` (meters), ``dimensions`` [h, w, l], ``rotation_y`` and
    ``alpha``, or none of them; then the 3-D box is not supervised. It is not supervised either in images without a
    ``camera``, a (3, 4) projection matrix, and in regions to ignore.
    """

    name = "box3d"
    node = "BOX3D"
    keys = {
        "augmented_depth": "MODEL.CENTERNET.QUIRKS.BOX3D.AUGMENTED_DEPTH",
        "reference_focal": "MODEL.CENTERNET.BOX3D.REFERENCE_FOCAL",
        "default_camera": "MODEL.CENTERNET.BOX3D.DEFAULT_CAMERA",
    }
    annotation_keys = tuple(_KEYS)
    input_keys = ("camera",)
    input_shapes = {"camera": (3, 4)}
    fields = ("pred_boxes3d", "pred_alpha")
    json_keys = {"pred_boxes3d": "box3d"}
    arguments = {
        "--calibration": {
            "type": Path,
            "metavar": "PATH",
            "help": "KITTI calibration file, or folder with one file per image (3-D boxes)",
        },
        "--focal-length": {
            "type": float,
            "metavar": "PIXELS",
            "help": "focal length, instead of --calibration (3-D boxes)",
        },
    }

    @configurable
    def __init__(
        self,
        *,
        augmented_depth: str = "mask",
        reference_focal: float = 0.0,
        default_camera: Sequence[Sequence[float]] | None = None,
    ) -> None:
        """
        Args:
            augmented_depth: "mask" does not supervise depth and dimensions in shifted and scaled images; "camera"
                supervises them, which requires `reference_focal`.
            reference_focal: focal length in input pixels for which depths are predicted; 0 disables scaling by the
                focal length.
            default_camera: (3, 4) projection matrix of images without a ``camera``.

        Raises:
            ValueError: if `augmented_depth` is unknown or requires a positive `reference_focal`, or `default_camera`
                is invalid (:func:`check_camera`).
        """
        check_choice("augmented_depth", augmented_depth, AUGMENTED_DEPTH)
        if augmented_depth == "camera" and not reference_focal > 0:
            raise ArgumentError(
                "reference_focal", f"is {reference_focal}, but must be positive to learn the depth of scaled images"
            )
        try:
            self.default_camera = None if default_camera is None else check_camera(default_camera)
        except ValueError as error:
            raise ArgumentError("default_camera", f"is invalid: {error}") from error
        self.augmented_depth = augmented_depth
        self.reference_focal = reference_focal
        self._cameras: CameraLookup | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        if cfg.INPUT.AFFINE.TURN:
            raise ValueError(
                f"INPUT.AFFINE.TURN is {cfg.INPUT.AFFINE.TURN}, but 3-D boxes do not support rotation: set it to 0"
            )
        return super().from_config(cfg)

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        # "l1" or "log" (scale-invariant squared error of log depths over the objects of an image).
        node.DEPTH_LOSS = "l1"
        node.DEPTH_WEIGHT = 1.0
        # Focal length in input pixels for which the network predicts depths. If positive, depths are scaled by the
        # focal length of the network input, so that they hold for other cameras and resolutions. 0: the network
        # predicts meters independently of the camera, as in the reference implementation.
        node.REFERENCE_FOCAL = 0.0
        # (3, 4) projection matrix of images without a camera; default of the reference implementation.
        node.DEFAULT_CAMERA = [
            [707.0493, 0.0, 604.0814, 45.75831],
            [0.0, 707.0493, 180.5066, -0.3454157],
            [0.0, 0.0, 1.0, 0.004981016],
        ]

    @classmethod
    def add_quirks(cls, node: CfgNode) -> None:
        # Depth and dimensions in shifted and scaled images: "camera" supervises them, which requires
        # BOX3D.REFERENCE_FOCAL; "mask" does not (original.md: KITTI window).
        node.AUGMENTED_DEPTH = "mask"

    def check(self, dicts: Sequence[DatasetDict]) -> None:
        """Validate cameras and annotations.

        The number of objects that are not in front of the camera is logged.

        Raises:
            ValueError: if a camera is invalid (:func:`check_camera`), or an annotation is incomplete or invalid; the
                message names the image.
        """
        behind = 0
        for image in dicts:
            try:
                self.carry(image if "camera" in image else {}, ())
            except ValueError as error:
                raise ValueError(f"{image['file_name']}: {error}") from error
            for index, annotation in enumerate(image.get("annotations", ())):
                if _has_labels(annotation):
                    _check_annotation(annotation, f"{image['file_name']}, annotation {index} of this image")
                    behind += annotation["depth"] <= 0
        if behind:
            logging.getLogger(__name__).info(
                f"{behind} objects in {len(dicts)} images are not in front of the camera: their depth is not supervised"
            )

    def carry(self, inputs: dict[str, Any], transforms: Sequence[Transform]) -> dict[str, Any]:
        """Return the validated camera after the transforms, (3, 4) float64."""
        if "camera" not in inputs:
            return {}
        camera = check_camera(inputs["camera"])
        return {"camera": torch.from_numpy(transform_camera(camera.numpy(), transforms)) if transforms else camera}

    def default_inputs(self) -> dict[str, Tensor | None]:
        return {"camera": self.default_camera}

    def annotate(self, record: DatasetDict, transforms: Sequence[Transform], size: tuple[int, int]) -> dict[str, Any]:
        """Transform 3-D annotations with the image.

        Boxes of horizontally flipped images are flipped in space.

        Returns:
            ``gt_boxes3d`` (camera coordinates), ``gt_depth`` and ``gt_alpha`` (N,), ``gt_focal`` (N,), the focal length
            in pixels of the transformed image, ``gt_space`` (N,), 1 for annotated 3-D boxes, and ``gt_metric`` (N,), 1
            if depth and dimensions are supervised.
        """
        annotations = record["annotations"]
        known = np.array([_has_labels(x) and "camera" in record for x in annotations], dtype=bool)
        values = np.zeros((len(annotations), 9))
        for row in np.flatnonzero(known):
            values[row] = np.concatenate([np.ravel(annotations[row][key]) for key in _KEYS])
        if is_mirrored(transforms):
            values[:, 0] *= -1
            # Flip rotation_y and alpha, wrapped to -pi..pi.
            for column in (6, 8):
                values[:, column] = np.pi - values[:, column]
                values[:, column] -= 2 * np.pi * (values[:, column] > np.pi)
        jittered = any(getattr(transform, "jittered", False) for transform in transforms)
        numbers, space = torch.from_numpy(values).float(), torch.from_numpy(known).float()
        focal = transform_camera(record["camera"], transforms)[0, 0] if "camera" in record else 1.0
        return {
            "gt_boxes3d": Boxes3D(numbers[:, :7]),
            "gt_depth": numbers[:, 7],
            "gt_alpha": numbers[:, 8],
            "gt_focal": torch.full((len(numbers),), focal),
            "gt_space": space,
            "gt_metric": space * float(self.augmented_depth == "camera" or not jittered),
        }

    @property
    def error_name(self) -> str:
        return "depth"

    def labeled(self, truth: Instances) -> Tensor:
        """Return True for objects with annotated depth in front of the camera."""
        return (truth.gt_space > 0) & (truth.gt_depth > 0)

    def errors(self, detections: Instances, truth: Instances) -> dict[str, float]:
        """Compute the mean absolute depth error.

        Returns:
            The error in ``meters``, and in ``percent`` of the true depth.
        """
        meters = (detections.pred_boxes3d.location[:, 2].double() - truth.gt_depth.double()).abs()
        return {"meters": float(meters.mean()), "percent": float((100 * meters / truth.gt_depth.double()).mean())}

    def plots(self, found: Instances | None, truth: Instances) -> list[Plot]:
        """Return distributions of annotations, or errors of depth and yaw of detections."""
        depth, yaw = truth.gt_depth.double().numpy(), truth.gt_boxes3d.rotation_y.double().numpy()
        if found is None:
            sizes = truth.gt_boxes3d.dimensions.double().numpy()
            return [
                histogram("Depth of objects", "depth (m)", depth),
                *(histogram(f"{name} of objects", f"{name.lower()} (m)", sizes[:, i]) for i, name in enumerate(_SIZES)),
                histogram("Yaw of objects", "rotation_y (degrees)", np.degrees(yaw), limits=(-180.0, 180.0)),
                histogram("Cameras, by object", "focal length (pixels)", truth.gt_focal.double().numpy()),
            ]
        boxes = found.pred_boxes3d
        error = boxes.location[:, 2].double().numpy() - depth
        turn = (np.degrees(boxes.rotation_y.double().numpy() - yaw) + 180) % 360 - 180
        pairs = {"objects": (depth.tolist(), error.tolist())}
        return [
            Plot("Depth error over distance", "depth (m)", "predicted - true depth (m)", pairs, "points"),
            histogram("Depth error", "predicted - true depth (m)", error),
            histogram("Yaw error", "predicted - true yaw (degrees)", turn, limits=(-180.0, 180.0)),
        ]

    def draw(self, visualizer: Visualizer, instances: Instances, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """Draw projected boxes and a bird's-eye view in the colors of the classes."""
        camera = inputs.get("camera", self.default_camera)
        if camera is None:
            return []
        if instances.has("scores"):
            boxes, classes = instances.pred_boxes3d, instances.pred_classes
        else:
            truth = known_objects(instances)
            truth = truth[truth.gt_space > 0]
            boxes, classes = truth.gt_boxes3d, truth.gt_classes
        groups = [(boxes[classes == index], _color(index)) for index in classes.unique().tolist()]
        for own, color in groups:
            draw_boxes3d(visualizer, own, camera, color)
        depth = max([10.0, *boxes.location[:, 2].tolist()])
        # Round up to 10 meters, limited to 80, because predictions of an untrained network may have any depth.
        depth = min(10.0 * (int(depth / 10) + 1), 80.0)
        height = visualizer.output.height
        return [draw_birds_eye(groups, (height, max(height, 160)), depth)]

    def to_json(self, instances: Instances) -> list[dict[str, Any]]:
        """Return ``box3d`` (x, y, z, height, width, length, rotation_y) and ``alpha``."""
        pairs = zip(instances.pred_boxes3d.tensor.tolist(), instances.pred_alpha.tolist(), strict=True)
        return [{"box3d": box, "alpha": alpha} for box, alpha in pairs]

    def use_arguments(self, args: argparse.Namespace) -> None:
        self._cameras = camera_lookup(args.calibration, args.focal_length)
        if self._cameras is None:
            message = "neither --calibration nor --focal-length is set: using BOX3D.DEFAULT_CAMERA of the config"
            log_first_n(logging.WARNING, message)

    def picture_inputs(self, name: str, size: tuple[int, int]) -> dict[str, Any]:
        return {} if self._cameras is None else {"camera": self._cameras(name, size)}


def _has_labels(annotation: dict) -> bool:
    return not annotation.get("ignore", False) and any(key in annotation for key in _KEYS)


def _check_annotation(annotation: dict, where: str) -> None:
    for name, count in _KEYS.items():
        values = np.asarray(annotation.get(name, ()), dtype=np.float64).ravel()
        if len(values) != count or not np.isfinite(values).all():
            raise ValueError(f"{where}: '{name}' is {annotation.get(name)!r}, but must be {count} finite numbers")
    if min(annotation["dimensions"]) <= 0:
        raise ValueError(f"{where}: 'dimensions' are {list(annotation['dimensions'])}, but must be positive")


def _color(index: int) -> tuple[int, int, int]:
    """Return the color of a class, RGB in 0..255."""
    red, green, blue = (round(255 * value) for value in class_color(index))
    return red, green, blue
