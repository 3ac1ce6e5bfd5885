"""Which camera took a picture: what distances in 3-D boxes depend on."""

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

__all__ = ["carry_camera", "choose_cameras"]

# Name, and height and width, of a picture -> its (3, 4) projection matrix.
Cameras = Callable[[str, tuple[int, int]], Tensor]


def carry_camera(camera: np.ndarray | Sequence[Sequence[float]], transforms: Sequence[Transform]) -> np.ndarray:
    """The projection matrix of an image after its transforms.

    A mirrored image shows the mirrored world: its x axis is turned around, so that focal lengths stay positive.

    Args:
        camera: (3, 4).
        transforms: what the image went through, in order; all affine.

    Returns:
        (3, 4) float64; points in camera coordinates (x negated if mirrored) -> pixels of the transformed image.
    """
    camera = np.asarray(camera, dtype=np.float64)
    for transform in transforms:
        # An affine map is known by what it does to three points.
        origin, right, down = transform.apply_coords(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        matrix = np.column_stack([right - origin, down - origin, origin])
        camera = np.concatenate([matrix @ camera, camera[2:]])
    if is_mirrored(transforms):
        camera[:, 0] *= -1
    return camera


def choose_cameras(calibration: Path | None, focal_length: float | None) -> Cameras | None:
    """How to find the camera of a picture; None if nothing is said of it.

    Args:
        calibration: a calibration file in KITTI's format for all pictures, or a folder with one for each, called like
            the picture.
        focal_length: in pixels, of a camera that looks at the middle of each picture.

    Raises:
        ValueError: both are given, the focal length is not positive, or the file is malformed.
        FileNotFoundError: there is no such file or folder.
    """
    if calibration is not None and focal_length is not None:
        raise ValueError("give either --calibration or --focal-length")
    if focal_length is not None:
        if not (math.isfinite(focal_length) and focal_length > 0):
            raise ValueError(f"--focal-length {focal_length}: it must be positive")
        return lambda name, size: pinhole_camera(focal_length, size)
    if calibration is None:
        return None
    if calibration.is_dir():
        return lambda name, size: find_camera(calibration / f"{Path(name).stem}.txt")
    matrix = find_camera(calibration)
    return lambda name, size: matrix


def find_camera(path: Path) -> Tensor:
    """The camera in a calibration file of KITTI's format.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is malformed; the message names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the calibration file {path} does not exist")
    return torch.tensor(read_camera(path), dtype=torch.float64)
