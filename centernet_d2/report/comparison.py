"""Comparison of runs: settings that differ, metrics, and curves on common axes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config.loading import flatten, load_config
from ..structures.plots import Plot
from .page import Section, Table
from .training import changed_settings, read_training
from .views import METRICS

__all__ = ["compare_runs", "comparison_section"]


def compare_runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the settings, curves and metrics of runs.

    Args:
        folders: output folders, which contain config.yaml; metrics of report.json are used if it exists.

    Returns:
        One dict per run with ``name``, ``settings`` (only those that differ), ``training`` and ``tests``, the metrics
        by test set.
    """
    names = [folder.name for folder in folders]
    names = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    configs = [dict(flatten(load_config(folder / "config.yaml"))) for folder in folders]
    changed = changed_settings(configs)
    runs = []
    for index, (name, folder) in enumerate(zip(names, folders, strict=True)):
        path = folder / "report.json"
        evaluation = json.loads(path.read_text()).get("evaluation", {}) if path.is_file() else {}
        tests = {
            test: {**{metric: one["ap"][metric] for metric in METRICS}, "threshold": one["threshold"]["value"]}
            for test, one in evaluation.items()
        }
        settings = {row[0]: row[1 + index] for row in changed}
        runs.append({"name": name, "settings": settings, "training": read_training(folder), "tests": tests})
    return runs


def comparison_section(runs: Sequence[dict[str, Any]]) -> Section:
    """Build the section of :func:`compare_runs`."""
    names = [run["name"] for run in runs]
    columns = (*METRICS, "threshold")
    rows = [
        [f"{run['name']}, {test}" if len(run["tests"]) > 1 else run["name"], *(values[column] for column in columns)]
        for run in runs
        for test, values in run["tests"].items()
    ]
    keys = list(runs[0]["settings"])
    tables = [Table("Metrics", ["run", *columns], rows, "Of runs with a report.json.", decimals=2)] if rows else []
    settings = [[key, *(run["settings"][key] for run in runs)] for key in keys]
    note = "" if settings else "All settings are equal."
    tables.append(Table("Settings that differ", ["key", *names], settings, note, text=True))
    curves = {
        "Total loss": [(run["name"], run["training"].get("losses", {}).get("total_loss")) for run in runs],
        "Seconds per iteration": [(run["name"], run["training"].get("seconds", {}).get("time")) for run in runs],
        "AP of the first test set": [(run["name"], _first_metric(run["training"])) for run in runs],
    }
    plots = [
        Plot(title, "iteration", title, {name: one for name, one in series if one})
        for title, series in curves.items()
        if any(one for _, one in series)
    ]
    return Section("Comparison", "comparison", f"{len(runs)} runs.", tables=tables, plots=plots)


def _first_metric(training: dict[str, Any]) -> Any:
    """Return the curve of the first average precision of a run; None without evaluations."""
    return next((one for name, one in training.get("metrics", {}).items() if name.endswith("/AP")), None)
