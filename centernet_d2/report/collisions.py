"""Objects whose centers fall into the same cell, which bounds recall."""

from __future__ import annotations

import numpy as np

__all__ = ["STRIDES", "count_collisions"]

STRIDES = (8, 4, 2)


def count_collisions(
    image: np.ndarray, classes: np.ndarray, centers: np.ndarray, stride: int
) -> tuple[dict, np.ndarray]:
    """Count the objects that share a cell with another object of their image.

    A heatmap has one peak per cell and class, so all objects of one class in a cell except one are lost. Objects of
    other classes in the same cell are found, but share the regressed properties.

    Args:
        image, classes: (N,) image and class of each object.
        centers: (N, 2) centers in pixels of the network input.
        stride: pixels per cell.

    Returns:
        ``same_class``, the number of lost objects, ``other_class``, the number of objects that share a cell with
        another class, ``share`` of lost objects, and ``recall_bound``; and the (N,) mask of objects in cells with a
        lost object.
    """
    cells = np.floor(centers / stride).astype(np.int64)
    places = np.column_stack([image, cells]) if len(image) else np.zeros((0, 3), dtype=np.int64)
    _, place, size = np.unique(places, axis=0, return_inverse=True, return_counts=True)
    keys = np.column_stack([place.ravel(), classes])
    kinds, kind, number = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    crowded = (number > 1)[kind.ravel()]
    mixed = size[place.ravel()] > number[kind.ravel()]
    same, total = len(image) - len(kinds), len(image)
    share = same / total if total else 0.0
    counts = {"same_class": same, "other_class": int(mixed.sum()), "share": share, "recall_bound": 1 - share}
    return counts, crowded
