"""Sections of the page, built from the plain values of report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..structures.plots import Plot
from .figures import Picture
from .page import Card, Section, Table, number

__all__ = ["Pictures", "evaluation_section", "summary_lines"]

# Heading -> images of a section.
Pictures = Mapping[str, list[Picture]]

# Most classes of a confusion matrix that is shown as a table.
_MOST_CLASSES = 12
_MOST_CURVES = 7
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def evaluation_section(name: str, data: Mapping[str, Any], pictures: Pictures, anchor: str) -> Section:
    """Build the section of one test set.

    Args:
        name: name of the test set.
        data: its values in report.json.
        pictures: images of the section.
        anchor: id of the section.
    """
    ap, threshold = data["ap"], data["threshold"]
    cards = [Card(metric, number(ap[metric]), note) for metric, note in (("AP", "IoU 0.50 to 0.95"), ("AP50", "IoU 0.5"))]
    if threshold["value"] is not None:
        chosen = "best F1 averaged over classes" if threshold["chosen_here"] else "chosen on the validation set"
        cards.append(Card("score threshold", f"{threshold['value']:.3f}", chosen))
        cards += [Card(f"{one} at threshold", _share(threshold[one])) for one in ("precision", "recall")]
    largest = ", ".join(f"{kind} {number(100 * cost)}" for kind, cost in largest_errors(data))
    cards.append(Card("largest errors (AP50 lost)", largest or "none"))
    return Section(
        title=f"Evaluation: {name}",
        anchor=anchor,
        intro=f"{data['images']:,} images, {data['objects']:,} objects, {data['detections']:,} detections.",
        cards=cards,
        tables=_tables(data),
        plots=_plots(data),
        pictures=list(pictures.items()),
    )


def largest_errors(data: Mapping[str, Any], count: int = 3) -> list[tuple[str, float]]:
    """Return the error types that cost most AP, with their cost."""
    costs = [(kind, one["cost"]) for kind, one in data["error_types"]["types"].items() if one["cost"] > 0]
    return sorted(costs, key=lambda pair: -pair[1])[:count]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _tables(data: Mapping[str, Any]) -> list[Table]:
    ap = data["ap"]
    sizes = ("AP", "AP50", "AP75", "small", "medium", "large")
    tables = [Table("Average precision", sizes, [[ap[metric] for metric in METRICS]], "small, medium and large: AP by size of the objects, below 32 x 32, below 96 x 96, and larger.")]
    columns = ("objects", "AP", "AP50", "AP75", "recall")
    rows = [[one["name"], *(one[column] for column in columns)] for one in ap["classes"] if one["objects"]]
    tables.append(Table("By class", ["class", *columns], sorted(rows, key=lambda row: -row[1])))
    recall = [[f"{most} per image", value] for most, value in ap["recall"].items()]
    tables.append(Table("Recall over detections", ["detections", "recall"], recall))
    types = data["error_types"]["types"]
    costs = [[kind, one["count"], 100 * one["cost"], 100 * one["share"]] for kind, one in types.items()]
    note = "Gain of AP50 if all errors of this type are corrected, and share of the sum."
    tables.append(Table("Error types", ["type", "number", "AP50 lost", "%"], costs, note))
    if oracle := data.get("oracle"):
        tables.append(oracle_table(oracle))
    return [*tables, _confusion_table(data["confusion"])]


def oracle_table(oracle: Mapping[str, Any]) -> Table:
    """Build the table of the oracle evaluation."""
    rows = [[row["maps"], row["AP"], row["AP50"]] for row in oracle["rows"]]
    note = f"{oracle['images']} images, {oracle['seconds']:.0f} seconds. Predicted maps are replaced by their ground truth."
    return Table("Oracle: ground truth instead of predicted maps", ["maps", "AP", "AP50"], rows, note)


def _confusion_table(data: Mapping[str, Any]) -> Table:
    classes, cells = data["classes"], data["cells"]
    title = f"Confusion matrix at score {data['threshold']:.3f}"
    if len(classes) - 1 <= _MOST_CLASSES:
        matrix = [[0] * len(classes) for _ in classes]
        for true, predicted, count in cells:
            matrix[true][predicted] = count
        rows = [[name, *row] for name, row in zip(classes, matrix, strict=True)]
        rows[-1][-1] = None  # type: ignore[call-overload]
        return Table(title, ["true \\ predicted", *classes], rows, "Boxes are matched at IoU 0.5.", shaded=True)
    wrong = sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: -cell[2])
    rows = [[classes[true], classes[predicted], count] for true, predicted, count in wrong[:20]]
    return Table(f"{title}: largest entries", ["true", "predicted", "number"], rows, "Boxes are matched at IoU 0.5.")


def _plots(data: Mapping[str, Any]) -> list[Plot]:
    curve, bins = data["curve"], data["calibration"]
    objects = {one["name"]: one["objects"] for one in data["ap"]["classes"]}
    shown = sorted(curve["classes"], key=lambda one: -objects[one["name"]])[:_MOST_CURVES]
    note = "" if len(shown) == len(curve["classes"]) else f"The {len(shown)} classes with the most objects."
    x = curve["threshold"]
    f1 = {"mean of all classes": (x, curve["mean_f1"]), **{one["name"]: (x, one["f1"]) for one in shown}}
    plots = [Plot("F1 against score", "score threshold", "F1", f1 if len(shown) > 1 else dict(list(f1.items())[1:]), note=note)]
    for what in ("precision", "recall"):
        series = {one["name"]: (x, one[what]) for one in shown}
        plots.append(Plot(f"{what.capitalize()} against score", "score threshold", what, series, note=note))
    pairs = {one["name"]: (one["recall"], one["precision"]) for one in shown}
    plots.append(Plot("Precision against recall", "recall", "precision", pairs, note="IoU 0.5. " + note))
    costs = {kind: 100 * one["cost"] for kind, one in data["error_types"]["types"].items()}
    plots.append(Plot("Error types", "AP50 lost", "", {"cost": (list(costs), list(costs.values()))}, "bars"))
    diagonal = {"score": bins["score"], "precision": bins["precision"]}
    reliability = {"perfect": ([0, 1], [0, 1]), "model": (diagonal["score"], diagonal["precision"])}
    error = "" if bins["error"] is None else f"Expected calibration error {bins['error']:.3f}."
    plots.append(Plot("Calibration of scores", "mean score", "share of correct detections", reliability, note=error))
    return plots


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the summary for the terminal: metrics, threshold and largest error types of each test set."""
    lines = []
    for name, data in report.get("evaluation", {}).items():
        values = ", ".join(f"{metric} {number(data['ap'][metric])}" for metric in METRICS)
        lines.append(f"{name}: {values}")
        if (threshold := data["threshold"])["value"] is not None:
            source = "suggested" if threshold["chosen_here"] else "from the validation set"
            at = ", ".join(f"{one} {_share(threshold[one])}" for one in ("precision", "recall"))
            lines.append(f"  score threshold {threshold['value']:.3f} ({source}): {at}")
        if errors := largest_errors(data):
            lost = ", ".join(f"{kind} {100 * cost:.1f}" for kind, cost in errors)
            lines.append(f"  largest errors (AP50 lost): {lost}")
    return lines
