"""Sheets: several figures with titles in one image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..utils.files import write_atomically
from ..utils.text import printable

__all__ = ["build_sheet", "write_jpeg"]

GAP = 8
LINE = 24
# Largest size of a JPEG file in bytes.
MAX_BYTES = 1_000_000


@cache
def _font() -> ImageFont.FreeTypeFont:
    import matplotlib as mpl  # Only its font is used, and its import takes a second.

    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 15)


def build_sheet(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]],
    width: int,
    *,
    columns: int,
    heading: str = "",
    legend: Mapping[str, tuple[float, float, float]] | None = None,
) -> np.ndarray:
    """Build an image of figures with titles in rows.

    Args:
        rows: (title, (H, W, 3) uint8 RGB figure) pairs. Columns have the same width; rows
            with a wider figure are reduced.
        width: width of the sheet in pixels.
        columns: number of columns.
        heading: text above the rows.
        legend: name -> RGB color in 0..1, shown after the heading.

    Returns:
        (H, width, 3) uint8 RGB.
    """
    cell = (width - GAP * (columns + 1)) // columns
    strips = [_header(heading, legend or {}, width)]
    for row in rows:
        scale = min(1.0, *(cell / figure.shape[1] for _, figure in row))
        fitted = [(title, _reduce(figure, scale)) for title, figure in row]
        height = max(figure.shape[0] for _, figure in fitted) + LINE + GAP
        strip = np.full((height, width, 3), 255, dtype=np.uint8)
        for index, (title, figure) in enumerate(fitted):
            left = GAP + index * (cell + GAP)
            strip[:LINE, left : left + cell] = _line([(title, None)], cell)
            strip[LINE : LINE + figure.shape[0], left : left + figure.shape[1]] = figure
        strips.append(strip)
    return np.concatenate(strips)


def _reduce(figure: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return figure
    height, width = (max(1, int(side * scale)) for side in figure.shape[:2])
    return cv2.resize(figure, (width, height), interpolation=cv2.INTER_AREA)


def _header(heading: str, legend: Mapping[str, tuple[float, float, float]], width: int) -> np.ndarray:
    """Draw heading and legend in as many lines as needed."""
    lines: list[list[tuple[str, tuple[float, float, float] | None]]] = [[(heading, None)]]
    used = _length(heading)
    for name, color in legend.items():
        name = shorten(name, 240)
        needed = _length(name) + 2 * LINE
        if used + needed > width - 2 * GAP:
            lines.append([])
            used = 0.0
        lines[-1].append((name, color))
        used += needed
    strip = np.full((LINE * len(lines) + GAP, width, 3), 255, dtype=np.uint8)
    for index, line in enumerate(lines):
        strip[index * LINE : (index + 1) * LINE, GAP : width - GAP] = _line(line, width - 2 * GAP)
    return strip


def _line(parts: Iterable[tuple[str, tuple[float, float, float] | None]], width: int) -> np.ndarray:
    """Draw texts in a line; a text with a color follows a square of this color."""
    image = Image.new("RGB", (width, LINE), "white")
    draw, x = ImageDraw.Draw(image), 0.0
    for text, color in parts:
        if color is not None:
            red, green, blue = (round(255 * value) for value in color)
            draw.rectangle((x + 14, 5, x + 26, 17), fill=(red, green, blue), outline="black")
            x += 32
        shown = shorten(text, width - x)
        draw.text((x, 2), shown, fill="black", font=_font())
        x += _length(shown) + 8
    return np.asarray(image)


def _length(text: str) -> float:
    return _font().getlength(printable(text))


def shorten(text: str, width: float) -> str:
    """Replace the middle of a text by an ellipsis to fit a width in pixels."""
    text = printable(text)
    if len(text) > 200:
        text = f"{text[:100]}…{text[-99:]}"
    kept = len(text)
    shown = text
    while _font().getlength(shown) > width and kept > 1:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shown


def write_jpeg(path: Path, figure: np.ndarray) -> None:
    """Write an RGB figure as a JPEG file of at most 1 MB, if quality 50 suffices.

    Raises:
        OSError: the file cannot be written.
    """
    for quality in (90, 80, 65, 50):
        data = cv2.imencode(".jpg", figure[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= MAX_BYTES:
            break
    write_atomically(path, lambda file: file.write(data))
