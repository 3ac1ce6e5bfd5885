"""Sheets of a training: labeled images, augmented samples and predictions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.config import CfgNode

from ..evaluation.figures import IMAGES, PREDICTIONS, augmented_sheet, labeled_sheet, prediction_sheet, preview_records
from ..imaging.sheet import write_jpeg
from ..modeling import CenterNet

__all__ = ["training_sheets", "write_data_sheets", "write_prediction_sheet"]

logger = logging.getLogger(__name__)


def write_data_sheets(cfg: CfgNode, folder: Path, count: int = IMAGES) -> list[Path]:
    """Write images.jpg and augmented.jpg of the training set; return the paths.

    Args:
        cfg: config of the model.
        folder: existing folder.
        count: maximum number of images in a sheet.

    Raises:
        OSError: a file cannot be written.
    """
    records = preview_records(cfg, cfg.DATASETS.TRAIN, count)
    paths = [folder / "images.jpg", folder / "augmented.jpg"]
    write_jpeg(paths[0], labeled_sheet(cfg, records))
    write_jpeg(paths[1], augmented_sheet(cfg, records))
    return paths


def write_prediction_sheet(cfg: CfgNode, model: CenterNet, folder: Path) -> list[Path]:
    """Write predictions.jpg, a sheet of the first test set; return its path.

    Raises:
        OSError: the file cannot be written.
    """
    if not cfg.DATASETS.TEST:
        return []
    path = folder / "predictions.jpg"
    records = preview_records(cfg, cfg.DATASETS.TEST[:1], PREDICTIONS)
    write_jpeg(path, prediction_sheet(cfg, model, records))
    return [path]


@contextmanager
def training_sheets(cfg: CfgNode, model: CenterNet, *, resumed: bool) -> Iterator[None]:
    """Write sheets of images before a training, and of predictions after it.

    An error is logged as a warning, because the training does not need the sheets.

    Args:
        cfg: config of the training.
        model: model that is trained.
        resumed: do not write the sheets of the training set again.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if not resumed:
        _log("training images", lambda: write_data_sheets(cfg, folder))
    yield
    _log("predictions on validation images", lambda: write_prediction_sheet(cfg, model, folder))


def _log(title: str, write: Callable[[], list[Path]]) -> None:
    try:
        paths = write()
    except OSError as error:
        logger.warning(f"sheets of {title} were not written: {error}")
        return
    for path in paths:
        logger.info(f"{title}: {path}")
