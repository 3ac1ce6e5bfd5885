"""Validity of 90-degree rotation as an augmentation, from box statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..readers import LabeledImage

__all__ = ["rotation_veto"]

# Minimum number of boxes in total and per class, and minimum fraction of boxes in classes with enough boxes.
BOXES, CLASS_BOXES, SHARE = 100, 30, 0.9
# Boxes closer to the border than this fraction of the image may be truncated and are ignored.
BORDER = 0.01
# Tolerances for random variation: mean log aspect ratio of a class, distance of the mean center from the vertical
# middle of the image, and rank correlation of object size and vertical position.
ASPECT, MIDDLE, PERSPECTIVE = 0.1, 0.07, 0.15


def rotation_veto(images: Sequence[LabeledImage]) -> str:
    """Return the reason against 90-degree rotation, or "" if rotation is valid.

    Three statistics indicate that images have an upright orientation: objects are taller than wide or wider than tall,
    their centers are low or high in the image, or their size depends on their vertical position.

    Args:
        images: training images with their sizes.
    """
    labels, boxes = _boxes(images)
    inside = (boxes[:, :2].min(axis=1) >= BORDER) & (boxes[:, 2:4].max(axis=1) <= 1 - BORDER)
    labels, boxes = labels[inside], boxes[inside]
    names, counts = np.unique(labels, return_counts=True)
    common = names[counts >= CLASS_BOXES]
    if len(boxes) < BOXES or np.isin(labels, common).mean() < SHARE:
        return "too few boxes for statistics of their orientation"
    aspect, height = boxes[:, 4], boxes[:, [1, 3]].mean(axis=1)
    for name in common:
        if abs(own := aspect[labels == name].mean()) > ASPECT:
            return f"{name}: {np.expm1(abs(own)):.0%} {'wider than tall' if own > 0 else 'taller than wide'}"
    if abs(height.mean() - 0.5) > MIDDLE:
        return f"objects are {'low' if height.mean() > 0.5 else 'high'} in the images"
    size = (boxes[:, 2:4] - boxes[:, :2]).prod(axis=1)
    if abs(np.corrcoef(_ranks(size), _ranks(height))[0, 1]) > PERSPECTIVE:
        return "the size of objects depends on their vertical position"
    return ""


def _boxes(images: Sequence[LabeledImage]) -> tuple[NDArray, NDArray]:
    """Return (N,) labels, and (N, 5): XYXY relative to the image, and log(width / height) in pixels."""
    rows, labels = [], []
    for image in images:
        for obj in image.objects:
            left, top, right, bottom = obj.box
            relative = left / image.width, top / image.height, right / image.width, bottom / image.height
            rows.append((*relative, np.log((right - left) / (bottom - top))))
            labels.append(obj.label)
    return np.array(labels, dtype=str), np.array(rows, dtype=float).reshape(-1, 5)


def _ranks(values: NDArray) -> NDArray:
    return values.argsort().argsort()
