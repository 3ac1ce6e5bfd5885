"""Camera matrices of images, which determine the depths of 3-D boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data.transforms import Transform
from torch import Tensor

from ....imaging.transforms import is_mirrored
from ....structures.boxes3d import pinhole_camera
from ....structures.calibration import read_camera

__all__ = ["camera_lookup", "transform_camera"]

# (image name, (height, width)) -> (3, 4) projection matrix of the image.
CameraLookup = Callable[[str, tuple[int, int]], Tensor]


def transform_camera(camera: np.ndarray | Sequence[Sequence[float]], transforms: Sequence[Transform]) -> np.ndarray:
    """Apply image transforms to a projection matrix.

    For a horizontally flipped image, the x axis of the camera coordinates is negated, so that focal lengths stay
    positive.

    Args:
        camera: (3, 4) projection matrix of the original image.
        transforms: transforms of the image, in order; all must be affine.

    Returns:
        (3, 4) float64 matrix from camera coordinates (x negated if flipped) to pixels of the transformed image.
    """
    camera = np.asarray(camera, dtype=np.float64)
    for transform in transforms:
        # Three points determine an affine transform.
        origin, right, down = transform.apply_coords(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        matrix = np.column_stack([right - origin, down - origin, origin])
        camera = np.concatenate([matrix @ camera, camera[2:]])
    if is_mirrored(transforms):
        camera[:, 0] *= -1
    return camera


def camera_lookup(calibration: Path | None, focal_length: float | None) -> CameraLookup | None:
    """Return a function that returns the camera of an image, or None without options.

    Args:
        calibration: KITTI calibration file for all images, or a folder with a file ``NAME.txt`` per image.
        focal_length: focal length in pixels; the principal point is the center of each image.

    Raises:
        ValueError: if both are given, the focal length is not positive, or the file is malformed.
        FileNotFoundError: if the file or folder does not exist.
    """
    if calibration is not None and focal_length is not None:
        raise ValueError("--calibration and --focal-length are mutually exclusive: set only one of them")
    if focal_length is not None:
        if not (math.isfinite(focal_length) and focal_length > 0):
            raise ValueError(f"--focal-length is {focal_length}, but must be positive")
        return lambda name, size: pinhole_camera(focal_length, size)
    if calibration is None:
        return None
    if calibration.is_dir():
        return lambda name, size: load_camera(calibration / f"{Path(name).stem}.txt")
    matrix = load_camera(calibration)
    return lambda name, size: matrix


def load_camera(path: Path) -> Tensor:
    """Read the camera from a KITTI calibration file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is malformed; the message names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the calibration file {path} does not exist")
    return torch.tensor(read_camera(path), dtype=torch.float64)
