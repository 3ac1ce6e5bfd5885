"""Filters for messages of other packages that do not concern users of this project."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

__all__ = ["drop_mapping_notice", "drop_pixel_notice", "errors_only", "is_for_the_screen", "quiet_imports"]

# Loggers whose INFO messages are shown on the screen: progress, checkpoints, results. Others go to the log file only.
SCREEN = (
    "centernet_d2",
    "detectron2.utils.events",
    "detectron2.engine.train_loop",
    "detectron2.engine.hooks",
    "detectron2.evaluation.evaluator",
    "fvcore.common.checkpoint",
)


def is_for_the_screen(record: logging.LogRecord) -> bool:
    """Return True for warnings, progress and tables of results (a filter for the handler of the screen)."""
    if record.exc_info:  # The command line reports the error.
        return False
    # The formatter of another handler may already have abbreviated the name.
    name = record.name.replace("d2.", "detectron2.", 1) if record.name.startswith("d2.") else record.name
    is_table = name.startswith("detectron2.evaluation.") and "\n|" in record.getMessage()
    is_shown = record.levelno == logging.INFO and (name.startswith((*SCREEN, "cn.")) or is_table)
    return is_shown or record.levelno >= logging.WARNING


def drop_mapping_notice() -> None:
    """Suppress Detectron2's warning about category ids that do not start at 1: all ids are valid here."""
    logging.getLogger("detectron2.data.datasets.coco").addFilter(_is_no_mapping_notice)


def _is_no_mapping_notice(record: logging.LogRecord) -> bool:
    return "Category ids in annotations are not in" not in record.getMessage()


def drop_pixel_notice() -> None:
    """Suppress Pillow's warning about large images: they are an error here, see ``imaging.reading.max_pixels``."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Suppress the warnings of Detectron2's import about features that are not used here."""
    # This logger reports a missing CUDA runtime, which is needed only for compiling.
    with warnings.catch_warnings(), errors_only("torch.utils.cpp_extension"):
        warnings.filterwarnings("ignore", r"`torch\.jit\.script", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.script", DeprecationWarning)
        warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
        yield


@contextmanager
def errors_only(name: str) -> Iterator[None]:
    """Raise the level of a logger to ERROR in this context."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
