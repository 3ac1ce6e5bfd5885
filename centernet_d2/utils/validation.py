"""Validation of arguments and of tables of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["LARGEST_COORDINATE", "ArgumentError", "check_choice", "finite_numbers", "number_table"]

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


class ArgumentError(ValueError):
    """Invalid argument. In a config error, :func:`name_keys` replaces its name by the config key.

    Attributes:
        argument: name of the argument or config key, with which the message begins.
        problem: rest of the message.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(argument, problem)
        self.argument = argument
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.argument} {self.problem}"


def check_choice(argument: str, value: object, known: Sequence[object]) -> None:
    """Raise an :class:`ArgumentError` unless `value` is one of the known choices."""
    if value not in known:
        raise ArgumentError(argument, f"is {value!r}, known: {', '.join(map(str, known))}")


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
