"""Targets of a batch: ours against a loop over the objects of each image, the original's way."""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray
from torch import Tensor

from centernet_d2.modeling.heads import BoxHead, CenterHead
from centernet_d2.modeling.points import build_points

from .measure import alternate, summarize, table

STRIDE = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--objects", nargs="+", type=int, default=[10, 100, 1000], help="per image")
    parser.add_argument("--batch", type=int, default=4, help="images")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--size", nargs=2, type=int, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cpu")


def run(args: argparse.Namespace) -> dict[str, object]:
    """``ratio_to_original`` by objects per image: > 1 is faster than the original's way."""
    size = (args.size[0], args.size[1])
    heads = torch.nn.ModuleList(
        [CenterHead(num_classes=args.classes, in_channels=1), BoxHead(num_classes=args.classes, in_channels=1)]
    )
    results = {}
    for objects in args.objects:
        gt = [draw_objects(objects, size, args.classes, seed) for seed in range(args.batch)]
        plain = [(instances.gt_boxes.tensor.numpy(), instances.gt_classes.numpy()) for instances in gt]
        variants = {
            "the original's way": partial(theirs, plain, size, args.classes, args.device),
            "ours": partial(ours, heads, gt, size, args.device),
        }
        check_equal(variants["the original's way"](), variants["ours"](), objects)
        times = alternate(variants, args.rounds)
        print(f"\n{objects} objects per image, batch of {args.batch}\n\n{table(times)}")
        results[str(objects)] = summarize(times)
    ratio = {objects: times["ours"]["ratio"] for objects, times in results.items()}
    return {"ratio_to_original": ratio, "batch": args.batch, "seconds": results}


def draw_objects(count: int, size: tuple[int, int], classes: int, seed: int) -> Instances:
    """Boxes of 8 pixels to a third of the image, small ones more often."""
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor(size).flip(0)
    extent = 8 + torch.rand(count, 2, generator=generator) ** 2 * limit / 3
    corner = torch.rand(count, 2, generator=generator) * (limit - extent).clamp(min=0)
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.cat([corner, corner + extent], dim=1))
    instances.gt_classes = torch.randint(classes, (count,), generator=generator)
    return instances


def ours(heads: torch.nn.ModuleList, gt: list[Instances], size: tuple[int, int], device: str) -> list[Tensor]:
    """Heatmap, size, offset, cells and weight, all that the losses of both heads read."""
    points = build_points(gt, (size[0] // STRIDE, size[1] // STRIDE), STRIDE).to(torch.device(device))
    moved = [instances.to(device) for instances in gt]
    targets = {name: target for head in heads for name, target in head.targets(moved, points).items()}
    wh, offset = targets["size"], targets["offset"]
    return [targets["heatmap"].value, wh.value, offset.value, offset.cells, offset.weight]


def theirs(images: list[tuple[NDArray, NDArray]], size: tuple[int, int], classes: int, device: str) -> list[Tensor]:
    """The same, drawn object by object with NumPy and put together as a loader does (original.md: Gaussian)."""
    samples = [sample(boxes, labels, (size[0] // STRIDE, size[1] // STRIDE), classes) for boxes, labels in images]
    return [torch.stack([torch.from_numpy(x) for x in part]).to(device) for part in zip(*samples, strict=True)]


def sample(boxes: NDArray, labels: NDArray, size: tuple[int, int], classes: int) -> tuple[NDArray, ...]:
    """Heatmap, sizes, offsets, indices of cells and mask of one image."""
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
        draw(heatmap[labels[row]], column, line, max(0, int(radius(np.ceil(h), np.ceil(w)))))
        sizes[row], offsets[row] = (w, h), (x - column, y - line)
        index[row], mask[row] = line * width + column, 1
    return heatmap, sizes, offsets, index, mask


def radius(height: float, width: float) -> float:
    """The radius of a box in cells (original.md: Radius)."""
    total, area, overlap = height + width, height * width, 0.7
    first = (total + np.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    second = (2 * total + np.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 2
    third = (np.sqrt((2 * overlap * total) ** 2 + 16 * overlap * (1 - overlap) * area) - 2 * overlap * total) / 2
    return min(first, second, third)


def draw(plane: NDArray, x: int, y: int, r: int) -> None:
    """Draw an object, where it is more than what is there (original.md: Gaussian)."""
    sigma = (2 * r + 1) / 6
    dy, dx = np.ogrid[-r : r + 1, -r : r + 1]
    bump = np.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))
    bump[bump < np.finfo(bump.dtype).eps * bump.max()] = 0
    top, left = max(0, y - r), max(0, x - r)
    window = plane[top : y + r + 1, left : x + r + 1]
    first, start = top - y + r, left - x + r
    np.maximum(window, bump[first : first + window.shape[0], start : start + window.shape[1]], out=window)


def check_equal(theirs: list[Tensor], ours: list[Tensor], objects: int) -> None:
    """What is timed must be the same.

    Raises:
        ValueError: it is not.
    """
    differences = [(theirs[0] - ours[0]).abs().max()]
    differences += [(theirs[i].flatten(0, 1) - ours[i]).abs().max() for i in (1, 2) if objects]
    if (worst := max(difference.item() for difference in differences)) > 1e-4:
        raise ValueError(f"the targets of both ways differ by {worst:g}, so their times say nothing")
