"""Which camera took a picture: what distances in 3-D boxes depend on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..data.datasets.kitti import read_camera
from ..structures.boxes3d import pinhole_camera
from .sources import Frame

__all__ = ["choose_cameras", "find_camera"]

# A picture -> its (3, 4) projection matrix.
Cameras = Callable[[Frame], Tensor]


def choose_cameras(calibration: Path | None, focal_length: float | None, default: Sequence[Sequence[float]]) -> Cameras:
    """How to find the camera of a picture.

    Args:
        calibration: a calibration file in KITTI's format for all pictures, or a folder with one for each, called like
            the picture.
        focal_length: in pixels, of a camera that looks at the middle of each picture.
        default: (3, 4) matrix for all pictures, if there is neither.

    Raises:
        ValueError: both are given, the focal length is not positive, or the file is malformed.
        FileNotFoundError: there is no such file or folder.
    """
    if calibration is not None and focal_length is not None:
        raise ValueError("give either --calibration or --focal-length")
    if focal_length is not None:
        if not (math.isfinite(focal_length) and focal_length > 0):
            raise ValueError(f"--focal-length {focal_length}: it must be positive")
        return lambda frame: pinhole_camera(focal_length, frame.image.shape[:2])
    if calibration is not None and calibration.is_dir():
        return lambda frame: find_camera(calibration / f"{Path(frame.name).stem}.txt")
    matrix = torch.tensor(default, dtype=torch.float64) if calibration is None else find_camera(calibration)
    return lambda frame: matrix


def find_camera(path: Path) -> Tensor:
    """The camera in a calibration file of KITTI's format.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is malformed; the message names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the calibration file {path} does not exist")
    return torch.tensor(read_camera(path), dtype=torch.float64)
