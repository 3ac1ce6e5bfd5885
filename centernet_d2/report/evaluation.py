"""Evaluation part of the report: metrics, curves and errors of one test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import Instances

from .curves import THRESHOLDS, Curves, calibration, score_curves, suggest_threshold
from .errors import IOU, box_errors, confusion, error_types
from .matching import Detections, Truth, correct_and_counted, find_pairs, match, select
from .truth import coco_metrics, flatten_detections, load_truth

__all__ = ["TestSet", "evaluate"]

# Threshold of figures without correct detections.
FALLBACK = 0.3
# Distance of the thresholds whose values are stored.
STEP = 10


@dataclass(frozen=True)
class TestSet:
    """Detections of a test set and their matches.

    Attributes:
        name: name of the dataset.
        image_ids: ids of the images.
        instances: detections of each image.
        truth, detections: objects and detections of all images.
        order: (D,) index of each detection in the concatenated instances.
        partner: (D,) matched object of the same class, see :func:`match`.
        threshold: score threshold of the confusion matrix and of the worst images.
        loose_partner: (D,) match by boxes alone above the threshold, see :func:`confusion`.
    """

    __test__ = False  # Not a test of pytest.

    name: str
    image_ids: list[Any]
    instances: list[Instances]
    truth: Truth
    detections: Detections
    order: np.ndarray
    partner: np.ndarray
    threshold: float
    loose_partner: np.ndarray


def evaluate(
    name: str,
    image_ids: list[Any],
    instances: list[Instances],
    class_names: Sequence[str],
    *,
    limit: int = 100,
    threshold: float | None = None,
    metrics: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], TestSet]:
    """Compute the evaluation part of a test set.

    Args:
        name: name of the dataset.
        image_ids: ids of the images.
        instances: detections of each image.
        class_names: names of the classes of the dataset.
        limit: maximum number of detections per image.
        threshold: score threshold chosen on another dataset; None chooses it on this one.
        metrics: output of :func:`box_metrics` for the same detections; None computes them.

    Returns:
        Plain values for report.json, and the matches.
    """
    truth = load_truth(name, image_ids)
    detections, order = flatten_detections(instances)
    pairs = find_pairs(truth, detections)
    same = detections.classes[pairs.detection] == truth.classes[pairs.truth]
    partner = match(select(pairs, same & (pairs.iou >= IOU)), truth, detections)
    hits, counted = correct_and_counted(partner, truth)
    counts = np.bincount(truth.classes[~truth.ignore], minlength=len(class_names))
    curves = score_curves(detections.scores[counted], detections.classes[counted], hits[counted], counts)
    best = suggest_threshold(curves)
    chosen = threshold if threshold is not None else (best[0] if best else FALLBACK)
    matrix, loose_partner = confusion(pairs, truth, detections, chosen, len(class_names))
    data = {
        "images": len(image_ids),
        "objects": int(counts.sum()),
        "detections": len(detections.scores),
        "ap": metrics or coco_metrics(truth, detections, len(image_ids), class_names, limit),
        "threshold": _threshold(best, threshold, curves),
        "curve": _curve(curves, class_names),
        "confusion": {
            "classes": [*class_names, "background"],
            "threshold": chosen,
            "cells": [[int(i), int(j), int(matrix[i, j])] for i, j in zip(*matrix.nonzero(), strict=True)],
        },
        "error_types": error_types(pairs, truth, detections, partner, counts),
        "calibration": calibration(detections.scores[counted], hits[counted]),
        "boxes": _quantiles(box_errors(truth, detections, partner)),
    }
    matches = TestSet(name, image_ids, instances, truth, detections, order, partner, chosen, loose_partner)
    return data, matches


def _threshold(best: tuple[float, float] | None, given: float | None, curves: Curves) -> dict[str, Any]:
    """Return the suggested threshold, and precision, recall and F1 averaged over classes at the threshold in use."""
    used = given if given is not None else (best[0] if best else None)
    result: dict[str, Any] = {"value": used, "chosen_here": given is None, "best_f1": best[1] if best else None}
    if used is not None:
        column = min(int(np.searchsorted(THRESHOLDS, used - 1e-9)), len(THRESHOLDS) - 1)
        labeled = ~np.isnan(curves.f1).any(axis=1)
        for name in ("precision", "recall", "f1"):
            values = getattr(curves, name)[labeled, column]
            result[name] = float(np.nanmean(values)) if np.isfinite(values).any() else None
    return result


def _curve(curves: Curves, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the curves of each labeled class at every STEP-th threshold, rounded."""
    labeled = np.flatnonzero(~np.isnan(curves.f1).any(axis=1)).tolist()
    columns = {name: getattr(curves, name)[labeled, ::STEP].round(4) for name in ("precision", "recall", "f1")}
    return {
        "threshold": THRESHOLDS[::STEP],
        "mean_f1": columns["f1"].mean(axis=0).round(4) if len(labeled) else [],
        "classes": [
            {"name": class_names[index], **{name: column[row] for name, column in columns.items()}}
            for row, index in enumerate(labeled)
        ],
    }


def _quantiles(errors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the number of boxes, and the quantiles 5, 25, 50, 75, 95 % of each error."""
    count = len(errors["width"])
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {
        "count": count,
        "levels": levels,
        **{name: np.quantile(values, levels).round(4) if count else [] for name, values in errors.items()},
    }
