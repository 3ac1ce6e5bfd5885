"""Whether the objects of found data lie any way, as seen from above or through a microscope: told by their boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..readers import LabeledImage

__all__ = ["why_not_turned"]

# So many boxes say something of all objects, and of a class; this share of the objects must be of such classes.
BOXES, CLASS_BOXES, SHARE = 100, 30, 0.9
# Boxes so near to the border, relative to the image, may be cut by it and say nothing.
BORDER = 0.01
# What is left to chance: the mean logarithm of width by height of a class, how far the mean height of centers is from
# the middle, and the rank correlation of size and height in the image.
ASPECT, MIDDLE, PERSPECTIVE = 0.1, 0.07, 0.15


def why_not_turned(images: Sequence[LabeledImage]) -> str:
    """What boxes say against turning images by right angles in training; nothing if it is empty.

    Gravity shows: things are higher than wide or wider than high, lie low or high, are the larger the lower they lie.

    Args:
        images: to train on, with their sizes.
    """
    labels, boxes = _boxes(images)
    inside = (boxes[:, :2].min(axis=1) >= BORDER) & (boxes[:, 2:4].max(axis=1) <= 1 - BORDER)
    labels, boxes = labels[inside], boxes[inside]
    names, counts = np.unique(labels, return_counts=True)
    common = names[counts >= CLASS_BOXES]
    if len(boxes) < BOXES or np.isin(labels, common).mean() < SHARE:
        return "too few boxes tell how objects lie"
    aspect, height = boxes[:, 4], boxes[:, [1, 3]].mean(axis=1)
    for name in common:
        if abs(own := aspect[labels == name].mean()) > ASPECT:
            return f"{name}: {np.expm1(abs(own)):.0%} {'wider than high' if own > 0 else 'higher than wide'}"
    if abs(height.mean() - 0.5) > MIDDLE:
        return f"objects lie {'low' if height.mean() > 0.5 else 'high'} in the images"
    size = (boxes[:, 2:4] - boxes[:, :2]).prod(axis=1)
    if abs(np.corrcoef(_ranks(size), _ranks(height))[0, 1]) > PERSPECTIVE:
        return "the size of objects depends on how high they lie"
    return ""


def _boxes(images: Sequence[LabeledImage]) -> tuple[NDArray, NDArray]:
    """(N,) labels, and (N, 5) boxes XYXY relative to their images, with the logarithm of width by height in pixels."""
    rows, labels = [], []
    for image in images:
        for thing in image.objects:
            left, top, right, bottom = thing.box
            relative = left / image.width, top / image.height, right / image.width, bottom / image.height
            rows.append((*relative, np.log((right - left) / (bottom - top))))
            labels.append(thing.label)
    return np.array(labels, dtype=str), np.array(rows, dtype=float).reshape(-1, 5)


def _ranks(values: NDArray) -> NDArray:
    return values.argsort().argsort()
