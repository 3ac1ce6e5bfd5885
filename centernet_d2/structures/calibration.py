"""Calibration files of KITTI."""

from __future__ import annotations

from pathlib import Path

from ..utils.files import text_lines
from ..utils.validation import finite_numbers
from .boxes3d import check_camera

__all__ = ["read_camera"]


def read_camera(path: str | Path) -> list[list[float]]:
    """The (3, 4) matrix P2, of the left colour camera, from a calibration file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no P2, or one that is no camera (:func:`centernet_d2.structures.boxes3d.check_camera`).
    """
    for where, line in text_lines(path):
        name, _, content = line.partition(":")
        if name.strip() != "P2":
            continue
        numbers = finite_numbers(content.split(), where)
        if len(numbers) != 12:
            raise ValueError(f"{where}: P2 has {len(numbers)} numbers instead of 12")
        try:
            return check_camera([numbers[row : row + 4] for row in (0, 4, 8)]).tolist()
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    raise ValueError(f"{path}: no line 'P2: ...' with the matrix of the left colour camera")
