"""Output on the screen: log messages and progress lines of at most 100 columns."""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO, TypeVar

from tqdm import tqdm

__all__ = ["ScreenHandler", "columns", "is_terminal", "join_fitting", "progress_bar", "track", "wrap"]

# Largest width of a line.
WIDTH = 100
# Width of a progress bar without its text.
BAR = 17
# Seconds between progress messages if the output is not a terminal.
PERIOD = 10.0

T = TypeVar("T")
logger = logging.getLogger(__name__)


def is_terminal() -> bool:
    """Return True if the standard output of the process is a terminal."""
    # Not sys.stdout, which is redirected during evaluations.
    return sys.__stdout__ is not None and not sys.__stdout__.closed and sys.__stdout__.isatty()


def columns() -> int:
    """Return the largest width of a line."""
    if not is_terminal():
        return WIDTH
    # Some terminals wrap after the last column.
    return min(WIDTH, max(20, shutil.get_terminal_size((WIDTH + 1, 24)).columns - 1))


def wrap(text: str, width: int) -> str:
    """Wrap the long lines of a text between words, so that paths are not broken."""
    wrapper = textwrap.TextWrapper(
        width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False, replace_whitespace=False
    )
    return "\n".join(line if len(line) <= width else wrapper.fill(line) for line in text.split("\n"))


class ScreenHandler(logging.Handler):
    """Handler that prints wrapped messages without times above the progress lines.

    Args:
        stream: standard output.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            tqdm.write(wrap(level + record.getMessage(), columns()), file=self.stream)
            self.stream.flush()
        except Exception:  # A handler must not raise.
            self.handleError(record)


def progress_bar(total: float, text: str, start: float = 0) -> tqdm:
    """Return a progress bar on the screen, which is erased when it is closed.

    It is disabled if there is no terminal. ``bar.set_description_str`` changes its text.
    """
    return tqdm(
        total=total,
        initial=start,
        desc=text,
        file=sys.__stdout__,
        leave=False,
        ncols=columns(),
        bar_format="{percentage:3.0f}%|{bar:10}| {desc}",
        disable=not is_terminal(),
    )


def track(items: Iterable[T], title: str, total: int, unit: str = "images") -> Iterator[T]:
    """Yield items and show the progress.

    On a terminal, it is a line that is updated and finally erased; otherwise, messages are logged every 10 seconds.
    """
    start = shown = time.monotonic()
    with progress_bar(total, title) as bar:
        for done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if now - shown < (PERIOD if bar.disable else 0.1):
                continue
            shown = now
            left = tqdm.format_interval((now - start) / done * (total - done))
            text = f"{title}  {done}/{total} {unit}  {done / (now - start):.3g} {unit}/s  ETA {left}"
            if bar.disable:
                logger.info(text)
            else:
                bar.n = done
                bar.set_description_str(text[: columns() - BAR])


def join_fitting(parts: Sequence[str], width: int) -> str:
    """Join the first parts that fit into a width; at least one."""
    text = parts[0]
    for part in parts[1:]:
        if len(text) + 2 + len(part) > width:
            break
        text += f"  {part}"
    return text
