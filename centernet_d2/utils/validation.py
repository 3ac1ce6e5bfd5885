"""Many lists of numbers, checked at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["LARGEST_COORDINATE", "check_choice", "finite_numbers", "number_table"]

# Pixels. Beyond it, float32 does not tell neighboring pixels apart.
LARGEST_COORDINATE = 2**24


def number_table(rows: Sequence[object], width: int) -> np.ndarray | None:
    """Rows of numbers as one array, if they are.

    Args:
        rows: what should be lists of numbers.
        width: length of each.

    Returns:
        (N, width) float64; None if a row has another length, or something that is no number, not finite, or further
        from 0 than LARGEST_COORDINATE. Texts like "1" are no numbers.
    """
    if not rows:
        return np.zeros((0, width))
    try:
        table = np.array(rows)
    except (TypeError, ValueError):
        return None
    if table.shape != (len(rows), width) or table.dtype.kind not in "iuf":
        return None
    table = table.astype(np.float64)
    return table if (np.abs(table) <= LARGEST_COORDINATE).all() else None


def check_choice(name: str, value: object, known: Sequence[object]) -> None:
    """Raise a ValueError unless a value is one of the known ones; `name` is that of the argument or config key."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}, known: {', '.join(map(str, known))}")


def finite_numbers(fields: Sequence[str], where: str) -> list[float]:
    """Convert texts to numbers; raise a ValueError that names `where` for a text that is not a finite number."""
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
