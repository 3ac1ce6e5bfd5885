"""Filters for log messages and warnings of other packages."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

__all__ = ["drop_mapping_notice", "drop_pixel_notice", "errors_only", "is_user_message", "quiet_imports"]

# Loggers whose INFO messages are printed to the console: progress, checkpoints, results. The log file contains all.
CONSOLE_LOGGERS = (
    "centernet_d2",
    "detectron2.utils.events",
    "detectron2.engine.train_loop",
    "detectron2.engine.hooks",
    "detectron2.evaluation.evaluator",
    "fvcore.common.checkpoint",
)


def is_user_message(record: logging.LogRecord) -> bool:
    """Return True for warnings, progress and result tables: a console filter."""
    if record.exc_info:  # The command line reports the error.
        return False
    # The formatter of another handler may already have abbreviated the name.
    name = record.name.replace("d2.", "detectron2.", 1) if record.name.startswith("d2.") else record.name
    is_table = name.startswith("detectron2.evaluation.") and "\n|" in record.getMessage()
    is_shown = record.levelno == logging.INFO and (name.startswith((*CONSOLE_LOGGERS, "cn.")) or is_table)
    return is_shown or record.levelno >= logging.WARNING


def drop_mapping_notice() -> None:
    """Suppress Detectron2's warning about category IDs that do not start at 1."""
    logging.getLogger("detectron2.data.datasets.coco").addFilter(_is_not_mapping_notice)


def _is_not_mapping_notice(record: logging.LogRecord) -> bool:
    return "Category ids in annotations are not in" not in record.getMessage()


def drop_pixel_notice() -> None:
    """Suppress Pillow's warning about large images, which ``max_pixels`` limits."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Suppress import warnings of Detectron2 about features that are not used."""
    # This logger reports a missing CUDA runtime, which is required only for compilation.
    with warnings.catch_warnings(), errors_only("torch.utils.cpp_extension"):
        warnings.filterwarnings("ignore", r"`torch\.jit\.script", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.script", DeprecationWarning)
        warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
        yield


@contextmanager
def errors_only(name: str) -> Iterator[None]:
    """Set the level of a logger to ERROR in this context."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
