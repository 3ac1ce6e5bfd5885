"""Ground truth and detections of a test set as arrays, and their COCO metrics."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode, Instances
from pycocotools.coco import COCO

from ..data.checks import ALL_CLASSES, EXCLUDED
from ..data.loaded import load_coco_content, load_dataset
from ..evaluation.coco import fill_annotations
from ..evaluation.faster_coco import FasterCOCOeval, box_metrics
from .matching import Detections, Truth

__all__ = ["coco_metrics", "flatten_detections", "load_truth"]


def load_truth(dataset_name: str, image_ids: Sequence[Any]) -> Truth:
    """Load the annotated objects of images of a registered dataset.

    Args:
        dataset_name: name of the dataset.
        image_ids: ids of the images, in the order of the result.
    """
    metadata = MetadataCatalog.get(dataset_name)
    index = {image_id: number for number, image_id in enumerate(image_ids)}
    if metadata.get("json_file"):
        load_dataset(dataset_name)  # Sets the classes.
        content = load_coco_content(dataset_name)
        fill_annotations(content)
        classes = metadata.thing_dataset_id_to_contiguous_id
        rows = [
            (index[x["image_id"]], classes[x["category_id"]], *x["bbox"], bool(x["iscrowd"]), x["area"])
            for x in content["annotations"]
            if x["image_id"] in index
        ]
    else:
        rows = [
            row
            for record in load_dataset(dataset_name)
            if record["image_id"] in index
            for annotation in record.get("annotations", ())
            for row in _rows(annotation, index[record["image_id"]], len(metadata.thing_classes))
        ]
    table = np.array(rows, dtype=np.float64).reshape(-1, 8)
    table = table[np.argsort(table[:, 0], kind="stable")]
    integers = table[:, :2].astype(np.int64)
    return Truth(integers[:, 0], integers[:, 1], table[:, 2:6], table[:, 6] > 0, table[:, 7])


def _rows(annotation: dict, image: int, num_classes: int) -> list[tuple]:
    """Return one row per class of an annotation; regions to ignore may belong to all classes."""
    category = annotation["category_id"]
    if category == EXCLUDED:
        return []
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
    ignore = bool(annotation.get("ignore") or annotation.get("iscrowd"))
    area = max(box[2], 0) * max(box[3], 0)
    return [(image, one, *box, ignore, area) for one in (range(num_classes) if category == ALL_CLASSES else [category])]


def flatten_detections(parts: Sequence[Instances]) -> tuple[Detections, np.ndarray]:
    """Concatenate the detections of images.

    Returns:
        The detections by image and descending score, and (D,) their index in the concatenated input.
    """
    image = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    boxes = [
        BoxMode.convert(part.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).double().numpy() for part in parts
    ]
    scores = np.concatenate([np.zeros(0), *(part.scores.double().numpy() for part in parts)])
    classes = np.concatenate([np.zeros(0, dtype=np.int64), *(part.pred_classes.numpy() for part in parts)])
    order = np.lexsort((-scores, image))
    table = np.concatenate([np.zeros((0, 4)), *boxes])
    return Detections(image[order], classes[order], table[order], scores[order]), order


def coco_metrics(
    truth: Truth, detections: Detections, images: int, class_names: Sequence[str], limit: int = 100
) -> dict[str, Any]:
    """Compute :func:`box_metrics` of objects and detections.

    Args:
        truth, detections: objects and detections.
        images: number of images.
        class_names: names of the classes.
        limit: maximum number of detections per image.
    """
    evaluation = FasterCOCOeval(
        *_coco_objects(truth, detections, images, class_names),
        "bbox",
        (1, 10, limit),
        accelerate=find_spec("faster_coco_eval") is not None,
    )
    with redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return box_metrics(evaluation, class_names)


def _coco_objects(truth: Truth, detections: Detections, images: int, class_names: Sequence[str]) -> tuple[COCO, COCO]:
    """Convert objects and detections to the classes of pycocotools; ids start at 1."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number + 1} for number in range(images)],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(class_names)],
        "annotations": [
            {"id": row + 1, "image_id": image + 1, "category_id": kind + 1, "bbox": box, "iscrowd": crowd, "area": area}
            for row, (image, kind, box, crowd, area) in enumerate(
                zip(
                    truth.image.tolist(),
                    truth.classes.tolist(),
                    truth.boxes.tolist(),
                    truth.ignore.astype(int).tolist(),
                    truth.area.tolist(),
                    strict=True,
                )
            )
        ],
    }
    found = COCO()
    columns = (detections.image, detections.classes, detections.boxes, detections.scores)
    found.dataset = {
        **{key: coco.dataset[key] for key in ("images", "categories")},
        "annotations": [
            {
                "id": row + 1,
                "image_id": image + 1,
                "category_id": kind + 1,
                "bbox": box,
                "score": score,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for row, (image, kind, box, score) in enumerate(zip(*(one.tolist() for one in columns), strict=True))
        ],
    }
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
        found.createIndex()
    return coco, found
