"""HTML page of a report: sections with tables, plots and images in one file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..structures.plots import Plot
from ..utils.text import printable
from .figures import Picture, draw_plot

__all__ = ["Card", "Section", "Table", "number", "plain", "render"]

# Rows of a table that are shown; report.json contains all.
_MOST_ROWS = 40
# Size of all images in the page.
MOST_BYTES = 6_000_000


@dataclass(frozen=True)
class Card:
    """Prominent number with a label and an optional explanation."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Table of texts and numbers.

    Attributes:
        title: title of the table.
        headers: one per column.
        rows: cells.
        note: sentence below the table.
        shaded: shade numeric cells by their share of the maximum of the row.
        decimals: decimals of numbers that are not integers.
        text: align all columns to the left.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""
    shaded: bool = False
    decimals: int = 1
    text: bool = False


@dataclass
class Section:
    """Section of the page.

    Attributes:
        title: heading.
        anchor: id of the section in links.
        intro: first sentence.
        notes, cards, tables, plots, pictures: content, in this order.
    """

    title: str
    anchor: str
    intro: str = ""
    cards: list[Card] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    pictures: list[tuple[str, list[Picture]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Render the page.

    Args:
        title, subtitle: heading of the page.
        sections: sections, in order.
    """
    _trim(sections)
    environment = Environment(
        loader=PackageLoader("centernet_d2.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["printable"] = printable
    environment.filters["cell"] = number
    environment.globals.update(draw=draw_plot, shade=_shade, most_rows=_MOST_ROWS)
    return environment.get_template("report.html").render(title=title, subtitle=subtitle, sections=sections)


def _trim(sections: Sequence[Section]) -> None:
    """Remove the last images of sections that exceed their share of MOST_BYTES, and note their number."""
    most = MOST_BYTES / max(sum(bool(section.pictures) for section in sections), 1)
    for section in sections:
        size, removed = 0, 0
        for _, pictures in section.pictures:
            sizes = np.cumsum([len(one.uri) for one in pictures], dtype=np.int64) + size
            kept = int((sizes <= most).sum())
            removed += len(pictures) - kept
            size = int(sizes[-1]) if len(sizes) else size
            del pictures[kept:]
        if removed:
            section.notes.append(f"{removed} images are not shown, to limit the size of this file.")


def _shade(row: Sequence[object], value: object) -> float:
    """Return the share of a number in the maximum of its row, for the color of a cell."""
    numbers = [one for one in row if isinstance(one, (int, float))]
    largest = max(numbers, default=0)
    return round(value / largest, 3) if isinstance(value, (int, float)) and largest > 0 else 0.0


def number(value: object, decimals: int = 1) -> str:
    """Format the value of a cell; None and NaN are "-"."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return printable(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.{decimals}f}"


def plain(value: Any) -> Any:
    """Convert NumPy values, plots, tuples, NaN and infinity to JSON values."""
    if isinstance(value, Plot):
        value = vars(value)
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
