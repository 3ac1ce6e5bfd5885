"""3-D annotations on their way to training: cameras under augmentations, and checks before hours are spent."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from detectron2.data.transforms import Transform

from ..structures.boxes3d import check_camera
from .augmentations import is_mirrored

__all__ = ["carry_camera", "check_boxes3d"]

# Keys of an annotation, and how many numbers each has.
_FIELDS = {"depth": 1, "alpha": 1, "rotation_y": 1, "dimensions": 3, "location": 3}


def carry_camera(camera: np.ndarray | Sequence[Sequence[float]], transforms: Sequence[Transform]) -> np.ndarray:
    """The projection matrix of an image after its transforms.

    A mirrored image shows the mirrored world: its x axis is turned around, so that focal lengths stay positive.

    Args:
        camera: (3, 4).
        transforms: what the image went through, in order; all affine.

    Returns:
        (3, 4) float64; points in camera coordinates (x negated if mirrored) -> pixels of the transformed image.
    """
    camera = np.array(camera, dtype=np.float64)
    for transform in transforms:
        # An affine map is known by what it does to three points.
        origin, right, down = transform.apply_coords(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        matrix = np.column_stack([right - origin, down - origin, origin])
        camera = np.concatenate([matrix @ camera, camera[2:]])
    if is_mirrored(transforms):
        camera[:, 0] *= -1
    return camera


def check_boxes3d(dicts: Sequence[dict]) -> None:
    """Check cameras and 3-D annotations of a data set.

    Objects that are not in front of the camera are counted in one log line; see
    :class:`centernet_d2.modeling.Box3DHead`.

    Raises:
        ValueError: an image has no camera, or one that is none (:func:`check_camera`), or an object lacks something;
            names the image.
    """
    behind = 0
    for image in dicts:
        camera = image.get("camera")
        if camera is None:
            raise ValueError(f"{image['file_name']} has no camera, which 3-D boxes need")
        try:
            check_camera(camera)
        except ValueError as error:
            raise ValueError(f"{image['file_name']}: {error}") from error
        for index, annotation in enumerate(image.get("annotations", ())):
            if not annotation.get("ignore", False):
                _check_object(annotation, f"{image['file_name']}, annotation {index} of this image")
                behind += annotation["depth"] <= 0
    if behind:
        logging.getLogger(__name__).info(
            f"{behind} objects in {len(dicts)} images are not in front of the camera: no depth is learned from them"
        )


def _check_object(annotation: dict, where: str) -> None:
    for name, count in _FIELDS.items():
        values = np.asarray(annotation.get(name, ()), dtype=np.float64).ravel()
        if len(values) != count or not np.isfinite(values).all():
            raise ValueError(f"{where}: '{name}' is {annotation.get(name)!r} instead of {count} finite numbers")
    if min(annotation["dimensions"]) <= 0:
        raise ValueError(f"{where}: the dimensions {list(annotation['dimensions'])} are not positive")
