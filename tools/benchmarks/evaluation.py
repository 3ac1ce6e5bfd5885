"""Speed of COCO metrics with pycocotools and, if installed, faster-coco-eval."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from centernet_d2.cli.benchmarking import random_objects
from centernet_d2.cli.measure import alternate, clock_of, summarize, table
from centernet_d2.evaluation.faster_coco import FasterCOCOeval

SIZE = (480, 640)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--images", type=int, default=300, help="number of images (default: %(default)s)")
    parser.add_argument("--objects", type=int, default=7, help="objects per image (default: %(default)s)")
    parser.add_argument("--detections", type=int, default=100, help="detections per image (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=80, help="number of classes (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default: %(default)s)")


def run(args: argparse.Namespace) -> dict[str, object]:
    """Time both packages; return seconds and the 12 COCO metrics by package."""
    content = random_results(args.images, args.objects, args.detections, args.classes)
    variants: dict[str, Callable[[], NDArray]] = {"pycocotools": partial(evaluate, COCOeval, *content)}
    if find_spec("faster_coco_eval"):
        variants["faster_coco_eval"] = partial(evaluate, FasterCOCOeval, *content)
    else:
        print("faster_coco_eval is not installed, so only pycocotools is timed")
    metrics = {name: variant() for name, variant in variants.items()}
    times = alternate(variants, args.rounds, clock_of("cpu"))
    print(f"\n{args.images} images, {args.detections} detections each\n\n{table(times)}")
    expected = metrics["pycocotools"]
    difference = {name: float(np.abs(own - expected).max()) for name, own in metrics.items()}
    print(f"\nlargest difference of the 12 metrics: {max(difference.values()):g}")
    return {
        "seconds": summarize(times),
        "figures": {name: own.tolist() for name, own in metrics.items()},
        "largest_difference": difference,
    }


def random_results(images: int, objects: int, detections: int, classes: int) -> tuple[dict, list[dict]]:
    """Return the content of a COCO file and detections for it.

    Detections are noisy copies of the objects, followed by random boxes.
    """
    records, results = [], []
    for image in range(images):
        gt, stray = (random_objects(n, SIZE, classes, seed) for n, seed in ((objects, image), (detections, -1 - image)))
        boxes = gt.gt_boxes.tensor
        for box, category in zip(to_xywh(boxes), gt.gt_classes.tolist(), strict=True):
            record = {"image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            records.append({"id": len(records) + 1, **record})
        generator = torch.Generator().manual_seed(image)
        noisy = boxes + 5 * torch.randn(boxes.shape, generator=generator)
        noisy[:, 2:] = torch.maximum(noisy[:, 2:], noisy[:, :2] + 1)
        boxes = torch.cat([noisy, stray.gt_boxes.tensor])[:detections]
        labels = torch.cat([gt.gt_classes, stray.gt_classes])[:detections].tolist()
        scores = torch.rand(len(boxes), generator=generator).tolist()
        for box, category, score in zip(to_xywh(boxes), labels, scores, strict=True):
            results.append({"image_id": image, "category_id": category, "bbox": box, "score": score})
    content = {
        "info": {},
        "images": [{"id": image, "height": SIZE[0], "width": SIZE[1]} for image in range(images)],
        "categories": [{"id": category, "name": str(category)} for category in range(classes)],
        "annotations": records,
    }
    return content, results


def to_xywh(boxes: Tensor) -> list[list[float]]:
    """Convert boxes from XYXY to XYWH."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()


def evaluate(evaluation: type, truth: dict, detections: list[dict]) -> NDArray:
    """Return the 12 COCO metrics."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        # Both packages modify their inputs.
        ground_truth.dataset = {**truth, "annotations": [dict(record) for record in truth["annotations"]]}
        ground_truth.createIndex()
        results = ground_truth.loadRes([dict(result) for result in detections])
        program = evaluation(ground_truth, results, "bbox")
        program.evaluate()
        program.accumulate()
        program.summarize()
    return np.asarray(program.stats[:12], dtype=np.float64)
