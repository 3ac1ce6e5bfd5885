"""Assembly of reports: parts of a run, report.json and report.html."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..data.loaded import load_dataset
from ..evaluation.record import FILE_NAME, load_detections
from ..utils.files import write_atomically
from ..utils.text import printable
from .evaluation import TestSet, evaluate
from .page import Section, plain, render
from .views import Pictures, evaluation_section

__all__ = ["Report", "add_evaluation", "own_random_state"]

FORMAT = "centernet_d2 report 1"


@dataclass
class Report:
    """Content of a report.

    Attributes:
        title: heading of the page.
        data: content of report.json.
        pictures: images by section: "dataset", or the name of a test set.
    """

    title: str
    data: dict[str, Any] = field(default_factory=lambda: {"format": FORMAT})
    pictures: dict[str, Pictures] = field(default_factory=dict)

    def sections(self) -> list[Section]:
        """Build the sections of the page."""
        return [
            evaluation_section(name, data, self.pictures.get(name, {}), anchor=f"evaluation-{number}")
            for number, (name, data) in enumerate(self.data.get("evaluation", {}).items(), 1)
        ]

    def save(self, folder: str | Path) -> Path:
        """Write report.json and report.html atomically; return the path of the page."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.data = plain(self.data)
        text = json.dumps(self.data, allow_nan=False)
        page = render(self.title, printable(str(folder)), self.sections())
        write_atomically(folder / "report.json", lambda file: file.write(text.encode()))
        write_atomically(folder / "report.html", lambda file: file.write(page.encode(errors="replace")))
        return folder / "report.html"


@contextmanager
def own_random_state(seed: int = 0) -> Iterator[None]:
    """Seed all generators, and restore their states at the end, so that reports do not change a training."""
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def add_evaluation(report: Report, cfg: CfgNode, folder: str | Path) -> dict[str, TestSet]:
    """Add the evaluation part from the recorded detections of a run.

    The first test set is the validation set, which determines the threshold.

    Args:
        report: report to extend.
        cfg: config of the run.
        folder: output folder of the run.

    Returns:
        The matches of each test set with recorded detections.
    """
    results: dict[str, TestSet] = {}
    report.data["evaluation"] = {}
    threshold = None
    for name in cfg.DATASETS.TEST:
        source = Path(folder, "inference", name)
        if not (source / FILE_NAME).exists():
            continue
        load_dataset(name)  # Sets the classes.
        image_ids, instances = load_detections(source)
        classes = MetadataCatalog.get(name).thing_classes
        limit = cfg.TEST.DETECTIONS_PER_IMAGE
        data, results[name] = evaluate(name, image_ids, instances, classes, limit=limit, threshold=threshold)
        report.data["evaluation"][name] = data
        if name == cfg.DATASETS.TEST[0]:
            threshold = data["threshold"]["value"]
    return results
