"""Accuracy of a model on the test set of a config."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from tempfile import TemporaryDirectory

from detectron2.config import CfgNode
from detectron2.structures import Instances
from tqdm import tqdm

from ..data.catalog import register_from_config
from ..data.loaded import load_dataset
from ..evaluation.build import build_evaluator, main_metric
from ..structures.types import DatasetDict

__all__ = ["evaluate", "load_records"]


def load_records(cfg: CfgNode | None, split: str) -> list[DatasetDict]:
    """Return the images of the first dataset of DATASETS.TRAIN or TEST.

    Args:
        cfg: a config, if available.
        split: "TRAIN" or "TEST".

    Returns:
        An empty list if the dataset is not available.
    """
    try:
        if cfg is None or not cfg.DATASETS[split]:
            return []
        register_from_config(cfg)
        return load_dataset(cfg.DATASETS[split][0])
    except (FileNotFoundError, KeyError):
        return []


def evaluate(cfg: CfgNode, detect: Callable[[DatasetDict], Instances]) -> tuple[str, float]:
    """Evaluate detections in the first dataset of DATASETS.TEST.

    Args:
        cfg: config of the model.
        detect: function from a dataset dict to detections.

    Returns:
        Name and value of the main metric.
    """
    name, records = cfg.DATASETS.TEST[0], load_records(cfg, "TEST")
    metric = main_metric(cfg).removeprefix(f"{name}/")
    with TemporaryDirectory() as folder:
        evaluator = build_evaluator(cfg, name, folder)
        evaluator.reset()
        for record in tqdm(records, "evaluation", leave=False):
            evaluator.process([record], [{"instances": detect(record)}])
        with redirect_stdout(io.StringIO()):  # pycocotools prints tables.
            results = evaluator.evaluate()
    task, _, key = metric.partition("/")
    return metric, float(results[task][key])
