"""Sections of the page, built from the plain values of report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..structures.plots import Plot
from .figures import Picture, draw_grid
from .page import Card, Section, Table, number

__all__ = [
    "Pictures",
    "curve_plots",
    "dataset_section",
    "evaluation_section",
    "summary_lines",
    "summary_section",
    "training_section",
]

# Heading -> images of a section.
Pictures = Mapping[str, list[Picture]]

# Most classes of a confusion matrix that is shown as a table.
_MOST_CLASSES = 12
_MOST_CURVES = 7
# Fewest detections of a point of the calibration curve.
_LEAST_DETECTIONS = 5
BOX_ERRORS = ("width", "height", "aspect", "center")
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def summary_section(tests: Mapping[str, Any], training: Mapping[str, Any]) -> Section:
    """Build the first section: metrics and largest errors of the validation set."""
    name, data = next(iter(tests.items()))
    ap, threshold = data["ap"], data["threshold"]
    cards = [Card("AP", number(ap["AP"]), "IoU 0.50 to 0.95"), Card("AP50", number(ap["AP50"]), "IoU 0.5")]
    if threshold["value"] is not None:
        chosen = "best F1 averaged over classes" if threshold["chosen_here"] else "chosen on the validation set"
        cards.append(Card("suggested score threshold", f"{threshold['value']:.3f}", chosen))
        cards += [Card(f"{one} at the threshold", _share(threshold[one])) for one in ("precision", "recall")]
    if training.get("training_seconds"):
        cards.append(
            Card("training time", f"{training['training_seconds'] / 60:.1f} min", "time per iteration x iterations")
        )
    costs = [f"{kind} {100 * cost:.1f}" for kind, cost in largest_errors(data)]
    intro = f"{name}: largest errors (AP50 lost): {', '.join(costs)}." if costs else f"{name}: no errors cost AP50."
    return Section("Summary", "summary", intro, cards)


def evaluation_section(name: str, data: Mapping[str, Any], pictures: Pictures, anchor: str) -> Section:
    """Build the section of one test set.

    Args:
        name: name of the test set.
        data: its values in report.json.
        pictures: images of the section.
        anchor: id of the section.
    """
    threshold = data["threshold"]
    intro = f"{data['images']:,} images, {data['objects']:,} objects, {data['detections']:,} detections."
    if threshold["value"] is not None:
        source = "chosen here" if threshold["chosen_here"] else "chosen on the validation set"
        at = ", ".join(f"{one} {_share(threshold[one])}" for one in ("precision", "recall"))
        intro += f" At the score threshold {threshold['value']:.3f} ({source}), averaged over classes: {at}."
    own = [plot for one in data.get("properties", {}).values() for plot in one["plots"]]
    return Section(
        title=f"Evaluation: {name}",
        anchor=anchor,
        intro=intro,
        tables=_tables(data),
        plots=[*_plots(data), *as_plots(own)],
        pictures=list(pictures.items()),
    )


def as_plots(values: Sequence[Any]) -> list[Plot]:
    """Convert plots in report.json to plots."""
    return [one if isinstance(one, Plot) else Plot(**one) for one in values]


def training_section(data: Mapping[str, Any]) -> Section:
    """Build the section of the training."""
    machine = data.get("machine", {})
    cards = [Card("iterations", number(data["iterations"]))]
    if data["seconds_per_iteration"] is not None:
        cards.append(Card("seconds per iteration", number(data["seconds_per_iteration"]), "median"))
        cards.append(
            Card("training time", f"{data['training_seconds'] / 60:.1f} min", "time per iteration x iterations")
        )
    if "wall_seconds" in machine:
        cards.append(Card("time of this process", f"{machine['wall_seconds'] / 60:.1f} min", "with evaluations"))
    if "memory_gib" in machine:
        cards.append(Card("peak memory", f"{machine['memory_gib']:.1f} GiB"))
    parts = [f"{key}: {machine[key]}" for key in ("device", "processor", "threads", "torch") if key in machine]
    losses = {name.removeprefix("loss_"): one for name, one in data["losses"].items()}
    plots = [Plot("Losses", "iteration", "weighted loss", losses)] if losses else []
    plots += curve_plots(data)
    return Section("Training", "training", ", ".join(parts), cards, plots=plots)


def curve_plots(data: Mapping[str, Any]) -> list[Plot]:
    """Return the figures of metrics, learning rate and times of a run."""
    metrics = {name: one for name, one in data["metrics"].items() if name.rsplit("/", 1)[-1] in ("AP", "AP50", "AP75")}
    groups = {
        ("Metrics on test sets", "AP"): metrics or data["metrics"],
        ("Learning rate", "learning rate"): data["rate"],
        ("Time per iteration", "seconds"): data["seconds"],
    }
    return [
        Plot(title, "iteration", label, series)
        for (title, label), series in groups.items()
        if any(len(one[0]) > 1 for one in series.values())
    ]


def dataset_section(data: Mapping[str, Any], pictures: Pictures) -> Section:
    """Build the section of the dataset."""
    splits, stride = data["splits"], str(data["stride"])
    names = list(splits)
    rows = [
        ["images", *(one["images"] for one in splits.values())],
        ["objects", *(one["objects"] for one in splits.values())],
        ["images without objects", *(one["without_objects"] for one in splits.values())],
        ["crowds and regions to ignore", *(one["ignored"] for one in splits.values())],
        ["most objects in an image", *(one["most_per_image"] for one in splits.values())],
        [f"images above {data['detections_per_image']} objects", *(one["above_limit"] for one in splits.values())],
        ["objects below 2 x 2 cells (%)", *(100 * one["below_2x2_cells"] for one in splits.values())],
        *(
            _range_row(f"image {side}", [one["image_sizes"][side] for one in splits.values()])
            for side in ("width", "height")
        ),
        *(
            _range_row(f"object {side}", [one["object_sizes"][side] for one in splits.values()])
            for side in ("width", "height")
        ),
    ]
    note = (
        f"Images with more objects than TEST.DETECTIONS_PER_IMAGE ({data['detections_per_image']}) cannot be detected "
        "completely. Sizes of objects are in pixels of the network input: minimum, median, maximum."
    )
    counts = [dict(one["classes"]) for one in splits.values()]
    classes = list(dict.fromkeys(name for one in counts for name in one))
    classes.sort(key=lambda name: -sum(one.get(name, 0) for one in counts))
    table = [[name, *(one.get(name, 0) for one in counts)] for name in classes]
    bound = [
        [f"{name}, stride {each}", one["same_class"], one["other_class"], 100 * one["recall_bound"]]
        for each, by_split in data["collisions"].items()
        for name, one in by_split.items()
    ]
    meaning = (
        f"The stride of this model is {stride}. Objects of one class whose centers are in one cell have one common "
        "peak, so all except one are lost, which bounds recall. Objects of different classes are not lost."
    )
    headers = ["split and stride", "lost: same class", "shared: other class", "recall bound (%)"]
    tables = [
        Table("Splits", ["", *names], rows, note),
        Table("Objects by class", ["class", *names], table),
        Table("Centers in one cell", headers, bound, meaning, decimals=2),
        _duplicates_table(data["duplicates"]),
    ]
    plots = as_plots([*data["figures"], *(plot for own in data["properties"].values() for plot in own)])
    shown = {
        "Positions of objects": [
            draw_grid(
                data["positions"], "Number of object centers, from the top left to the bottom right of the images."
            )
        ],
        **pictures,
    }
    images, objects = (sum(one[what] for one in splits.values()) for what in ("images", "objects"))
    intro = f"{images:,} images and {objects:,} objects in {len(splits)} splits."
    intro += " Messages of the reader:" if data["notes"] else ""
    return Section("Dataset", "dataset", intro, [], tables, plots, list(shown.items()), notes=list(data["notes"]))


def _range_row(name: str, ranges: Sequence[Sequence[float]]) -> list[object]:
    return [name, *(" / ".join(f"{value:.0f}" for value in one) or "-" for one in ranges)]


def _duplicates_table(data: Mapping[str, Any]) -> Table:
    rows = [[" and ".join(pair["splits"]), pair["exact"], pair["near"]] for pair in data["pairs"]]
    compared = ", ".join(f"{name} {count}" for name, count in data["compared"].items())
    note = f"Compared images: {compared}. Near duplicates have almost equal thumbnails."
    return Table("Duplicates across splits", ["splits", "exact", "near"], rows, note)


def largest_errors(data: Mapping[str, Any], count: int = 3) -> list[tuple[str, float]]:
    """Return the error types that cost most AP, with their cost."""
    costs = [(kind, one["cost"]) for kind, one in data["error_types"]["types"].items() if one["cost"] > 0]
    return sorted(costs, key=lambda pair: -pair[1])[:count]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _tables(data: Mapping[str, Any]) -> list[Table]:
    ap = data["ap"]
    columns = ("objects", *METRICS, "recall")
    every = ["all", data["objects"], *(ap[metric] for metric in METRICS), list(ap["recall"].values())[-1]]
    rows = [[one["name"], *(one[column] for column in columns)] for one in ap["classes"] if one["objects"]]
    note = "APs, APm, APl: objects below 32 x 32, below 96 x 96, and larger. recall: averaged over IoU 0.50 to 0.95."
    tables = [Table("Average precision", ["class", *columns], [every, *sorted(rows, key=lambda row: -row[1])], note)]
    types = data["error_types"]["types"]
    costs = [[kind, one["count"], 100 * one["cost"], 100 * one["share"]] for kind, one in types.items()]
    note = "AP50 that is gained if all errors of this type are corrected, and its share of the sum."
    tables.append(Table("Error types", ["type", "number", "AP50 lost", "share (%)"], costs, note))
    tables.append(_confusion_table(data["confusion"]))
    recall = [[f"{most} per image", value] for most, value in ap["recall"].items()]
    tables.append(Table("Recall over detections", ["detections", "recall"], recall))
    if oracle := data.get("oracle"):
        tables.append(oracle_table(oracle))
    if data["boxes"]["count"]:
        levels = [f"{100 * level:.0f} %" for level in data["boxes"]["levels"]]
        errors = [[name, *(100 * value for value in data["boxes"][name])] for name in BOX_ERRORS]
        note = (
            f"Quantiles over {data['boxes']['count']:,} correct boxes, in %: predicted / true - 1; for centers, "
            "distance / square root of the area."
        )
        tables.append(Table("Errors of boxes", ["", *levels], errors, note))
    if own := [
        [f"{name}: {error}", value]
        for name, one in data.get("properties", {}).items()
        for error, value in one["errors"].items()
    ]:
        tables.append(
            Table("Errors of properties", ["", "mean"], own, "On objects detected above the threshold.", decimals=2)
        )
    return tables


def oracle_table(oracle: Mapping[str, Any]) -> Table:
    """Build the table of the oracle evaluation."""
    rows = [[row["maps"], row["AP"], row["AP50"]] for row in oracle["rows"]]
    note = f"{oracle['images']} images, {oracle['seconds']:.0f} seconds. Ground truth replaces predicted maps."
    return Table("Oracle: ground truth instead of predicted maps", ["maps", "AP", "AP50"], rows, note)


def _confusion_table(data: Mapping[str, Any]) -> Table:
    classes, cells = data["classes"], data["cells"]
    title = f"Confusion matrix at score {data['threshold']:.3f}"
    if len(classes) - 1 <= _MOST_CLASSES:
        matrix = [[0] * len(classes) for _ in classes]
        for true, predicted, count in cells:
            matrix[true][predicted] = count
        rows = [[name, *row] for name, row in zip(classes, matrix, strict=True)]
        rows[-1][-1] = None
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
    f1 = {one["name"]: (x, one["f1"]) for one in shown}
    if len(shown) > 1:  # The last series, so that a class has the same color in all plots.
        f1["mean of all classes"] = (x, curve["mean_f1"])
    plots = [Plot("F1 against score", "score threshold", "F1", f1, note=note)]
    for what in ("precision", "recall"):
        series = {one["name"]: (x, one[what]) for one in shown}
        plots.append(Plot(f"{what.capitalize()} against score", "score threshold", what, series, note=note))
    pairs = {one["name"]: (one["recall"], one["precision"]) for one in shown}
    plots.append(Plot("Precision against recall", "recall", "precision", pairs, note="IoU 0.5. " + note))
    costs = {kind: 100 * one["cost"] for kind, one in data["error_types"]["types"].items()}
    plots.append(Plot("Error types", "AP50 lost", "", {"cost": (list(costs), list(costs.values()))}, "bars"))
    columns = zip(bins["score"], bins["precision"], bins["count"], strict=True)
    kept = [(score, precision) for score, precision, count in columns if count >= _LEAST_DETECTIONS]
    reliability = {"perfect": ([0, 1], [0, 1]), "model": ([one[0] for one in kept], [one[1] for one in kept])}
    error = "" if bins["error"] is None else f"Expected calibration error {bins['error']:.3f}. "
    error += f"Scores with fewer than {_LEAST_DETECTIONS} detections are not shown."
    plots.append(Plot("Calibration of scores", "mean score", "share of correct detections", reliability, note=error))
    return plots


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """Return metrics, threshold and largest errors of each test set for the terminal."""
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
