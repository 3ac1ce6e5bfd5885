"""Error types in the sense of TIDE, confusion matrix, and size errors of boxes."""

from __future__ import annotations

import numpy as np

from .curves import mean_average_precision
from .matching import Detections, Pairs, Truth, correct_and_counted, match, select

__all__ = ["TYPES", "box_errors", "confusion", "error_types"]

# Types of wrong detections, in order of precedence, followed by objects without a detection.
TYPES = ("localization", "class", "duplicate", "background", "both", "missed")
IOU = 0.5


def error_types(pairs: Pairs, truth: Truth, detections: Detections, partner: np.ndarray, counts: np.ndarray) -> dict:
    """Compute the AP at IoU 0.5 that each type of error costs.

    The cost is the gain of AP if all errors of the type are corrected: wrong class and inaccurate boxes become correct
    if their object has no other detection, missed objects are not counted, and all others are removed.

    Args:
        pairs: all pairs.
        truth, detections: objects and detections.
        partner: matches of the same class at IoU 0.5, see :func:`match`.
        counts: (C,) number of objects per class.

    Returns:
        ``AP50``, and for each of TYPES ``cost`` (AP), ``share`` of the sum of costs, and ``count``.
    """
    hits, counted = correct_and_counted(partner, truth)
    kinds, nearest = _classify(pairs, truth, detections, partner)
    base = mean_average_precision(detections.scores[counted], detections.classes[counted], hits[counted], counts)
    found = np.zeros(len(truth.image), dtype=bool)
    found[partner[hits]] = True
    missed = ~found & ~truth.ignore
    missed[nearest[np.isin(kinds, ("localization", "class"))]] = False
    results = {}
    for kind in TYPES:
        wrong = kinds == kind
        kept, right, classes, objects = counted & ~wrong, hits, detections.classes.copy(), counts
        if kind in ("localization", "class"):
            fixed = _fixable(wrong, nearest, found, detections.scores)
            kept, right = kept | fixed, hits | fixed
            classes[fixed] = truth.classes[nearest[fixed]]
        if kind == "missed":
            objects = counts - np.bincount(truth.classes[missed], minlength=len(counts))
        ap = mean_average_precision(detections.scores[kept], classes[kept], right[kept], objects)
        number = int(missed.sum() if kind == "missed" else wrong.sum())
        results[kind] = {"cost": max(ap - base, 0.0) if np.isfinite(ap) else 0.0, "count": number}
    total = sum(one["cost"] for one in results.values())
    for one in results.values():
        one["share"] = one["cost"] / total if total else 0.0
    return {"AP50": base, "types": results}


def _classify(pairs: Pairs, truth: Truth, detections: Detections, partner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the (D,) types of wrong detections, "" for others, and the (D,) objects that they are confused with."""
    same = detections.classes[pairs.detection] == truth.classes[pairs.truth]
    regular = ~truth.ignore[pairs.truth]
    own, own_object = _best(select(pairs, same & regular), len(partner))
    other, other_object = _best(select(pairs, ~same & regular), len(partner))
    conditions = [partner >= 0, (own > 0) & (own < IOU), other >= IOU, own >= IOU, (own == 0) & (other == 0)]
    kinds = np.select(conditions, ["", "localization", "class", "duplicate", "background"], "both")
    return kinds, np.where(kinds == "class", other_object, own_object)


def _best(pairs: Pairs, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the (D,) largest IoU of each detection, 0 without pairs, and its object."""
    order = np.argsort(pairs.iou, kind="stable")
    iou, partner = np.zeros(count), np.zeros(count, dtype=int)
    iou[pairs.detection[order]] = pairs.iou[order]  # The last assignment remains.
    partner[pairs.detection[order]] = pairs.truth[order]
    return iou, partner


def _fixable(wrong: np.ndarray, nearest: np.ndarray, found: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the (D,) mask of the best wrong detection of each object without a correct detection."""
    rows = np.flatnonzero(wrong)
    rows = rows[~found[nearest[rows]]]
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    _, first = np.unique(nearest[rows], return_index=True)
    fixed = np.zeros(len(wrong), dtype=bool)
    fixed[rows[first]] = True
    return fixed


def confusion(
    pairs: Pairs, truth: Truth, detections: Detections, threshold: float, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Count pairs of true and predicted class, matched by boxes alone at IoU 0.5.

    Args:
        pairs, truth, detections: all pairs, objects and detections.
        threshold: minimum score.
        num_classes: number of classes C.

    Returns:
        (C + 1, C + 1) counts, true class by predicted class, where the last index is the background; and the (D,)
        matched objects of the detections, -1 without match, -2 below the threshold.
    """
    chosen = (detections.scores >= threshold)[pairs.detection] & (pairs.iou >= IOU)
    partner = match(select(pairs, chosen), truth, detections)
    partner[detections.scores < threshold] = -2
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=int)
    hit, _ = correct_and_counted(partner, truth)
    np.add.at(matrix, (truth.classes[partner[hit]], detections.classes[hit]), 1)
    np.add.at(matrix, (num_classes, detections.classes[partner == -1]), 1)
    missed = ~truth.ignore
    missed[partner[hit]] = False
    np.add.at(matrix, (truth.classes[missed], num_classes), 1)
    return matrix, partner


def box_errors(truth: Truth, detections: Detections, partner: np.ndarray) -> dict[str, np.ndarray]:
    """Compare the boxes of correct detections with their objects.

    Returns:
        (M,) ``width``, ``height`` and ``aspect``, ratios of prediction to ground truth minus 1 (aspect is width /
        height), and ``center``, the distance of the centers divided by the square root of the area.
    """
    hit, _ = correct_and_counted(partner, truth)
    found, real = detections.boxes[hit], truth.boxes[partner[hit]]
    width, height = (found[:, 2:] / np.maximum(real[:, 2:], 1e-9)).T
    offset = np.linalg.norm(found[:, :2] + found[:, 2:] / 2 - real[:, :2] - real[:, 2:] / 2, axis=1)
    center = offset / np.sqrt(np.maximum(real[:, 2] * real[:, 3], 1e-9))
    return {"width": width - 1, "height": height - 1, "aspect": width / np.maximum(height, 1e-9) - 1, "center": center}
