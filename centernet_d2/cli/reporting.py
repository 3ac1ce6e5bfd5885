"""Reports of trainings, evaluations, datasets and comparisons."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.config import CfgNode

from ..autoconfig.plan import Request, draft_plan, plan_training
from ..checkpoint import CenterNetCheckpointer, checkpoint_files, set_threshold
from ..config.loading import load_config
from ..data import register_from_config
from ..data.stream import seeded
from ..engine.setup import Run
from ..engine.trainer import Trainer
from ..modeling import CenterNet
from ..modeling.meta_arch import unwrap
from ..readers import discover_dataset
from ..report.build import FORMAT, Report, add_dataset, add_evaluation, add_training, write_files
from ..report.comparison import compare_runs, comparison_section
from ..report.page import plain
from ..report.training import describe_machine
from ..report.views import summary_lines
from ..utils.text import printable
from .visualization import is_data

__all__ = ["finish_report", "report_evaluation", "start_report", "write_report"]

logger = logging.getLogger(__name__)


@contextmanager
def _optional(what: str) -> Iterator[None]:
    """Seed all generators, restore them afterwards, and log errors: a report must not end a training."""
    try:
        with seeded(0):
            yield
    except Exception as error:
        logger.warning(f"{what} was not written ({type(error).__name__}: {error})")
        logger.debug("traceback of the report", exc_info=True)


def start_report(run: Run) -> Report:
    """Write the dataset part before a training."""
    folder = Path(run.cfg.OUTPUT_DIR)
    report = Report(f"Report: {folder.name}")
    with _optional("the dataset part of the report"):
        report.started = time.perf_counter()
        add_dataset(report, run.cfg, run.notes)
        logger.info(f"dataset report: {report.save(folder)}")
    return report


def finish_report(report: Report, cfg: CfgNode, model: CenterNet) -> None:
    """Write the complete report after a training.

    The suggested threshold is written to the final and best weights of the run.

    Args:
        report: output of :func:`start_report`.
        cfg: config of the run.
        model: the trained model.
    """
    folder = Path(cfg.OUTPUT_DIR)
    with _optional("the report"):
        machine = {**describe_machine(cfg.MODEL.DEVICE), "wall_seconds": time.perf_counter() - report.started}
        add_training(report, folder, machine)
        threshold = _add_evaluation(report, cfg, model)
        for path in (folder / "model_final.pth", folder / "model_best.pth"):
            if threshold is not None and path.is_file():
                set_threshold(path, threshold)
        _finish(report, folder)


def report_evaluation(cfg: CfgNode, model: CenterNet) -> None:
    """Write the report of an evaluation without training; checkpoints are unchanged."""
    report = Report(f"Report: {Path(cfg.OUTPUT_DIR).name}")
    with _optional("the report"):
        add_dataset(report, cfg, names=cfg.DATASETS.TEST)
        add_training(report, cfg.OUTPUT_DIR)
        _add_evaluation(report, cfg, model)
        _finish(report, Path(cfg.OUTPUT_DIR))


def _add_evaluation(report: Report, cfg: CfgNode, model: CenterNet) -> float | None:
    """Add the evaluation part with the model in evaluation mode; return the suggested threshold."""
    network = unwrap(model)
    training = network.training
    network.eval()
    try:
        own = network if isinstance(network, CenterNet) else None
        return add_evaluation(report, cfg, cfg.OUTPUT_DIR, own, evaluated=True)
    finally:
        network.train(training)


def _finish(report: Report, folder: Path) -> None:
    path = report.save(folder)
    logger.info(printable("\n".join(["summary:", *summary_lines(report.data), f"report: {path}"]), lines=True))


def write_report(args: argparse.Namespace) -> None:
    """Write the report that the command line specifies.

    Raises:
        FileNotFoundError: a source does not exist.
        ValueError: several sources are not all runs.
    """
    sources = [Path(source) for source in args.sources]
    if len(sources) > 1:
        _compare(sources, args.output)
        return
    source, output = sources[0], args.output
    with seeded(0):
        if _is_run(source):
            report, output = _report_run(source, args.opts), output or source
        else:
            output = output or Path("output", f"report-{source.stem or 'data'}")
            report = Report(f"Dataset: {source.name}")
            notes: list[str] = []
            if not is_data(args.sources[0]):
                cfg = load_config(args.sources[0], args.opts)
            else:
                request = Request(str(source), overrides=("OUTPUT_DIR", str(output), *args.opts), timed=False)
                draft = draft_plan(request)
                data = discover_dataset(source)
                cfg, notes = plan_training(draft, data).cfg, data.lines()
            register_from_config(cfg)
            add_dataset(report, cfg, notes)
        path = report.save(output)
    print(printable("\n".join([*summary_lines(report.data), f"report: {path}"]), lines=True))


def _report_run(folder: Path, overrides: list[str]) -> Report:
    """Build the report of a run from its files."""
    cfg = load_config(folder / "config.yaml", overrides)
    cfg.OUTPUT_DIR = str(folder)
    register_from_config(cfg)
    report = Report(f"Report: {folder.name}")
    add_dataset(report, cfg)
    add_training(report, folder)
    model = None
    if weights := checkpoint_files(folder):
        model = Trainer.build_model(cfg).eval()
        CenterNetCheckpointer(model).load(str(weights[0]))
    add_evaluation(report, cfg, folder, model)
    return report


def _compare(folders: list[Path], output: Path | None) -> None:
    if others := [str(folder) for folder in folders if not _is_run(folder)]:
        raise ValueError(f"{', '.join(others)}: only runs (folders with config.yaml) can be compared")
    runs = plain(compare_runs(folders))
    data = {"format": FORMAT, "dataset": {}, "training": {}, "evaluation": {}, "runs": runs}
    path = write_files(output or Path("output", "comparison"), data, "Comparison of runs", [comparison_section(runs)])
    print(printable(f"report: {path}"))


def _is_run(source: Path) -> bool:
    return (source / "config.yaml").is_file() and any(source.glob(pattern) for pattern in ("*.pth", "metrics.json"))
