"""Descriptions of figures: plain numbers that a report draws and stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Plot", "histogram"]

KINDS = ("line", "bars", "points")


@dataclass(frozen=True)
class Plot:
    """Figure with one or more series of numbers.

    Attributes:
        title: title of the figure.
        x_label, y_label: names of the axes with their units.
        series: name -> (x, y). The name of a single series is not shown. Values of x may be strings for "bars".
        kind: one of KINDS.
        log_y: use a logarithmic y axis.
        note: one sentence below the figure.
    """

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[Sequence[float | str], Sequence[float | None]]] = field(default_factory=dict)
    kind: str = "line"
    log_y: bool = False
    note: str = ""


def histogram(
    title: str, x_label: str, values: np.ndarray, *, bins: int = 30, limits: tuple[float, float] | None = None
) -> Plot:
    """Build a histogram of finite values.

    Args:
        title, x_label: see :class:`Plot`.
        values: (N,) numbers.
        bins: number of bins.
        limits: range of the bins; by default from the minimum to the 99th percentile. Values outside are counted in
            the first or last bin.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if limits is None:
        limits = (float(values.min()), float(np.percentile(values, 99))) if len(values) else (0.0, 1.0)
    counts, edges = np.histogram(values.clip(*limits), bins, limits)
    centers = (edges[:-1] + edges[1:]) / 2
    return Plot(title, x_label, "count", {"count": (centers.tolist(), counts.tolist())}, "bars")
