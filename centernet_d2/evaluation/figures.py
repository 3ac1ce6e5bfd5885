"""Figures and sheets of labeled images, augmented samples and predictions.

All functions return arrays and preserve the global random number generators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from torch import Tensor

from ..data import CenterNetDatasetMapper
from ..data.augmentations import build_augmentations
from ..data.catalog import dataset_metadata
from ..data.checks import load_checked
from ..data.stream import seeded
from ..imaging.reading import read_image
from ..imaging.sheet import build_sheet
from ..imaging.visualization import class_color, draw_heatmap, draw_instances
from ..modeling import CenterNet
from ..modeling.heads import Property, build_properties
from ..structures.points import known_objects
from ..structures.types import DatasetDict
from ..utils.logging import errors_only

__all__ = [
    "augmented_sheet",
    "draw_prediction",
    "draw_sample",
    "labeled_sheet",
    "prediction_sheet",
    "preview_records",
]

# Number of images in sheets of images and of predictions.
IMAGES, PREDICTIONS = 12, 6
# Width of sheets in pixels, and number of classes in their legend.
WIDTH, LEGEND = 1600, 30
# Median ratio of width and height from which a sheet of images has 2 instead of 4 columns.
WIDE = 2.0
THRESHOLD = 0.3
# Largest number of classes with distinguishable colors; with more, sheets contain class names.
COLORS = 6


def preview_records(cfg: CfgNode, names: Sequence[str], count: int = IMAGES) -> list[DatasetDict]:
    """Load some images of validated datasets, evenly spaced in their order.

    Args:
        cfg: config of the model.
        names: names of registered datasets.
        count: maximum number of images.
    """
    node = cfg.MODEL.CENTERNET
    with errors_only("centernet_d2.data.checks"):  # Logged at start-up.
        records = load_checked(
            names, node.NUM_CLASSES, (), node.CLASS_NAMES, max_bad_images=cfg.DATALOADER.MAX_BAD_IMAGES
        )
    count = min(count, len(records))
    return [records[index * len(records) // count] for index in range(count)]


def labeled_sheet(cfg: CfgNode, records: Sequence[DatasetDict]) -> np.ndarray:
    """Draw a sheet of images with their annotations.

    Args:
        cfg: config of the model.
        records: images of a registered dataset, see :func:`preview_records`.
    """
    return _sample_sheet(cfg, records, [], "annotations")


def augmented_sheet(cfg: CfgNode, records: Sequence[DatasetDict], seed: int = 0) -> np.ndarray:
    """Draw a sheet of augmented images with their annotations.

    Args:
        cfg: config of the model.
        records: images of a registered dataset, see :func:`preview_records`.
        seed: seed of the augmentations.
    """
    with seeded(seed):
        return _sample_sheet(cfg, records, build_augmentations(cfg, True), "augmented training samples")


def _sample_sheet(
    cfg: CfgNode, records: Sequence[DatasetDict], augmentations: Sequence[T.Augmentation], heading: str
) -> np.ndarray:
    sizes = [x["width"] / x["height"] for x in records if "width" in x and "height" in x]
    if augmentations:
        sizes = [cfg.INPUT.AFFINE.SIZE[1] / cfg.INPUT.AFFINE.SIZE[0]]
    columns = 2 if sizes and sorted(sizes)[len(sizes) // 2] >= WIDE else 4
    mapper = CenterNetDatasetMapper(
        True,
        augmentations=[*augmentations, T.ResizeShortestEdge(WIDTH // columns, WIDTH // columns)],
        image_format=cfg.INPUT.FORMAT,
        num_classes=cfg.MODEL.CENTERNET.NUM_CLASSES,
        properties=build_properties(cfg),
        crowd=cfg.MODEL.CENTERNET.QUIRKS.CROWD,
    )
    samples = [mapper(record) for record in _readable(records)]
    names = dataset_metadata(cfg).get("thing_classes") if cfg.MODEL.CENTERNET.NUM_CLASSES > COLORS else None
    tiles = [(_title(x, x["instances"]), draw_sample(x, cfg.INPUT.FORMAT, mapper.properties, names)) for x in samples]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    return _build(cfg, rows, [x["instances"].gt_classes for x in samples], f"{heading} ({len(tiles)} images)", columns)


def draw_sample(
    sample: Mapping[str, Any],
    image_format: str,
    properties: Sequence[Property],
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Draw a training sample with its ground truth.

    Args:
        sample: output of the training mapper.
        image_format: "BGR" or "RGB".
        properties: properties of the model.
        class_names: names to draw; None draws no names.

    Returns:
        (H, W', 3) uint8 RGB, see :func:`draw_instances`.
    """
    pixels = sample["image"].permute(1, 2, 0).numpy().clip(0, 255).astype(np.uint8)
    pixels = convert_image_to_rgb(pixels, image_format)
    options: dict[str, Any] = {"labels": class_names is not None, "properties": properties, "inputs": sample}
    return draw_instances(pixels, sample["instances"], class_names, **options)


@torch.no_grad()
def draw_prediction(
    model: CenterNet, record: DatasetDict, side: int, *, crowd: str = "object", threshold: float = THRESHOLD
) -> tuple[list[tuple[str, np.ndarray]], Tensor]:
    """Draw ground truth, detections and center heatmap of one image.

    Args:
        model: model in evaluation mode.
        record: image in Detectron2's format.
        side: longer side of the figures in pixels; the network input keeps the size of the image.
        crowd: see :class:`CenterNetDatasetMapper`.
        threshold: detections with at most this score are not drawn.

    Returns:
        (title, (H, W', 3) uint8 RGB figure) of the three figures, and the drawn classes.
    """
    mapper = CenterNetDatasetMapper(
        True,
        augmentations=[T.ResizeShortestEdge(side, side)],
        image_format="RGB",
        num_classes=model.num_classes,
        properties=model.properties,
        crowd=crowd,
    )
    sample = mapper(record)
    pixels = np.ascontiguousarray(sample["image"].permute(1, 2, 0).numpy().clip(0, 255).astype(np.uint8))
    height, width = pixels.shape[:2]
    image = read_image(record["file_name"], model.input_format)
    inputs = {key: sample[key] for key in model.input_keys if key in sample}
    canvas = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    result = model.inference([{"image": canvas, "height": height, "width": width, **inputs}], keep_heatmap=True)[0]
    found = result["instances"].to("cpu")
    found = found[found.scores > threshold]
    options: dict[str, Any] = {"labels": False, "properties": model.properties, "inputs": sample}
    figures = [
        (_title(sample, sample["instances"]), draw_instances(pixels, sample["instances"], **options)),
        (f"{len(found)} detections above {threshold:g}", draw_instances(pixels, found, **options)),
        ("center heatmap", draw_heatmap(pixels, result["heatmap"], result["geometry"].to_image)),
    ]
    return figures, torch.cat([sample["instances"].gt_classes, found.pred_classes])


def prediction_sheet(cfg: CfgNode, model: CenterNet, records: Sequence[DatasetDict]) -> np.ndarray:
    """Draw a sheet with ground truth, detections and heatmap of each image.

    Args:
        cfg: config of the model.
        model: trained model; its mode is restored.
        records: images of a registered dataset, see :func:`preview_records`.
    """
    was_training = model.training
    model.eval()
    try:
        with seeded(0):
            crowd = cfg.MODEL.CENTERNET.QUIRKS.CROWD
            drawn = [draw_prediction(model, record, WIDTH // 3, crowd=crowd) for record in _readable(records)]
    finally:
        model.train(was_training)
    heading = "ground truth, detections and center heatmap"
    return _build(cfg, [row for row, _ in drawn], [classes for _, classes in drawn], heading, 3)


def _readable(records: Sequence[DatasetDict]) -> Iterator[DatasetDict]:
    """Yield the images that can be read; a training may skip damaged images."""
    for record in records:
        try:
            read_image(record["file_name"])
        except OSError:
            continue
        yield record


def _title(sample: Mapping[str, Any], truth: Instances) -> str:
    number = len(known_objects(truth))
    return f"{Path(sample['file_name']).name}  {number} object{'' if number == 1 else 's'}"


def _build(
    cfg: CfgNode,
    rows: Sequence[Sequence[tuple[str, np.ndarray]]],
    classes: Sequence[Tensor],
    heading: str,
    columns: int,
) -> np.ndarray:
    """Build a sheet whose legend contains the drawn classes."""
    names = dataset_metadata(cfg).get("thing_classes")
    present = sorted({index for one in classes for index in one.tolist() if index >= 0})
    legend = {names[index] if names else str(index): class_color(index) for index in present[:LEGEND]}
    if len(present) > LEGEND:
        heading += f", {len(present)} classes"
    return build_sheet(rows, WIDTH, columns=columns, heading=heading, legend=legend)
