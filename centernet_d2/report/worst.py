"""Images with the most errors, and wrong detections with the highest scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import TransformList
from detectron2.structures import Boxes, Instances

from ..data import CenterNetDatasetMapper
from ..data.checks import corners
from ..evaluation.errors import truth_mapper
from ..imaging.reading import read_image
from ..imaging.visualization import draw_heatmap, draw_instances, side_by_side
from ..modeling import CenterNet
from ..modeling.heads import Property
from ..structures.types import DatasetDict
from .annotations import crop, property_inputs
from .evaluation import TestSet
from .figures import Picture, arrange, picture

__all__ = ["draw_false", "draw_worst", "find_worst"]

COUNT = 12


def find_worst(tests: TestSet, names: Sequence[str], class_names: Sequence[str]) -> dict[str, Any]:
    """Find the images with the most errors, and the best-scored false detections.

    Args:
        tests: matches of the test set.
        names: file name of each image.
        class_names: names of the classes.

    Returns:
        ``images``, dicts with ``index``, ``file``, ``missed`` and ``false``; and ``false``, dicts with ``index`` of the
        image, ``file``, ``class``, ``score`` and ``box`` (XYXY). A false detection overlaps no object by an IoU of 0.5.
    """
    truth, detections, partner = tests.truth, tests.detections, tests.loose_partner
    missed = ~truth.ignore
    missed[partner[partner >= 0]] = False
    counts = [np.bincount(one, minlength=len(names)) for one in (truth.image[missed], detections.image[partner == -1])]
    order = np.argsort(-(counts[0] + counts[1]), kind="stable")[:COUNT]
    images = [
        {"index": int(i), "file": names[i], "missed": int(counts[0][i]), "false": int(counts[1][i])}
        for i in order
        if counts[0][i] + counts[1][i]
    ]
    wrong = np.flatnonzero(partner == -1)
    wrong = wrong[np.argsort(-detections.scores[wrong], kind="stable")][:COUNT]
    false = []
    for row in wrong.tolist():
        x, y, width, height = detections.boxes[row].tolist()
        index = int(detections.image[row])
        kind, score = class_names[detections.classes[row]], float(detections.scores[row])
        box = [x, y, x + width, y + height]
        false.append({"index": index, "file": names[index], "class": kind, "score": score, "box": box})
    return {"images": images, "false": false}


def draw_worst(
    cfg: CfgNode,
    tests: TestSet,
    worst: Sequence[dict[str, Any]],
    records: Sequence[DatasetDict],
    class_names: Sequence[str],
    properties: Sequence[Property],
    model: CenterNet | None,
) -> list[Picture]:
    """Draw ground truth, detections and heatmaps of the worst images.

    Args:
        cfg: config of the model.
        tests: matches of the test set.
        worst: ``images`` of :func:`find_worst`.
        records: record of each image of the test set.
        class_names: names of the classes.
        properties: properties of the model.
        model: model in evaluation mode, or None.
    """
    annotate = truth_mapper(tests.name, properties).annotate
    results = []
    for one in worst:
        record, found = records[one["index"]], tests.instances[one["index"]]
        pixels = read_image(record["file_name"], "RGB")
        gt = annotate({"annotations": [], **record}, TransformList([]), pixels.shape[:2])
        inputs = property_inputs(record, properties)
        panels = {
            "ground truth": draw_instances(pixels, gt, class_names, properties=properties, inputs=inputs),
            "detections": draw_instances(pixels, found, class_names, tests.threshold, properties, inputs),
        }
        if model is not None:
            panels["heatmap"] = _heatmap(cfg, model, record, pixels)
        caption = f"{Path(one['file']).name}: {one['missed']} missed, {one['false']} false"
        drawn = arrange(list(panels.values()), list(panels))
        results.append(picture(drawn, caption, "full"))
    return results


@torch.no_grad()
def _heatmap(cfg: CfgNode, model: CenterNet, record: DatasetDict, pixels: np.ndarray) -> np.ndarray:
    result = model.inference([CenterNetDatasetMapper(cfg, False)(record)], keep_heatmap=True)[0]
    return draw_heatmap(pixels, result["heatmap"], result["geometry"].to_image)


def draw_false(
    false: Sequence[dict[str, Any]], records: Sequence[DatasetDict], class_names: Sequence[str]
) -> list[Picture]:
    """Draw the surroundings of false detections next to the annotated objects.

    Args:
        false: ``false`` of :func:`find_worst`.
        records: record of each image of the test set.
        class_names: names of the classes.
    """
    results = []
    for one in false:
        record, box = records[one["index"]], np.array(one["box"])
        pixels = read_image(record["file_name"], "RGB")
        found = Instances(
            pixels.shape[:2],
            pred_boxes=Boxes(torch.tensor([one["box"]])),
            scores=torch.tensor([one["score"]]),
            pred_classes=torch.tensor([list(class_names).index(one["class"])]),
        )
        known = [x for x in record.get("annotations", ()) if x["category_id"] >= 0]
        gt = Instances(
            pixels.shape[:2],
            gt_boxes=corners(known),
            gt_classes=torch.tensor([x["category_id"] for x in known], dtype=torch.long),
        )
        panels = [draw_instances(pixels, gt, class_names), draw_instances(pixels, found, class_names, threshold=0.0)]
        both = side_by_side([crop(panel, box[:2], box[2:]) for panel in panels], ["ground truth", "detection"], 160)
        caption = f"{one['class']} {one['score']:.2f} in {Path(one['file']).name}"
        results.append(picture(both, caption, "quarter"))
    return results
