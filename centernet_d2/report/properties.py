"""Errors of properties: distributions, worst examples, and own figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.transforms import TransformList
from detectron2.structures import Instances

from ..evaluation.errors import concatenate, drop_non_finite, match_detections, truth_mapper
from ..imaging.reading import read_image
from ..imaging.visualization import draw_instances
from ..modeling.heads import Property
from ..structures.plots import histogram
from ..structures.points import known_objects
from ..structures.types import DatasetDict
from .annotations import property_inputs
from .dataset import property_plots
from .evaluation import TestSet
from .figures import Picture, arrange, picture

__all__ = ["evaluate_properties"]

_MOST_IMAGES = 2000
_MOST_PAIRS = 2000
_EXAMPLES = 4


def evaluate_properties(
    tests: TestSet, records: Sequence[DatasetDict], class_names: Sequence[str], properties: Sequence[Property]
) -> tuple[dict[str, Any], dict[str, list[Picture]]]:
    """Compute errors and figures of all properties on detected objects.

    Args:
        tests: matches of the test set.
        records: record of each image.
        class_names: names of the classes.
        properties: properties of the model.

    Returns:
        For each property with errors or figures, ``errors``, ``plots`` and ``worst``; and images of the worst examples.
    """
    own = [p for p in properties if type(p).errors is not Property.errors or type(p).plots is not Property.plots]
    if not own:
        return {}, {}
    rng = np.random.default_rng(0)
    annotate = truth_mapper(tests.name, properties).annotate
    pairs, images = [], []
    for index in sorted(rng.permutation(len(records))[:_MOST_IMAGES].tolist()):
        found = drop_non_finite(tests.instances[index])
        found = found[found.scores >= tests.threshold]
        gt = known_objects(annotate({"annotations": [], **records[index]}, TransformList([]), found.image_size))
        objects, matches = match_detections(gt, found)
        if len(objects):
            pairs.append((found[matches], gt[objects]))
            images += [index] * len(objects)
    if not pairs:
        return {}, {}
    found, gt = (concatenate(side) for side in zip(*pairs, strict=True))
    figures = property_plots(own, found, gt)
    results, drawn = {}, {}
    for prop in own:
        known = prop.labeled(gt).nonzero()[:, 0]
        if not len(known):
            continue
        sample = known[sorted(rng.permutation(len(known))[:_MOST_PAIRS].tolist())]
        name, values = _single_errors(prop, found, gt, sample.tolist())
        plots = list(figures.get(prop.name, ()))
        worst = []
        if values:
            plots.insert(0, histogram(f"Error per object: {prop.error_name}", name, np.array(list(values.values()))))
            order = sorted(values, key=lambda row: -values[row])[:_EXAMPLES]
            worst = [{"file": str(records[images[row]]["file_name"]), "error": values[row]} for row in order]
            drawn[f"Worst examples: {prop.error_name}"] = [
                _draw(records[images[row]], gt[row], found[row], class_names, prop, f"{values[row]:.3g} {name}")
                for row in order
            ]
        errors = prop.errors(found[known], gt[known])
        results[prop.name] = {"errors": errors, "objects": len(known), "plots": plots, "worst": worst}
    return results, drawn


def _single_errors(
    prop: Property, found: Instances, gt: Instances, rows: Sequence[int]
) -> tuple[str, dict[int, float]]:
    """Return the name of the first error of a property, and its finite values by row."""
    name, values = "", {}
    for row in rows:
        errors = prop.errors(found[row], gt[row])
        # Keypoint-like properties return one value per part, and their mean.
        name = next((one for one in ("mean",) if one in errors), next(iter(errors), ""))
        if name and math.isfinite(errors[name]):
            values[row] = float(errors[name])
    return name, values


def _draw(
    record: DatasetDict, gt: Instances, found: Instances, class_names: Sequence[str], prop: Property, error: str
) -> Picture:
    pixels = read_image(record["file_name"], "RGB")
    inputs = property_inputs(record, [prop])
    panels = [
        draw_instances(pixels, one, class_names, 0.0, [prop], inputs)
        for one in (Instances(pixels.shape[:2], **part.get_fields()) for part in (gt, found))
    ]
    drawn = arrange(panels, ["ground truth", "detection"])
    return picture(drawn, f"{Path(record['file_name']).name}: {error}", "full")
