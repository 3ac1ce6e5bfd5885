"""3-D annotations on their way to training: cameras under augmentations, and checks before hours are spent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data.transforms import Transform

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

    Raises:
        ValueError: an image has no camera, or an object lacks something or is not in front of the camera; names the
            image.
    """
    for image in dicts:
        camera = image.get("camera")
        if camera is None:
            raise ValueError(f"{image['file_name']} has no camera, which 3-D boxes need")
        matrix = np.asarray(camera, dtype=np.float64)
        if matrix.shape != (3, 4) or not np.isfinite(matrix).all() or min(matrix[0, 0], matrix[1, 1]) <= 0:
            raise ValueError(
                f"{image['file_name']}: the camera is not a (3, 4) matrix of finite numbers with positive focal lengths"
            )
        if matrix[0, 1] or matrix[1, 0]:
            raise ValueError(f"{image['file_name']}: the camera has a skew, which 3-D boxes do not allow for")
        for index, annotation in enumerate(image.get("annotations", ())):
            if not annotation.get("ignore", False):
                _check_object(annotation, f"{image['file_name']}, annotation {index} of this image")


def _check_object(annotation: dict, where: str) -> None:
    for name, count in _FIELDS.items():
        values = np.asarray(annotation.get(name, ()), dtype=np.float64).ravel()
        if len(values) != count or not np.isfinite(values).all():
            raise ValueError(f"{where}: '{name}' is {annotation.get(name)!r} instead of {count} finite numbers")
    if min(annotation["dimensions"]) <= 0:
        raise ValueError(f"{where}: the dimensions {list(annotation['dimensions'])} are not positive")
    if annotation["depth"] <= 0:
        raise ValueError(f"{where}: the depth {annotation['depth']} m is not in front of the camera")
