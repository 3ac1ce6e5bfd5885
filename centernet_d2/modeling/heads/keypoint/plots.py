"""Figures of keypoints: labeled shares, errors, PCK and left-right swaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....structures.plots import Plot

__all__ = ["error_plots", "label_plots"]

# Thresholds of PCK, as shares of the square root of the area of the box.
_SHARES = np.linspace(0, 0.3, 31)


def label_plots(labels: np.ndarray, names: Sequence[str], mirror: Sequence[int]) -> list[Plot]:
    """Return shares of labeled keypoints, and of half labeled pairs.

    Args:
        labels: (N, K, 3) x, y, visibility.
        names: names of the keypoints.
        mirror: index of the counterpart of each keypoint.
    """
    known = labels[..., 2] > 0
    plots = [_bars("Labeled keypoints", "% of objects", names, 100 * known.mean(axis=0))]
    if pairs := _pairs(mirror):
        single = [100 * float((known[:, a] != known[:, b]).mean()) for a, b in pairs]
        pair_names = [f"{names[a]}, {names[b]}" for a, b in pairs]
        plots.append(_bars("Pairs with one labeled keypoint", "% of objects", pair_names, single))
    return plots


def error_plots(
    positions: np.ndarray, labels: np.ndarray, areas: np.ndarray, names: Sequence[str], mirror: Sequence[int]
) -> list[Plot]:
    """Return errors per keypoint, correct keypoints (PCK), and left-right swaps.

    Args:
        positions: (N, K, 2) predicted x, y.
        labels: (N, K, 3) x, y, visibility.
        areas: (N,) areas of the boxes.
        names, mirror: see :func:`label_plots`.
    """
    known = labels[..., 2] > 0
    distance = np.linalg.norm(positions - labels[..., :2], axis=-1)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, distance, 0).sum(axis=0) / known.sum(axis=0)
    relative = (distance / np.sqrt(np.maximum(areas, 1e-9))[:, None])[known]
    correct = [100 * float((relative <= share).mean()) for share in _SHARES]
    plots = [
        _bars("Error per keypoint", "mean distance (pixels)", names, mean),
        Plot(
            "Correct keypoints (PCK)", "distance / square root of box area", "%", {"all": (_SHARES.tolist(), correct)}
        ),
    ]
    if pairs := _pairs(mirror):
        left, right = (list(side) for side in zip(*pairs, strict=True))
        both = known[:, left] & known[:, right]
        direct = distance[:, left] + distance[:, right]
        crossed = np.linalg.norm(positions[:, left] - labels[:, right, :2], axis=-1)
        crossed += np.linalg.norm(positions[:, right] - labels[:, left, :2], axis=-1)
        swapped = 100 * (both & (crossed < direct)).sum(axis=0) / np.maximum(both.sum(axis=0), 1)
        pair_names = [f"{names[a]}, {names[b]}" for a, b in pairs]
        plots.append(_bars("Swapped left and right", "% of pairs", pair_names, swapped))
    return plots


def _pairs(mirror: Sequence[int]) -> list[tuple[int, int]]:
    return [(index, other) for index, other in enumerate(mirror) if index < other]


def _bars(title: str, label: str, names: Sequence[str], values: Sequence[float] | np.ndarray) -> Plot:
    return Plot(title, label, "", {"value": (list(names), np.asarray(values, dtype=np.float64).tolist())}, "bars")
