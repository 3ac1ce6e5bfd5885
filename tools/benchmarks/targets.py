"""Speed of target generation, compared with the reference implementation.

The reference implementation loops over the objects.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from detectron2.structures import Instances
from numpy.typing import NDArray
from torch import Tensor

from centernet_d2.cli.benchmarking import random_objects
from centernet_d2.cli.measure import alternate, clock_of, summarize, table
from centernet_d2.modeling.heads import BoxHead, CenterHead
from centernet_d2.modeling.points import build_points

from .original import draw_gaussian, radius

STRIDE = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--objects", nargs="+", type=int, default=[10, 100, 1000], help="objects per image")
    parser.add_argument("--batch", type=int, default=4, help="images per batch (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=80, help="number of classes (default: %(default)s)")
    parser.add_argument("--size", nargs=2, type=int, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds (default: %(default)s)")
    parser.add_argument("--device", default="cpu")


def run(args: argparse.Namespace) -> dict[str, object]:
    """Time both implementations.

    Returns:
        ``ratio_to_reference`` by number of objects per image; above 1, ours is faster than the reference.
    """
    size = (args.size[0], args.size[1])
    heads = torch.nn.ModuleList(
        [CenterHead(num_classes=args.classes, in_channels=1), BoxHead(num_classes=args.classes, in_channels=1)]
    )
    results = {}
    for objects in args.objects:
        gt = [random_objects(objects, size, args.classes, seed) for seed in range(args.batch)]
        plain = [(instances.gt_boxes.tensor.numpy(), instances.gt_classes.numpy()) for instances in gt]
        variants = {
            "reference implementation": partial(theirs, plain, size, args.classes, args.device),
            "ours": partial(ours, heads, gt, size, args.device),
        }
        check_equal(variants["reference implementation"](), variants["ours"](), objects)
        times = alternate(variants, args.rounds, clock_of(args.device))
        print(f"\n{objects} objects per image, batch of {args.batch}\n\n{table(times)}")
        results[str(objects)] = summarize(times)
    ratio = {objects: times["ours"]["ratio"] for objects, times in results.items()}
    return {"ratio_to_reference": ratio, "batch": args.batch, "seconds": results}


def ours(heads: torch.nn.ModuleList, gt: list[Instances], size: tuple[int, int], device: str) -> list[Tensor]:
    """Return heatmap, size, offset, cells and weight for the losses of both heads."""
    points = build_points(gt, (size[0] // STRIDE, size[1] // STRIDE), STRIDE).to(torch.device(device))
    moved = [instances.to(device) for instances in gt]
    targets = {name: target for head in heads for name, target in head.targets(moved, points).items()}
    wh, offset = targets["size"], targets["offset"]
    return [targets["heatmap"].value, wh.value, offset.value, offset.cells, offset.weight]


def theirs(images: list[tuple[NDArray, NDArray]], size: tuple[int, int], classes: int, device: str) -> list[Tensor]:
    """Return the targets of the reference implementation, stacked into a batch."""
    samples = [sample(boxes, labels, (size[0] // STRIDE, size[1] // STRIDE), classes) for boxes, labels in images]
    return [torch.stack([torch.from_numpy(x) for x in part]).to(device) for part in zip(*samples, strict=True)]


def sample(boxes: NDArray, labels: NDArray, size: tuple[int, int], classes: int) -> tuple[NDArray, ...]:
    """Return heatmap, sizes, offsets, cell indices and mask of one image.

    Heatmaps are drawn as in the reference implementation (original.md: Gaussian).
    """
    height, width = size
    heatmap = np.zeros((classes, height, width), np.float32)
    rows = len(boxes)
    sizes, offsets = np.zeros((rows, 2), np.float32), np.zeros((rows, 2), np.float32)
    index, mask = np.zeros(rows, np.int64), np.zeros(rows, np.uint8)
    for row in range(rows):
        left, top, right, bottom = boxes[row] / STRIDE
        left, right = np.clip((left, right), 0, width - 1)
        top, bottom = np.clip((top, bottom), 0, height - 1)
        w, h = right - left, bottom - top
        if w <= 0 or h <= 0:
            continue
        x, y = np.float32((left + right) / 2), np.float32((top + bottom) / 2)
        column, line = int(x), int(y)
        draw_gaussian(heatmap[labels[row]], (column, line), max(0, int(radius(np.ceil(h), np.ceil(w)))))
        sizes[row], offsets[row] = (w, h), (x - column, y - line)
        index[row], mask[row] = line * width + column, 1
    return heatmap, sizes, offsets, index, mask


def check_equal(theirs: list[Tensor], ours: list[Tensor], objects: int) -> None:
    """Check that the targets of both implementations are equal.

    Raises:
        ValueError: they differ.
    """
    differences = [(theirs[0] - ours[0]).abs().max()]
    differences += [(theirs[i].flatten(0, 1) - ours[i]).abs().max() for i in (1, 2) if objects]
    if (worst := max(difference.item() for difference in differences)) > 1e-4:
        raise ValueError(f"the targets of both implementations differ by {worst:g}, so their times cannot be compared")
