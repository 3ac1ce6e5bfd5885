"""Training part of the report, from the recorded metrics of a run."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["changed_settings", "describe_machine", "read_training"]

_MOST_POINTS = 400
# Scalars of Detectron2 that are no losses or metrics.
_TIMES = ("time", "data_time", "eta_seconds", "rank_data_time")


def read_training(folder: str | Path) -> dict[str, Any]:
    """Read the metrics of a run.

    Later lines replace earlier ones of the same iteration, which a resumed run repeats.

    Args:
        folder: output folder with metrics.json.

    Returns:
        ``losses``, ``rate``, ``seconds`` and ``metrics``, mappings of name to (iterations, values); empty without
        recorded metrics.
    """
    path = Path(folder, "metrics.json")
    if not path.is_file():
        return {}
    rows: dict[int, dict[str, float]] = {}
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # The last line of a killed run may be incomplete.
            continue
        if isinstance(row, dict) and isinstance(row.get("iteration"), int):
            rows.setdefault(row["iteration"], {}).update(row)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    series = {name: _series(rows, name) for name in names if name != "iteration"}
    iterations = max(rows, default=-1) + 1
    step = float(np.median(series["time"][1])) if "time" in series else None
    return {
        "iterations": iterations,
        "seconds_per_iteration": step,
        "training_seconds": step * iterations if step is not None else None,
        "losses": {name: one for name, one in series.items() if "loss" in name and "/" not in name},
        "rate": {name: one for name, one in series.items() if name == "lr"},
        "seconds": {name: one for name, one in series.items() if name in _TIMES[:2]},
        "metrics": {name: one for name, one in series.items() if "/" in name},
    }


def _series(rows: Mapping[int, Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Return iterations and values of a scalar, reduced to at most _MOST_POINTS by averaging neighbors."""
    points = [(i, float(row[name])) for i, row in sorted(rows.items()) if isinstance(row.get(name), (int, float))]
    groups = np.array_split(np.array(points).reshape(-1, 2), min(len(points), _MOST_POINTS) or 1)
    # The last iteration of each group.
    return [int(one[-1, 0]) for one in groups if len(one)], [float(one[:, 1].mean()) for one in groups if len(one)]


def describe_machine(device: str) -> dict[str, Any]:
    """Return processor, device, memory in use and versions of this process."""
    machine: dict[str, Any] = {
        "device": device,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if torch.device(device).type == "cuda":
        machine["device"] = torch.cuda.get_device_name(device)
        machine["memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return machine


def changed_settings(configs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the keys whose values differ, with one text per config.

    Configs are flattened. The output folder and the paths of the datasets are skipped.
    """
    keys = sorted({key for config in configs for key in config} - {"OUTPUT_DIR", "DATASETS.REGISTER"})
    rows = [[key, *(str(config.get(key, "-")) for config in configs)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]
