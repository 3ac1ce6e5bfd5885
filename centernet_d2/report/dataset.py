"""Dataset part of the report: content of a dataset, and input of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import TransformList
from detectron2.structures import Instances

from ..data.checks import EXCLUDED, corners
from ..data.loaded import load_dataset
from ..evaluation.errors import truth_mapper
from ..evaluation.figures import augmented_sheet, preview_records
from ..imaging.geometry import affine_matrix, invert_affine, keep_canvas
from ..imaging.reading import read_header, read_image
from ..imaging.visualization import draw_instances
from ..modeling import CenterNet
from ..modeling.heads import Property
from ..structures.plots import Plot
from ..structures.points import known_objects
from ..structures.types import DatasetDict
from .annotations import crop
from .collisions import STRIDES, count_collisions
from .duplicates import find_duplicates
from .figures import Picture, picture

__all__ = ["inspect_dataset", "property_plots"]

# Images whose annotations are converted for figures of properties.
_MOST_RECORDS = 2000
_GRID = 24
_EXAMPLES = 6


@dataclass(frozen=True)
class _Split:
    """Images and objects of a dataset as arrays; see :func:`_read_split`."""

    name: str
    records: list[DatasetDict]
    class_names: list[str]
    sizes: np.ndarray
    image: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    ignored: int


def inspect_dataset(
    cfg: CfgNode, notes: Sequence[str] = (), names: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, list[Picture]]]:
    """Compute the dataset part.

    Args:
        cfg: config whose datasets are registered and valid.
        notes: messages of the reader that discovered the dataset.
        names: names of the datasets; by default DATASETS.TRAIN and DATASETS.TEST.

    Returns:
        Plain values for report.json, and images by heading.
    """
    with torch.device("meta"):  # Geometry does not depend on weights.
        model = CenterNet(cfg)
    rng = np.random.default_rng(0)
    splits = [_read_split(name) for name in dict.fromkeys(names or (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))]
    read = [f"{split.name}: {note}" for split in splits for note in _notes_of(split.name)]
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    data: dict[str, Any] = {
        "notes": [*notes, *read],
        "stride": model.stride,
        "test_resolution": model.preprocessor.test_resolution,
        "detections_per_image": limit,
        "splits": {split.name: _describe(split, limit) for split in splits},
        "collisions": {},
    }
    crowded = {}
    sides = []
    for split in splits:
        centers, sizes = _network_boxes(split, model)
        sides.append(sizes)
        data["splits"][split.name].update(_describe_sizes(sizes, model.stride))
        for stride in sorted({*STRIDES, model.stride}, reverse=True):
            counts, mask = count_collisions(split.image, split.classes, centers, stride)
            data["collisions"].setdefault(str(stride), {})[split.name] = counts
            if stride == model.stride:
                crowded[split.name] = mask
    data["duplicates"] = find_duplicates({s.name: [r["file_name"] for r in s.records] for s in splits}, rng)
    data["figures"] = [*_plots(splits, sides, model.stride)]
    data["positions"] = _positions(splits)
    train = [split for split in splits if split.name in cfg.DATASETS.TRAIN]
    data["properties"] = _property_figures(train or splits, model.properties, rng)
    return data, {
        "Objects that share a cell": _draw_crowded(splits, crowded),
        "Duplicates": _draw_duplicates(data["duplicates"]),
        "Augmented training images": _augmented(cfg) if train else [],
    }


def _notes_of(name: str) -> list[str]:
    """Return what the reader of a registered COCO file skipped and repaired."""
    return list(getattr(DatasetCatalog.data.get(name), "notes", ()))


def _read_split(name: str) -> _Split:
    records = load_dataset(name)
    classes = list(MetadataCatalog.get(name).thing_classes)
    flat = [(i, x) for i, record in enumerate(records) for x in record.get("annotations", ())]
    known = [
        (i, x)
        for i, x in flat
        if x["category_id"] != EXCLUDED and not x.get("ignore") and not x.get("iscrowd") and x["category_id"] >= 0
    ]
    return _Split(
        name,
        records,
        classes,
        np.array([_image_size(record) for record in records], dtype=np.float64).reshape(-1, 2),
        np.array([i for i, _ in known], dtype=np.int64),
        np.array([x["category_id"] for _, x in known], dtype=np.int64),
        corners([x for _, x in known]),
        len(flat) - len(known),
    )


def _image_size(record: DatasetDict) -> tuple[int, int]:
    """Return width and height of an image; (1, 1) for damaged images without annotated size."""
    if "width" in record:
        return record["width"], record["height"]
    try:
        return read_header(record["file_name"]).upright_size
    except OSError:
        return 1, 1


def _network_boxes(split: _Split, model: CenterNet) -> tuple[np.ndarray, np.ndarray]:
    """Return the (N, 2) centers and (N, 2) sizes of boxes in pixels of the network input at test time."""
    preprocessor = model.preprocessor
    matrices = np.array([_to_canvas(width, height, preprocessor) for width, height in split.sizes.tolist()])
    matrices = matrices.reshape(-1, 2, 3)[split.image]
    limits = split.sizes[split.image]
    low, high = (side.clip(0, limits) for side in (split.boxes[:, :2], split.boxes[:, 2:]))
    scale, shift = matrices[:, [0, 1], [0, 1]], matrices[:, :, 2]
    return (low + high) / 2 * scale + shift, (high - low) * scale


def _to_canvas(width: float, height: float, preprocessor: Any) -> np.ndarray:
    """Return the (2, 3) matrix from an image to the network input at test time."""
    if preprocessor.test_resolution == "keep":
        pixels = torch.empty(1, int(height), int(width), device="meta")
        return invert_affine(keep_canvas(pixels, preprocessor.size_divisibility)[1].numpy())
    window = width if preprocessor.test_resolution == "fixed_width" else max(width, height)
    return affine_matrix((width / 2, height / 2), window, preprocessor.fixed_size)


def _describe(split: _Split, limit: int) -> dict[str, Any]:
    """Return the numbers of images and objects, and the ranges of image sizes."""
    per_image = np.bincount(split.image, minlength=len(split.records))
    counts = np.bincount(split.classes, minlength=len(split.class_names))
    return {
        "images": len(split.records),
        "objects": len(split.image),
        "ignored": split.ignored,
        "without_objects": int((per_image == 0).sum()),
        "most_per_image": int(per_image.max(initial=0)),
        "above_limit": int((per_image > limit).sum()),
        "image_sizes": {
            name: split.sizes[:, column].tolist() and _range(split.sizes[:, column])
            for column, name in enumerate(("width", "height"))
        },
        "classes": [[name, int(count)] for name, count in zip(split.class_names, counts, strict=True)],
    }


def _range(values: np.ndarray) -> list[float]:
    """Return minimum, median and maximum."""
    return [float(values.min()), float(np.median(values)), float(values.max())]


def _describe_sizes(sizes: np.ndarray, stride: int) -> dict[str, Any]:
    """Return the ranges of object sizes, and the share of objects with both sides below two cells."""
    small = np.all(sizes < 2 * stride, axis=1)
    return {
        "object_sizes": {name: _range(sizes[:, i]) if len(sizes) else [] for i, name in enumerate(("width", "height"))},
        "below_2x2_cells": float(small.mean()) if len(small) else 0.0,
    }


def _plots(splits: Sequence[_Split], sides: Sequence[np.ndarray], stride: int) -> list[Plot]:
    """Build the figures; series are splits, as shares where sizes of splits differ."""
    plots = []
    names = list(dict.fromkeys(name for split in splits for name in split.class_names))
    counts = {
        s.name: dict(zip(s.class_names, np.bincount(s.classes, minlength=len(s.class_names)).tolist(), strict=True))
        for s in splits
    }
    order = sorted(names, key=lambda name: -sum(one.get(name, 0) for one in counts.values()))
    series = {split: (order, [one.get(name, 0) for name in order]) for split, one in counts.items()}
    plots.append(
        Plot(
            "Objects per class",
            "objects",
            "",
            series,
            "bars",
            note="" if len(order) <= 24 else "The 24 most frequent classes.",
        )
    )
    values = {
        ("Objects per image", "objects"): [np.bincount(s.image, minlength=len(s.records)) for s in splits],
        ("Size of objects on the map", f"square root of the area in cells of {stride} x {stride} pixels"): [
            np.sqrt(side.prod(axis=1)) / stride for side in sides
        ],
        ("Aspect ratio of objects", "log2(width / height)"): [
            np.log2(np.maximum(side[:, 0], 1e-3) / np.maximum(side[:, 1], 1e-3)) for side in sides
        ],
        ("Size of images", "square root of the area in pixels"): [np.sqrt(s.sizes.prod(axis=1)) for s in splits],
        ("Aspect ratio of images", "width / height"): [s.sizes[:, 0] / s.sizes[:, 1] for s in splits],
    }
    for (title, label), columns in values.items():
        if all(len(column) for column in columns) and np.ptp(np.concatenate(columns)) > 0:
            plots.append(_shares(title, label, [s.name for s in splits], columns))
    return plots


def _shares(title: str, label: str, names: Sequence[str], columns: Sequence[np.ndarray], bins: int = 24) -> Plot:
    """Build a histogram of several splits in percent of each split, with common bins."""
    every = np.concatenate(columns).astype(np.float64)
    edges = np.histogram_bin_edges(every, bins, (every.min(), max(np.percentile(every, 99.5), every.min() + 1e-9)))
    centers = ((edges[1:] + edges[:-1]) / 2).tolist()
    series = {
        name: (centers, (100 * np.histogram(column.clip(edges[0], edges[-1]), edges)[0] / len(column)).tolist())
        for name, column in zip(names, columns, strict=True)
    }
    return Plot(title, label, "%", series)


def _positions(splits: Sequence[_Split]) -> list[list[int]]:
    """Return the number of object centers in each cell of a grid over the image."""
    grid = np.zeros((_GRID, _GRID), dtype=np.int64)
    for split in splits:
        centers = (split.boxes[:, :2] + split.boxes[:, 2:]) / 2 / np.maximum(split.sizes[split.image], 1)
        cells = (centers * _GRID).astype(np.int64).clip(0, _GRID - 1)
        np.add.at(grid, (cells[:, 1], cells[:, 0]), 1)
    return grid.tolist()


def _property_figures(
    splits: Sequence[_Split], properties: Sequence[Property], rng: np.random.Generator
) -> dict[str, Any]:
    """Return the figures of properties for the annotations of the training set."""
    own = [prop for prop in properties if type(prop).plots is not Property.plots]
    if not own:
        return {}
    parts = []
    for split in splits:
        mapper = truth_mapper(split.name, properties)
        for index in _sample(len(split.records), _MOST_RECORDS, rng):
            record = split.records[index]
            size = (int(split.sizes[index, 1]), int(split.sizes[index, 0]))
            parts.append(known_objects(mapper.annotate(record, TransformList([]), size)))
    return property_plots(own, None, _join(parts))


def property_plots(properties: Sequence[Property], found: Instances | None, truth: Instances | None) -> dict[str, Any]:
    """Return the figures of each property by name; see :meth:`Property.plots`."""
    results = {}
    for prop in properties:
        if truth is None or not len(truth):
            continue
        known = prop.labeled(truth)
        if known.any() and (plots := prop.plots(None if found is None else found[known], truth[known])):
            results[prop.name] = plots
    return results


def _join(parts: Sequence[Instances]) -> Instances | None:
    names = set.intersection(*(set(part.get_fields()) for part in parts)) if parts else set()
    filled = [Instances((0, 0), **{name: part.get(name) for name in names}) for part in parts if len(part)]
    return Instances.cat(filled) if filled else None


def _sample(count: int, limit: int, rng: np.random.Generator) -> list[int]:
    return list(range(count)) if count <= limit else sorted(rng.choice(count, limit, replace=False).tolist())


def _draw_crowded(splits: Sequence[_Split], crowded: dict[str, np.ndarray]) -> list[Picture]:
    """Draw the surroundings of objects that share a cell with another one of their class."""
    results: list[Picture] = []
    for split in splits:
        for index in dict.fromkeys(split.image[crowded[split.name]].tolist()):
            if len(results) == _EXAMPLES:
                return results
            rows = np.flatnonzero(crowded[split.name] & (split.image == index))
            record = split.records[index]
            pixels = read_image(record["file_name"], "RGB")
            truth = Instances(
                pixels.shape[:2], gt_boxes=split.boxes[rows], gt_classes=torch.from_numpy(split.classes[rows])
            )
            drawn = draw_instances(pixels, truth, split.class_names)
            low, high = split.boxes[rows[:2], :2].min(axis=0), split.boxes[rows[:2], 2:].max(axis=0)
            results.append(
                picture(crop(drawn, low, high), f"{split.name}: {Path(record['file_name']).name}", "quarter")
            )
    return results


def _draw_duplicates(duplicates: dict[str, Any]) -> list[Picture]:
    results = []
    for pair in duplicates["pairs"]:
        for one in pair["files"][:3]:
            images = [read_image(file, "RGB") for file in one["files"]]
            height = min(image.shape[0] for image in images)
            width = min(image.shape[1] for image in images)
            both = np.concatenate([image[:height, :width] for image in images], axis=1)
            kind = "exact" if one["exact"] else "near"
            names = " and ".join(Path(file).name for file in one["files"])
            results.append(picture(both, f"{kind}, {pair['splits'][0]} and {pair['splits'][1]}: {names}"))
    return results[:_EXAMPLES]


def _augmented(cfg: CfgNode) -> list[Picture]:
    """Draw training images as the network sees them."""
    sheet = augmented_sheet(cfg, preview_records(cfg, cfg.DATASETS.TRAIN))
    return [picture(sheet, "Random crops, flips and colors, with the transformed annotations.", "full")]
