"""Assembly of reports: parts of a run, report.json and report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..data.loaded import load_dataset
from ..evaluation.coco import BOX_METRICS
from ..evaluation.record import FILE_NAME, load_detections
from ..modeling import CenterNet
from ..modeling.heads import build_properties
from ..utils.files import write_atomically
from .dataset import inspect_dataset
from .evaluation import evaluate
from .figures import Picture
from .oracle import evaluate_oracle
from .page import Section, plain, render
from .properties import evaluate_properties
from .training import read_training
from .views import Pictures, dataset_section, evaluation_section, summary_section, training_section
from .worst import draw_false, draw_worst, find_worst

__all__ = ["Report", "add_dataset", "add_evaluation", "add_training", "write_files"]

FORMAT = "centernet_d2 report 1"


@dataclass
class Report:
    """Content of a report.

    Attributes:
        title: heading of the page.
        data: content of report.json.
        pictures: images by section: "dataset", or the name of a test set.
        started: start of the run, in seconds of ``time.perf_counter``.
    """

    title: str
    data: dict[str, Any] = field(
        default_factory=lambda: {"format": FORMAT, "dataset": {}, "training": {}, "evaluation": {}}
    )
    pictures: dict[str, Pictures] = field(default_factory=dict)
    started: float = 0.0

    def sections(self) -> list[Section]:
        """Build the sections of the page."""
        data, sections = self.data, []
        if tests := data["evaluation"]:
            sections.append(summary_section(tests, data["training"]))
        for number, (name, one) in enumerate(tests.items(), 1):
            sections.append(evaluation_section(name, one, self.pictures.get(name, {}), anchor=f"evaluation-{number}"))
        if data["training"]:
            sections.append(training_section(data["training"]))
        if data["dataset"]:
            sections.append(dataset_section(data["dataset"], self.pictures.get("dataset", {})))
        return sections

    def save(self, folder: str | Path) -> Path:
        """Write report.json and report.html atomically; return the path of the page."""
        self.data = plain(self.data)
        return write_files(folder, self.data, self.title, self.sections())


def write_files(folder: str | Path, data: dict[str, Any], title: str, sections: Sequence[Section]) -> Path:
    """Write report.json and report.html atomically; return the path of the page."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, allow_nan=False)
    page = render(title, str(folder), sections)
    write_atomically(folder / "report.json", lambda file: file.write(text.encode(errors="replace")))
    write_atomically(folder / "report.html", lambda file: file.write(page.encode(errors="replace")))
    return folder / "report.html"


def add_dataset(report: Report, cfg: CfgNode, notes: Sequence[str] = (), names: Sequence[str] = ()) -> None:
    """Add the dataset part; see :func:`inspect_dataset`."""
    report.data["dataset"], report.pictures["dataset"] = inspect_dataset(cfg, notes, names)


def add_training(report: Report, folder: str | Path, machine: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Add the training part, if the folder contains recorded metrics.

    Args:
        report: report to extend.
        folder: output folder of the run.
        machine: output of :func:`describe_machine` and ``wall_seconds`` of this process, if it trained.
    """
    if training := read_training(folder):
        report.data["training"] = {**training, "machine": dict(machine)}


def add_evaluation(
    report: Report, cfg: CfgNode, folder: str | Path, model: CenterNet | None = None, *, evaluated: bool = False
) -> float | None:
    """Add the evaluation part from the recorded detections of a run.

    DATASETS.VAL or, if it is empty, the first test set determines the threshold.

    Args:
        report: report to extend.
        cfg: config of the run.
        folder: output folder of the run.
        model: model in evaluation mode for heatmaps and the oracle table, or None.
        evaluated: use the metrics of the evaluators, because this process ran them with the same config and dataset.

    Returns:
        The suggested threshold; None if it is unknown.
    """
    threshold = None
    names = list(dict.fromkeys((*cfg.DATASETS.VAL, *cfg.DATASETS.TEST)))
    for name in names:
        if not Path(folder, "inference", name, FILE_NAME).exists():
            continue
        path = Path(folder, "inference", name, BOX_METRICS)
        metrics = json.loads(path.read_text()) if evaluated and path.exists() else None
        data, report.pictures[name] = _evaluate(name, cfg, Path(folder), model, threshold, metrics)
        report.data["evaluation"][name] = data
        if name == names[0]:
            threshold = data["threshold"]["value"]
    return threshold


def _evaluate(
    name: str,
    cfg: CfgNode,
    folder: Path,
    model: CenterNet | None,
    threshold: float | None,
    metrics: dict[str, Any] | None,
) -> tuple[dict[str, Any], dict[str, list[Picture]]]:
    """Return the evaluation part of one test set, and its images."""
    known = {record["image_id"]: record for record in load_dataset(name)}
    image_ids, instances = load_detections(folder / "inference" / name)
    if unknown := [one for one in image_ids if one not in known]:
        raise ValueError(f"{folder}: the recorded detections contain the image {unknown[0]!r}, which is not in {name}")
    records = [known[one] for one in image_ids]
    classes = list(MetadataCatalog.get(name).thing_classes)
    properties = build_properties(cfg)
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    data, tests = evaluate(name, image_ids, instances, classes, limit=limit, threshold=threshold, metrics=metrics)
    data["worst"] = find_worst(tests, [str(record["file_name"]) for record in records], classes)
    data["properties"], worst_of_properties = evaluate_properties(tests, records, classes, properties)
    # A model with more classes than the dataset has other targets.
    if model is not None and not cfg.MODEL.CENTERNET.CLASS_NAMES:
        data["oracle"] = evaluate_oracle(cfg, model, name)
    pictures = {
        "Images with the most errors": draw_worst(
            cfg, tests, data["worst"]["images"], records, classes, properties, model
        ),
        "False detections with the highest scores": draw_false(data["worst"]["false"], records, classes),
        **worst_of_properties,
    }
    return data, pictures
