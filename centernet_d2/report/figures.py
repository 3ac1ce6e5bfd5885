"""Plots as SVG with the text color of the page, and images as data URIs."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..imaging.visualization import side_by_side
from ..structures.plots import Plot
from ..utils.text import printable

if TYPE_CHECKING:  # It takes a second, and only reports need it.
    from matplotlib.axes import Axes

__all__ = ["Picture", "arrange", "draw_grid", "draw_plot", "picture"]

# Colors that are readable on light and dark pages.
PALETTE = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#d69e00", "#06b6d4", "#ec4899")
# Replaced by the text color of the page.
_TEXT = "#010203"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # Deterministic ids.
    "text.parse_math": False,  # Names may contain dollar signs.
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.18,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), _TEXT
    ),
}
_LONGEST_NAME = 24
_MOST_SERIES = 8
_MOST_BAR_LABELS = 24
# Ratio of width and height from which panels are in a column.
_WIDE = 2.0
_PIXELS = {"full": 1100, "half": 640, "quarter": 480}


@dataclass(frozen=True)
class Picture:
    """Image with a caption.

    Attributes:
        caption: one line below the image.
        uri: data URI.
        width: "full", "half" or "quarter" of a wide page.
    """

    caption: str
    uri: str
    width: str = "half"


def draw_plot(plot: Plot, name: str) -> str:
    """Draw a plot as an SVG element.

    Args:
        plot: the plot.
        name: unique prefix of the ids in the SVG.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.1), layout="constrained")
        axes = figure.add_subplot()
        _fill(axes, plot)
        axes.set_title(printable(plot.title))
        axes.set_xlabel(printable(plot.x_label))
        axes.set_ylabel(printable(plot.y_label))
        if plot.log_y:
            axes.set_yscale("log")
        file = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(_TEXT, "currentColor")
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg, count=2).replace("xlink:href", "href")
    return re.sub(
        r'^<svg width="[^"]*" height="[^"]*"',
        '<svg role="img"',
        re.sub(r"(<svg)([^>]*?)( height=\"[^\"]*\")([^>]*?)( width=\"[^\"]*\")", r"\1\2\4", svg),
    )


def _fill(axes: Axes, plot: Plot) -> None:
    """Add the series of a plot to axes."""
    shown = list(plot.series.items())[:_MOST_SERIES]
    for index, (label, (x, y)) in enumerate(shown):
        values = np.array([math.nan if one is None else one for one in y], dtype=np.float64)
        style: dict[str, Any] = {"color": PALETTE[index % len(PALETTE)], "label": short(label)}
        if plot.kind == "bars":
            _bars(axes, x, values, index, len(shown), style)
        elif plot.kind == "points":
            axes.scatter(x, values, s=8, alpha=0.5, linewidths=0, **style)
        else:
            axes.plot(x, values, linewidth=1.6, marker="o" if len(values) < 3 else None, **style)
    if len(shown) > 1:
        axes.legend(loc="best", fontsize=8)


def _bars(axes: Axes, x: Sequence, values: np.ndarray, index: int, count: int, style: dict[str, Any]) -> None:
    """Add one series of bars: vertical for numbers, horizontal for names."""
    if not any(isinstance(one, str) for one in x):
        step = float(np.diff(np.asarray(x, dtype=np.float64)).min()) if len(x) > 1 else 1.0
        axes.bar(np.asarray(x) + step * (index - (count - 1) / 2) / count, values, width=0.9 * step / count, **style)
        return
    names, values = [short(str(one)) for one in x[:_MOST_BAR_LABELS]], values[:_MOST_BAR_LABELS]
    position = np.arange(len(names)) + (index - (count - 1) / 2) * 0.8 / count
    axes.barh(position, values, height=0.8 / count, **style)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False, axis="y")
    if index == 0:
        axes.invert_yaxis()


def short(text: str) -> str:
    """Return a printable name of limited length for a figure."""
    text = printable(text)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def picture(pixels: np.ndarray, caption: str, width: str = "half") -> Picture:
    """Encode an (H, W, 3) uint8 RGB image as JPEG, reduced to a maximum width.

    Args:
        pixels: the image.
        caption: line below the image.
        width: see :class:`Picture`; it also determines the maximum width and height in pixels.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((_PIXELS[width], _PIXELS[width]))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=78)
    return Picture(printable(caption), _uri("jpeg", file), width)


def arrange(panels: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Join panels with captions in a row, or in a column if they are wide.

    Args:
        panels: (H, W, 3) uint8 RGB.
        captions: one per panel.
    """
    if max(panel.shape[1] / panel.shape[0] for panel in panels) < _WIDE:
        return side_by_side(panels, captions)
    rows = [side_by_side([panel], [caption]) for panel, caption in zip(panels, captions, strict=True)]
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, 6), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )


def draw_grid(values: Sequence[Sequence[float]], caption: str) -> Picture:
    """Draw an (H, W) grid of non-negative numbers as a heatmap with enlarged cells."""
    from matplotlib import colormaps

    grid = np.asarray(values, dtype=np.float64)
    colors = colormaps["viridis"](grid / max(grid.max(), 1e-12))[..., :3]
    cells = np.repeat(np.repeat((colors * 255).astype(np.uint8), 12, axis=0), 12, axis=1)
    file = io.BytesIO()
    Image.fromarray(cells).save(file, "PNG")
    return Picture(caption, _uri("png", file), "quarter")


def _uri(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
