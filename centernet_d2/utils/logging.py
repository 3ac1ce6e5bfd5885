"""Notices of other packages that say nothing to a user of this one, kept off the screen where they arise."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

__all__ = ["drop_mapping_notice", "drop_pixel_notice", "errors_only", "is_for_the_screen", "quiet_imports"]

# Loggers whose information is for the screen: progress, checkpoints, results. That of others goes to the log file only.
SCREEN = (
    "centernet_d2",
    "detectron2.utils.events",
    "detectron2.engine.train_loop",
    "detectron2.engine.hooks",
    "detectron2.evaluation.evaluator",
    "fvcore.common.checkpoint",
)


def is_for_the_screen(record: logging.LogRecord) -> bool:
    """A filter for the handler of the screen: warnings, progress and tables of results, but no dump of everything."""
    if record.exc_info:  # Whoever catches the error shows it.
        return False
    # The formatter of another handler may have been here already; it abbreviates names.
    name = record.name.replace("d2.", "detectron2.", 1) if record.name.startswith("d2.") else record.name
    is_table = name.startswith("detectron2.evaluation.") and "\n|" in record.getMessage()
    is_shown = record.levelno == logging.INFO and (name.startswith((*SCREEN, "cn.")) or is_table)
    return is_shown or record.levelno >= logging.WARNING


def drop_mapping_notice() -> None:
    """Detectron2 warns that category ids do not count from 1 on; any ids are fine here."""
    logging.getLogger("detectron2.data.datasets.coco").addFilter(_is_no_mapping_notice)


def _is_no_mapping_notice(record: logging.LogRecord) -> bool:
    return "Category ids in annotations are not in" not in record.getMessage()


def drop_pixel_notice() -> None:
    """Pillow warns of large images; those are an error here, see :func:`centernet_d2.imaging.reading.max_pixels`."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextmanager
def quiet_imports() -> Iterator[None]:
    """For imports of Detectron2: it looks for things that are not used here, and says so."""
    # The logger misses the CUDA runtime, which only compiling needs.
    with warnings.catch_warnings(), errors_only("torch.utils.cpp_extension"):
        warnings.filterwarnings("ignore", r"`torch\.jit\.script", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.script", DeprecationWarning)
        warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
        yield


@contextmanager
def errors_only(name: str) -> Iterator[None]:
    """A logger tells errors and no warnings in this context."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
