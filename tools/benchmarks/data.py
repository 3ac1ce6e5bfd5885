"""Speed of data loading, compared with the reference implementation.

All variants read the same JPEG files with the same annotations; each samples its own crop, flip and color jitter. The
reference returns a normalized float image and training targets, so this project is also timed with targets;
`ratio_to_reference` compares these two. This project applies color jitter and normalization on the device of the model.
One variant applies them on the same core, so that its output is the same as the output of the reference. The lean
baseline is the reference with one warp of uint8 pixels and one color matrix in OpenCV.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from tabulate import tabulate

from centernet_d2 import CenterNet, load_config
from centernet_d2.cli.measure import alternate, clock_of, ratios
from centernet_d2.data import CenterNetDatasetMapper
from centernet_d2.data.stream import StreamDataset, seeded

from .original import lean_sample, reference_sample

__all__ = ["add_arguments", "run"]

CONFIG = "COCO-Detection/centernet_R_18_1x.yaml"
REFERENCE = "reference: normalized image and targets"
LEAN = "lean OpenCV: normalized image and targets"
OURS, OURS_ON_CPU = "ours: uint8 image and color matrix", "ours: colors on the CPU"
WITH_TARGETS, COMPLETE = "ours: uint8 image, color matrix and targets", "ours: normalized image and targets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="folder with images/ and annotations/*.json in COCO format (default: synthetic images)",
    )
    parser.add_argument("--count", type=int, default=64, help="images per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default: %(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time all variants on one core, and print a table.

    Returns:
        ``images_per_second`` (median, min and max) of each variant, ``ratio_to_reference`` of the variant with targets,
        and ``ratios_to_reference`` of all variants; above 1, the variant is faster than the reference.

    Raises:
        FileNotFoundError: the folder contains no annotations.
    """
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        records = _load(args.data, args.count) if args.data else write_photographs(Path(folder), args.count)
        cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu"])
        times = alternate(variants(cfg, records), args.rounds, clock_of("cpu"))
    speed = {name: [len(records) / seconds for seconds in own] for name, own in times.items()}
    faster = ratios(times, REFERENCE)
    rows = [
        [name, *(f"{of(own):.1f}" for of in (median, min, max)), f"{faster[name]:.2f}"] for name, own in speed.items()
    ]
    source = args.data or "synthetic photographs"
    print(f"{len(records)} images of {source}, one thread")
    print(tabulate(rows, ["", "images/s", "min", "max", "ratio"], tablefmt="github", disable_numparse=True))
    return {
        "images": len(records),
        "source": str(source),
        "images_per_second": {
            name: {"median": median(own), "min": min(own), "max": max(own)} for name, own in speed.items()
        },
        "ratio_to_reference": faster[WITH_TARGETS],
        "ratios_to_reference": faster,
    }


def variants(cfg: CfgNode, records: Sequence[dict]) -> dict[str, Callable[[], object]]:
    """Return the functions to time by name; each reads all images once."""
    model = CenterNet(cfg)
    streams = [
        StreamDataset(records, CenterNetDatasetMapper(cfg, True, defer_color=defer), seed=0) for defer in (True, False)
    ]
    positions = [(index, index) for index in range(len(records))]
    height, width = cfg.INPUT.AFFINE.SIZE

    def targets(sample: dict) -> None:
        gt, points = model.ground_truth([sample], (height // model.stride, width // model.stride))
        for head in model.heads.values():
            head.targets(gt, points)

    def read(stream: StreamDataset, *steps: Callable[[dict], object]) -> None:
        for position in positions:
            sample = stream[position]
            for step in steps:
                step(sample)

    def normalize(sample: dict) -> None:
        model.preprocessor.training_batch([sample])

    def baseline(sample_of: Callable[[dict, CfgNode], object]) -> None:
        with seeded(0):
            for record in records:
                sample_of(record, cfg)

    return {
        REFERENCE: lambda: baseline(reference_sample),
        LEAN: lambda: baseline(lean_sample),
        OURS: lambda: read(streams[0]),
        OURS_ON_CPU: lambda: read(streams[1]),
        WITH_TARGETS: lambda: read(streams[0], targets),
        COMPLETE: lambda: read(streams[0], targets, normalize),
    }


def _load(folder: Path, count: int) -> list[dict]:
    """Load the first images with objects of a folder in COCO format."""
    files = sorted((folder / "annotations").glob("*.json"))
    if not files:
        raise FileNotFoundError(
            f"{folder / 'annotations'} contains no *.json: set --data to a folder with images/ and annotations/"
        )
    records = load_coco_json(str(files[0]), str(folder / "images"), f"benchmark of {files[0]}")
    return [record for record in records if record["annotations"]][:count]


def write_photographs(folder: Path, count: int) -> list[dict]:
    """Write synthetic JPEG files and return their dataset dicts.

    Images are 640 x 480 pixels of smooth noise with seven random boxes each.
    """
    random, records = np.random.default_rng(0), []
    for index in range(count):
        coarse = [random.integers(0, 256, (480 // step, 640 // step, 3)).astype(np.float32) for step in (80, 20, 4)]
        layers = [cv2.resize(layer, (640, 480), interpolation=cv2.INTER_CUBIC) for layer in coarse]
        image = np.clip(0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2], 0, 255).astype(np.uint8)
        path = str(folder / f"{index:04d}.jpg")
        cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        boxes = np.concatenate([random.uniform(0, [520, 360], (7, 2)), random.uniform(10, 120, (7, 2))], axis=1)
        annotations = [
            {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": int(random.integers(80)), "iscrowd": 0}
            for box in boxes.tolist()
        ]
        records.append({"file_name": path, "height": 480, "width": 640, "annotations": annotations})
    return records


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit OpenCV and torch to one thread."""
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])
