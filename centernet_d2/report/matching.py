"""Matching of detections with ground truth, vectorized over images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["Detections", "Pairs", "Truth", "correct_and_counted", "find_pairs", "match", "select"]

# Pairs with a smaller IoU do not overlap in the sense of the error types.
MIN_IOU = 0.1


@dataclass(frozen=True)
class Truth:
    """Annotated objects of all images, ordered by image.

    Attributes:
        image: (G,) index of the image.
        classes: (G,) class indices.
        boxes: (G, 4) x, y, width, height, float64.
        ignore: (G,) True for crowds and regions to ignore.
        area: (G,) area in square pixels, which determines the size class.
    """

    image: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    ignore: np.ndarray
    area: np.ndarray


@dataclass(frozen=True)
class Detections:
    """Detections of all images, ordered by image and descending score.

    Attributes:
        image: (D,) index of the image.
        classes: (D,) class indices.
        boxes: (D, 4) x, y, width, height, float64.
        scores: (D,) scores.
    """

    image: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Overlapping detections and objects of the same image.

    Attributes:
        detection, truth: (P,) indices.
        iou: (P,) intersection over union; for regions to ignore, intersection over the area of the detection.
    """

    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray


def find_pairs(truth: Truth, detections: Detections, chunk: int = 1 << 20) -> Pairs:
    """Find all pairs with an IoU of at least MIN_IOU.

    Args:
        truth, detections: objects of the same images.
        chunk: approximate number of pairs in memory.
    """
    start = np.searchsorted(truth.image, detections.image, side="left")
    count = np.searchsorted(truth.image, detections.image, side="right") - start
    parts = []
    for rows in _chunks(count, chunk):
        detection = np.repeat(rows, count[rows])
        offset = np.arange(len(detection)) - np.repeat(np.cumsum(count[rows]) - count[rows], count[rows])
        partner = start[detection] + offset
        iou = _iou(detections.boxes[detection], truth.boxes[partner], truth.ignore[partner])
        near = iou >= MIN_IOU
        parts.append((detection[near], partner[near], iou[near]))
    return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _chunks(count: np.ndarray, limit: int) -> Iterator[np.ndarray]:
    """Split row indices into groups whose counts sum to about the limit; at least one group."""
    group = np.cumsum(count) // limit
    return iter(np.split(np.arange(len(count)), np.flatnonzero(np.diff(group)) + 1))


def _iou(first: np.ndarray, second: np.ndarray, ignore: np.ndarray) -> np.ndarray:
    """Return the IoU of (P, 4) boxes in the order of operations of pycocotools."""
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    shared = np.prod((high - low).clip(min=0), axis=1)
    own, other = first[:, 2] * first[:, 3], second[:, 2] * second[:, 3]
    return shared / np.maximum(np.where(ignore, own, own + other - shared), 1e-12)


def select(pairs: Pairs, chosen: np.ndarray) -> Pairs:
    """Return the pairs of a (P,) mask."""
    return Pairs(pairs.detection[chosen], pairs.truth[chosen], pairs.iou[chosen])


def match(pairs: Pairs, truth: Truth, detections: Detections) -> np.ndarray:
    """Match detections with objects like COCO, in the order of descending scores.

    Each detection takes the unmatched object with the largest IoU, or a region to ignore if no object is left. The
    loop is over the ranks of detections in their image, so that it is vectorized over images.

    Args:
        pairs: pairs that may be matched.
        truth, detections: objects and detections of all images.

    Returns:
        (D,) index of the matched object, -1 for unmatched detections.
    """
    rank = np.arange(len(detections.image)) - np.searchsorted(detections.image, detections.image)
    order = np.lexsort((-pairs.iou, truth.ignore[pairs.truth], pairs.detection, rank[pairs.detection]))
    detection, partner = pairs.detection[order], pairs.truth[order]
    result = np.full(len(detections.image), -1)
    free = np.ones(len(truth.image), dtype=bool)
    for block in np.split(np.arange(len(order)), np.flatnonzero(np.diff(rank[detection])) + 1):
        usable = block[free[partner[block]] | truth.ignore[partner[block]]]
        matched, first = np.unique(detection[usable], return_index=True)
        result[matched] = partner[usable[first]]
        free[result[matched]] = False
    return result


def correct_and_counted(partner: np.ndarray, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """Return (D,) masks of correct detections, and of all not in regions to ignore.

    Args:
        partner: matched objects, see :func:`match`; negative without match.
        truth: objects.
    """
    matched = partner >= 0
    ignored = matched.copy()
    ignored[matched] = truth.ignore[partner[matched]]
    return matched & ~ignored, ~ignored
