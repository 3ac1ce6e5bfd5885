"""KITTI's text files: their lines, their numbers, and the camera of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from .boxes3d import check_camera

__all__ = ["finite_numbers", "read_camera", "text_lines"]


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


def text_lines(path: str | Path) -> list[tuple[str, str]]:
    """The lines of a file that are not blank, each after its place for errors."""
    # What is no text becomes a line that cannot be parsed, and so an error that names it.
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    return [(f"{path}, line {index}", line.strip()) for index, line in enumerate(lines, 1) if line.strip()]


def finite_numbers(fields: Sequence[str], where: str) -> list[float]:
    numbers = []
    for field in fields:
        try:
            number = float(field)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{where}: '{field}' is not a finite number")
        numbers.append(number)
    return numbers
