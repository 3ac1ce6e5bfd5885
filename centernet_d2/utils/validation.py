"""Validation of choices and of tables of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["LARGEST_COORDINATE", "check_choice", "number_table"]

# In pixels. Beyond it, float32 does not distinguish neighboring pixels.
LARGEST_COORDINATE = 2**24


def number_table(rows: Sequence[object], width: int) -> np.ndarray | None:
    """Convert rows of numbers to one array.

    Args:
        rows: lists of numbers.
        width: length of each.

    Returns:
        (N, width) float64; None if a row has another length, or contains a value that is not a number, not finite, or
        larger than LARGEST_COORDINATE. Strings such as "1" are not numbers.
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
