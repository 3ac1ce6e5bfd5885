"""Filters for log messages and warnings of other packages."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

__all__ = ["drop_mapping_notice", "drop_pixel_notice", "errors_only", "is_user_message", "quiet_imports"]

# Loggers whose INFO messages are printed on the screen. The log file contains all.
# Starts of messages of the checkpointer that are logged to the file only.
ROUTINE = ("Saving checkpoint", "No checkpoint found")
SCREEN_LOGGERS = ("centernet_d2", "detectron2.engine.train_loop", "fvcore.common.checkpoint")


def is_user_message(record: logging.LogRecord) -> bool:
    """Return True for warnings and messages for users: a filter for the screen.

    The tables of evaluators are skipped, because the trainer logs a summary; so are routine messages about checkpoints.
    """
    if record.exc_info:  # The command line reports the error.
        return False
    is_table = record.name.startswith("centernet_d2.evaluation")
    is_routine = record.name == "fvcore.common.checkpoint" and record.getMessage().startswith(ROUTINE)
    is_shown = record.levelno == logging.INFO and record.name.startswith(SCREEN_LOGGERS)
    return (is_shown and not is_table and not is_routine) or record.levelno >= logging.WARNING


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
