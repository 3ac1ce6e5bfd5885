"""3-D boxes outside the network: annotations and cameras on their way to training, errors, pictures, JSON."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import Transform
from detectron2.structures import Instances
from detectron2.utils.logger import log_first_n
from detectron2.utils.visualizer import Visualizer
from torch import Tensor

from ....imaging.transforms import is_mirrored
from ....structures.boxes3d import Boxes3D, check_camera
from ....structures.points import known_objects
from ....structures.types import DatasetDict
from ....utils.validation import ArgumentError, check_choice
from ..point_head import Property
from .cameras import Cameras, carry_camera, choose_cameras
from .drawing import draw_birds_eye, draw_boxes3d

__all__ = ["Box3DProperty"]

AUGMENTED_DEPTH = ("mask", "camera")
# Keys of an annotation, and how many numbers each has.
_KEYS = {"location": 3, "dimensions": 3, "rotation_y": 1, "depth": 1, "alpha": 1}
# RGB of ground truth and detections in pictures.
_TRUTH, _DETECTION = (60, 220, 60), (255, 140, 0)


class Box3DProperty(Property):
    """Boxes in the camera coordinates of the original image, and the camera.

    An annotation either has all of ``location`` and ``depth`` (metres), ``dimensions`` [h, w, l], ``rotation_y`` and
    ``alpha``, or none: then nothing in space is learned from it. The same holds for images without a ``camera``, a
    (3, 4) projection matrix, and for regions to ignore.
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
    fields = ("pred_boxes3d", "pred_alpha")
    arguments = {
        "--calibration": {
            "type": Path,
            "help": "for 3-D boxes: a file in KITTI's format, or a folder with one for each picture",
        },
        "--focal-length": {"type": float, "help": "the same by the focal length in pixels"},
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
            augmented_depth: "mask" leaves depth and dimensions of shifted and scaled images without supervision;
                "camera" learns them, which needs `reference_focal`.
            reference_focal: focal length in input pixels for which depths are predicted; 0: whatever it is.
            default_camera: (3, 4) projection matrix of images that have none.

        Raises:
            ValueError: an unknown choice, depths of augmented images without a reference, or a default camera that is
                none (:func:`check_camera`).
        """
        check_choice("augmented_depth", augmented_depth, AUGMENTED_DEPTH)
        if augmented_depth == "camera" and not reference_focal > 0:
            raise ArgumentError(
                "reference_focal", f"is {reference_focal}, but learning the depth of scaled images needs a positive one"
            )
        try:
            self.default_camera = None if default_camera is None else check_camera(default_camera)
        except ValueError as error:
            raise ArgumentError("default_camera", f"is invalid: {error}") from error
        self.augmented_depth = augmented_depth
        self.reference_focal = reference_focal
        self._cameras: Cameras | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        if cfg.INPUT.AFFINE.TURN:
            raise ValueError(
                f"INPUT.AFFINE.TURN is {cfg.INPUT.AFFINE.TURN}, but boxes in space stand upright: set it to 0"
            )
        return super().from_config(cfg)

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        # "l1", or "log": the scale-invariant squared error of logarithms over the objects of an image.
        node.DEPTH_LOSS = "l1"
        node.DEPTH_WEIGHT = 1.0
        # Focal length in input pixels for which the network predicts depths. With it, depths are scaled by the focal
        # length that an image has in the network input, so they hold for other cameras and resolutions. 0: the network
        # predicts metres whatever the camera, as in the original.
        node.REFERENCE_FOCAL = 0.0
        # The (3, 4) projection matrix of images that come without one; the original's default.
        node.DEFAULT_CAMERA = [
            [707.0493, 0.0, 604.0814, 45.75831],
            [0.0, 707.0493, 180.5066, -0.3454157],
            [0.0, 0.0, 1.0, 0.004981016],
        ]

    @classmethod
    def add_quirks(cls, node: CfgNode) -> None:
        # Depth and dimensions of shifted and scaled images: "camera" learns them, which needs BOX3D.REFERENCE_FOCAL;
        # "mask" does not (original.md: KITTI window).
        node.AUGMENTED_DEPTH = "mask"

    def check(self, dicts: Sequence[DatasetDict]) -> None:
        """Check cameras and annotations. Objects that are not in front of the camera are counted in one log line.

        Raises:
            ValueError: a camera is none (:func:`check_camera`), or an object says only a part of what there is to say,
                or something that cannot be; names the image.
        """
        behind = 0
        for image in dicts:
            try:
                self.carry(image if "camera" in image else {}, ())
            except ValueError as error:
                raise ValueError(f"{image['file_name']}: {error}") from error
            for index, annotation in enumerate(image.get("annotations", ())):
                if _has_labels(annotation):
                    _check_object(annotation, f"{image['file_name']}, annotation {index} of this image")
                    behind += annotation["depth"] <= 0
        if behind:
            logging.getLogger(__name__).info(
                f"{behind} objects in {len(dicts)} images are not in front of the camera: no depth is learned from them"
            )

    def carry(self, inputs: dict[str, Any], transforms: Sequence[Transform]) -> dict[str, Any]:
        """The camera of the image after its transforms: (3, 4) float64; one that is none is an error."""
        if "camera" not in inputs:
            return {}
        camera = check_camera(inputs["camera"])
        return {"camera": torch.from_numpy(carry_camera(camera.numpy(), transforms)) if transforms else camera}

    def annotate(self, record: DatasetDict, transforms: Sequence[Transform], size: tuple[int, int]) -> dict[str, Any]:
        """3-D boxes under the transforms of an image; mirrored an odd number of times, left and right swap in space.

        Returns:
            ``gt_boxes3d`` (camera coordinates), ``gt_depth`` and ``gt_alpha`` (N,), ``gt_focal`` (N,), the focal length
            in pixels of the transformed image, ``gt_space`` (N,), 1 where all this is known, and ``gt_metric`` (N,), 1
            where depth and dimensions are to be learned.
        """
        annotations = record["annotations"]
        known = np.array([_has_labels(x) and "camera" in record for x in annotations], dtype=bool)
        values = np.zeros((len(annotations), 9))
        for row in np.flatnonzero(known):
            values[row] = np.concatenate([np.ravel(annotations[row][key]) for key in _KEYS])
        if is_mirrored(transforms):
            values[:, 0] *= -1
            # Of angles about the y axis, the one that points to the other side; back into -pi..pi.
            for column in (6, 8):
                values[:, column] = np.pi - values[:, column]
                values[:, column] -= 2 * np.pi * (values[:, column] > np.pi)
        jittered = any(getattr(transform, "jittered", False) for transform in transforms)
        numbers, space = torch.from_numpy(values).float(), torch.from_numpy(known).float()
        focal = carry_camera(record["camera"], transforms)[0, 0] if "camera" in record else 1.0
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

    def labelled(self, truth: Instances) -> Tensor:
        """Objects in front of the camera, whose depth is known."""
        return (truth.gt_space > 0) & (truth.gt_depth > 0)

    def errors(self, found: Instances, truth: Instances) -> dict[str, float]:
        """The mean error of the depth in ``metres``, and in ``percent`` of the true depth."""
        metres = (found.pred_boxes3d.location[:, 2].double() - truth.gt_depth.double()).abs()
        return {"metres": float(metres.mean()), "percent": float((100 * metres / truth.gt_depth.double()).mean())}

    def draw(self, picture: Visualizer, instances: Instances, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """The boxes in the image, true ones green and found ones orange, and what stands on the ground from above."""
        camera = inputs.get("camera", self.default_camera)
        if camera is None:
            return []
        if instances.has("scores"):
            boxes, color = instances.pred_boxes3d, _DETECTION
        else:
            truth = known_objects(instances)
            boxes, color = truth.gt_boxes3d[truth.gt_space > 0], _TRUTH
        draw_boxes3d(picture, boxes, camera, color)
        depth = max([10.0, *boxes.location[:, 2].tolist()])
        # Up to the next ten metres; a network that has learned nothing may see things at any distance.
        depth = min(10.0 * (int(depth / 10) + 1), 80.0)
        height = picture.output.height
        return [draw_birds_eye([(boxes, color)], (height, max(height, 160)), depth)]

    def to_json(self, instances: Instances) -> list[dict[str, Any]]:
        """``box3d``: x, y, z, height, width, length, rotation_y; and ``alpha``."""
        pairs = zip(instances.pred_boxes3d.tensor.tolist(), instances.pred_alpha.tolist(), strict=True)
        return [{"box3d": box, "alpha": alpha} for box, alpha in pairs]

    def use_arguments(self, args: argparse.Namespace) -> None:
        self._cameras = choose_cameras(args.calibration, args.focal_length)
        if self._cameras is None:
            message = "no --calibration and no --focal-length: BOX3D.DEFAULT_CAMERA of the config counts"
            log_first_n(logging.WARNING, message)

    def picture_inputs(self, name: str, size: tuple[int, int]) -> dict[str, Any]:
        return {} if self._cameras is None else {"camera": self._cameras(name, size)}


def _has_labels(annotation: dict) -> bool:
    return not annotation.get("ignore", False) and any(key in annotation for key in _KEYS)


def _check_object(annotation: dict, where: str) -> None:
    for name, count in _KEYS.items():
        values = np.asarray(annotation.get(name, ()), dtype=np.float64).ravel()
        if len(values) != count or not np.isfinite(values).all():
            raise ValueError(f"{where}: '{name}' is {annotation.get(name)!r} instead of {count} finite numbers")
    if min(annotation["dimensions"]) <= 0:
        raise ValueError(f"{where}: the dimensions {list(annotation['dimensions'])} are not positive")
