"""Short summaries of evaluation results for the screen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from detectron2.evaluation.testing import flatten_results_dict

from ..utils.screen import WIDTH, join_fitting
from ..utils.text import printable

__all__ = ["evaluation_row", "format_metric", "summarize"]

# Lists with more than twice this number of values are folded to the lowest and highest ones.
FOLD = 10


def format_metric(value: float) -> str:
    """Format a metric with one decimal, or two significant digits below 1."""
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def evaluation_row(
    results: Mapping[str, Mapping],
    metric: str,
    iteration: int,
    *,
    best: tuple[float, int] | None = None,
    epoch: float | None = None,
    width: int = WIDTH,
) -> str:
    """Return one line about an evaluation during training.

    Args:
        results: results of the evaluation.
        metric: main metric, for example "bbox/AP".
        iteration: number of iterations so far.
        best: best value of the metric and the iteration of its evaluation, if available.
        epoch: number of epochs so far, if known.
        width: largest length of the line; metrics that do not fit are skipped.
    """
    flat = flatten_results_dict(results)
    task = metric.rpartition("/")[0]
    value = flat.get(metric, math.nan)
    others = {
        name.removeprefix(f"{task}/"): other
        for name, other in flat.items()
        if name.startswith(f"{task}/") and name != metric and "-" not in name
    }
    at = f"iteration {iteration:5}" + ("" if epoch is None else f"  epoch {epoch:5.1f}")
    if not _is_informative([value, *others.values()]):
        return f"{at}  no correct detections yet ({metric} is {format_metric(value)})"
    first = f"{at}  {metric} {value:4.1f}" + ("" if best is None else f" (best {best[0]:4.1f} at {best[1]})")
    return join_fitting([first, *(f"{name} {format_metric(other)}" for name, other in others.items())], width)


def summarize(results: Mapping[str, Mapping], width: int = WIDTH) -> list[str]:
    """Return lines with the results of an evaluation.

    Metrics that are all 0 or nan are replaced by a sentence; long lists contain the lowest and highest values only.

    Args:
        results: metrics by task, or by dataset and task.
        width: largest length of a line.
    """
    return ["results (complete tables: log.txt)", *_lines(results, "  ", width)]


def _lines(results: Mapping[str, Mapping], prefix: str, width: int) -> Iterator[str]:
    for name, metrics in results.items():
        if any(isinstance(value, Mapping) for value in metrics.values()):
            yield from _lines(metrics, f"{prefix}{name} ", width)
        elif not _is_informative(list(metrics.values())):
            yield f"{prefix}{name}: no correct detections (all metrics are 0 or nan)"
        else:
            yield from _task_lines(metrics, f"{prefix}{name}", width)


def _task_lines(metrics: Mapping[str, float], title: str, width: int) -> Iterator[str]:
    """Yield the lines of one task: its metrics, then the AP of its classes."""
    classes = {name.removeprefix("AP-"): value for name, value in metrics.items() if name.startswith("AP-")}
    others = {name: value for name, value in metrics.items() if not name.startswith("AP-")}
    for text, values in ((title, others), (f"{title} AP of classes", classes)):
        if len(values) > 2 * FOLD:
            known = {name: value for name, value in values.items() if not math.isnan(value)}
            ordered = sorted(known.items(), key=lambda item: item[1])
            lowest, highest = ordered[:FOLD], ordered[FOLD:][-FOLD:][::-1]
            yield from _join(f"{text}, lowest {len(lowest)} of {len(known)}:", lowest, width)
            if highest:
                yield from _join(f"{text}, highest {len(highest)} of {len(known)}:", highest, width)
        elif values:
            yield from _join(f"{text}:", list(values.items()), width)


def _join(title: str, items: Sequence[tuple[str, float]], width: int) -> Iterator[str]:
    """Yield lines of names and values, which are broken only between items."""
    line = title
    for item in (f"{printable(name)} {format_metric(value)}" for name, value in items):
        if len(line) + 2 + len(item) > width:
            yield line
            line = "   "
        line += f" {item}" if line in (title, "   ") else f"  {item}"
    yield line


def _is_informative(values: Sequence[float]) -> bool:
    return any(value and not math.isnan(value) for value in values)
