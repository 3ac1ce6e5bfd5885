"""Validation of arguments and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["LARGEST_COORDINATE", "ArgumentError", "check_choice", "finite_numbers", "number_table"]

# In pixels. Beyond this value, float32 cannot represent all integers.
LARGEST_COORDINATE = 2**24


def number_table(rows: Sequence[object], width: int) -> np.ndarray | None:
    """Convert rows of numbers to one array.

    Args:
        rows: lists of numbers.
        width: required length of each list.

    Returns:
        (N, width) float64; None if a list has another length, or contains a value that is not a number, not finite, or
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
    """Error about the value of an argument.

    :func:`name_keys` converts it to an error about a config key.

    Attributes:
        argument: name of the argument, the first part of the message.
        problem: rest of the message.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(argument, problem)
        self.argument = argument
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.argument} {self.problem}"


def check_choice(argument: str, value: object, known: Sequence[object]) -> None:
    """Raise an :class:`ArgumentError` if `value` is not one of the known choices."""
    if value not in known:
        raise ArgumentError(argument, f"is {value!r}, known: {', '.join(map(str, known))}")


def finite_numbers(fields: Sequence[str], where: str) -> list[float]:
    """Convert strings to finite numbers.

    Raises:
        ValueError: a string is not a finite number; the message starts with `where`.
    """
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
