"""Sheets of a training: labeled images, augmented samples and predictions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode

from ..evaluation.figures import PREDICTIONS, augmented_sheet, labeled_sheet, prediction_sheet, preview_records
from ..imaging.sheet import write_jpeg
from ..modeling import CenterNet

__all__ = ["write_data_sheets", "write_prediction_sheet"]

logger = logging.getLogger(__name__)


def write_data_sheets(cfg: CfgNode, folder: Path) -> None:
    """Write images.jpg and augmented.jpg, sheets of the training set.

    An error is logged as a warning.
    """
    records = preview_records(cfg, cfg.DATASETS.TRAIN)
    _write(folder / "images.jpg", lambda: labeled_sheet(cfg, records), "labeled training images")
    _write(folder / "augmented.jpg", lambda: augmented_sheet(cfg, records), "augmented training images")


def write_prediction_sheet(cfg: CfgNode, model: CenterNet, folder: Path) -> None:
    """Write predictions.jpg, a sheet of the first test set with ground truth and detections.

    An error is logged as a warning.
    """
    if cfg.DATASETS.TEST:
        records = preview_records(cfg, cfg.DATASETS.TEST[:1], PREDICTIONS)
        _write(folder / "predictions.jpg", lambda: prediction_sheet(cfg, model, records), "predictions")


def _write(path: Path, draw: Callable[[], np.ndarray], title: str) -> None:
    try:
        write_jpeg(path, draw())
    except OSError as error:
        logger.warning(f"{path} was not written: {error}")
    else:
        logger.info(f"{title}: {path}")
