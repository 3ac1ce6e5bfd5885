"""Ground truth without augmentation, inputs of properties, and crops of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..modeling.heads import Property
from ..structures.types import DatasetDict

__all__ = ["crop", "property_inputs"]


def property_inputs(record: DatasetDict, properties: Sequence[Property]) -> dict[str, Any]:
    """Return the validated inputs of properties from a dataset dict."""
    return {
        key: value
        for prop in properties
        for key, value in prop.carry({key: record[key] for key in prop.input_keys if key in record}, ()).items()
    }


def crop(pixels: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the surroundings of a box, at least 160 pixels wide and high."""
    center, half = (low + high) / 2, np.maximum((high - low), 80)
    x1, y1 = (center - half).clip(0).astype(int)
    x2, y2 = (center + half).astype(int)
    return pixels[y1:y2, x1:x2]
