"""Precision, recall and F1 over the score, average precision, and calibration."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

__all__ = ["Curves", "average_precision", "calibration", "mean_average_precision", "score_curves", "suggest_threshold"]

RECALLS = np.linspace(0, 1, 101)
# Scores at which curves are computed. Detections with at least this score count.
THRESHOLDS = np.arange(1000) / 1000


@dataclass(frozen=True)
class Curves:
    """Curves of C classes at T thresholds.

    Attributes:
        precision: (C, T); NaN where no detection is left.
        recall, f1: (C, T); NaN for classes without objects.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def score_curves(scores: np.ndarray, classes: np.ndarray, hits: np.ndarray, counts: np.ndarray) -> Curves:
    """Compute the curves of all classes at THRESHOLDS.

    Args:
        scores, classes, hits: (D,) scores, class indices and correctness of detections.
        counts: (C,) number of objects of each class.
    """
    shape = (len(counts), len(THRESHOLDS))
    # Number of thresholds that a score reaches.
    level = np.searchsorted(THRESHOLDS, scores, side="right")
    above = np.zeros((2, len(counts), len(THRESHOLDS) + 1))
    np.add.at(above, (hits.astype(int), classes, level), 1)
    above = above[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:]
    correct, found = above[1], above.sum(axis=0)
    objects = np.broadcast_to(counts[:, None], shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = np.where(objects > 0, 2 * correct / (found + objects), np.nan)
        return Curves(correct / found, np.where(objects > 0, correct / objects, np.nan), f1)


def suggest_threshold(curves: Curves) -> tuple[float, float] | None:
    """Return the threshold with the largest F1 averaged over classes, and this F1.

    It is the middle of the first range of thresholds with this F1. Return None without objects or correct detections.
    """
    labeled = ~np.isnan(curves.f1).any(axis=1)
    if not labeled.any() or not curves.f1[labeled].any():
        return None
    mean = curves.f1[labeled].mean(axis=0)
    best = np.isclose(mean, mean.max(), rtol=0, atol=1e-12)
    first = int(best.argmax())
    length = int((~best[first:]).argmax()) or len(best) - first
    return float(THRESHOLDS[first + (length - 1) // 2]), float(mean.max())


def average_precision(scores: np.ndarray, hits: np.ndarray, count: int) -> float:
    """Return COCO's average precision at 101 recalls; NaN without objects.

    Args:
        scores, hits: (D,) scores and correctness of the detections of one class.
        count: number of objects.
    """
    if count == 0:
        return float("nan")
    hits = hits[np.argsort(-scores, kind="stable")]
    correct = hits.cumsum()
    precision = correct / np.arange(1, len(hits) + 1)
    precision = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(precision[np.searchsorted(correct / count, RECALLS, side="left")].mean())


def mean_average_precision(scores: np.ndarray, classes: np.ndarray, hits: np.ndarray, counts: np.ndarray) -> float:
    """Return the mean AP over classes with objects; see :func:`score_curves`."""
    order = np.argsort(classes, kind="stable")
    bounds = np.searchsorted(classes[order], np.arange(len(counts) + 1))
    parts = [order[low:high] for low, high in pairwise(bounds)]
    values = [
        average_precision(scores[part], hits[part], int(count))
        for part, count in zip(parts, counts, strict=True)
        if count
    ]
    return float(np.mean(values)) if values else float("nan")


def calibration(scores: np.ndarray, hits: np.ndarray, bins: int = 10) -> dict:
    """Compare scores with the share of correct detections.

    Args:
        scores, hits: (D,) scores and correctness of detections.
        bins: number of intervals of equal width.

    Returns:
        ``score`` and ``precision``, the means in each bin (None if it is empty), ``count`` and ``error``, the expected
        calibration error.
    """
    index = np.minimum((scores * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        score, precision = (np.bincount(index, values, bins) / count for values in (scores, hits))
    filled = count > 0
    error = float((np.abs(score - precision)[filled] * count[filled]).sum() / max(count.sum(), 1))
    return {"score": score, "precision": precision, "count": count, "error": error if filled.any() else None}
