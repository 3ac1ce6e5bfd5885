#!/usr/bin/env python
"""Rotated boxes: an angle with a period of 180 degrees, and a synthetic dataset.

    python examples/rotated_boxes/rotated_boxes.py datasets/bars

``bbox`` of an annotation is the box before rotation. The object is the box rotated about its center by ``angle``
degrees, clockwise in the image (from x, right, to y, down).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

# Before Detectron2, to suppress warnings of its import.
from centernet_d2.utils import cli

# isort: split
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import Transform
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import Visualizer
from torch import Tensor

from centernet_d2.imaging.geometry import Geometry
from centernet_d2.modeling.heads import POINT_HEAD_REGISTRY, PointHead, Property
from centernet_d2.modeling.losses import regression_loss
from centernet_d2.structures.plots import Plot, histogram
from centernet_d2.structures.points import Peaks, Points
from centernet_d2.structures.types import DatasetDict, Fields, Maps, Targets


class AngleProperty(Property):
    """Angle outside of the network: annotations, results, errors and visualization."""

    name = "angle"
    node = "ANGLE"
    annotation_keys = ("angle",)
    fields = ("pred_angle",)

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        node.WEIGHT = 1.0

    def check(self, dicts: Sequence[DatasetDict]) -> None:
        for image in dicts:
            for index, annotation in enumerate(image.get("annotations", ())):
                angle = annotation.get("angle", 0.0)
                if not isinstance(angle, (int, float)) or not math.isfinite(angle):
                    where = f"{image['file_name']}, annotation {index} of this image"
                    raise ValueError(f"{where}: angle is {angle!r}, but must be a finite number")

    def annotate(self, record: DatasetDict, transforms: Sequence[Transform], size: tuple[int, int]) -> dict[str, Any]:
        """Return the ground-truth fields of the objects after the transforms.

        ``gt_angle`` (N,) is in degrees; ``gt_angle_known`` (N,) is 0 for objects without an angle.
        """
        annotations = record["annotations"]
        angles = np.radians([annotation.get("angle", 0.0) for annotation in annotations])
        # Transform two points: the origin and the point at distance 1 in the direction of the angle.
        ends = np.stack([np.zeros((len(angles), 2)), np.column_stack([np.cos(angles), np.sin(angles)])]).reshape(-1, 2)
        for transform in transforms:
            ends = transform.apply_coords(ends)
        start, end = ends.reshape(2, -1, 2)
        degrees = np.degrees(np.arctan2(*(end - start).T[::-1]))
        known = ["angle" in annotation for annotation in annotations]
        return {
            "gt_angle": torch.as_tensor(degrees, dtype=torch.float32),
            "gt_angle_known": torch.tensor(known, dtype=torch.float32),
        }

    def labeled(self, truth: Instances) -> Tensor:
        return truth.gt_angle_known > 0

    def errors(self, detections: Instances, truth: Instances) -> dict[str, float]:
        """Return the mean absolute error in degrees, at most 90."""
        difference = (detections.pred_angle - truth.gt_angle + 90) % 180 - 90
        return {"degrees": float(difference.abs().mean())}

    def plots(self, found: Instances | None, truth: Instances) -> list[Plot]:
        """Return the distribution of angles or, with detections, of their errors."""
        if found is None:
            angles = (truth.gt_angle.numpy() + 90) % 180 - 90
            return [histogram("Angle of objects", "angle (degrees)", angles, limits=(-90, 90))]
        difference = (found.pred_angle - truth.gt_angle + 90) % 180 - 90
        return [histogram("Angle error", "predicted - true angle (degrees)", difference.numpy(), limits=(-90, 90))]

    def draw(self, visualizer: Visualizer, instances: Instances, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """Draw the rotated boxes."""
        found = instances.has("scores")
        boxes = instances.pred_boxes if found else instances.gt_boxes
        angles = instances.pred_angle if found else instances.gt_angle
        color = "orange" if found else "lime"
        for corners in rotated_corners(boxes.tensor.numpy(), angles.numpy()):
            visualizer.draw_polygon(corners, color, alpha=0.2)
        return []


@POINT_HEAD_REGISTRY.register()
class AngleHead(PointHead):
    """Angle inside the network: sine and cosine of twice the angle.

    Both are unchanged by a rotation of 180 degrees.
    """

    property_type = AngleProperty
    keys = {"weight": "MODEL.CENTERNET.ANGLE.WEIGHT"}
    provides = ("angle",)

    @configurable
    def __init__(self, *, weight: float = 1.0, **common: Any) -> None:
        """
        Args:
            weight: factor of the loss.
            common: see :class:`PointHead`.
        """
        super().__init__({"angle": 2}, **common)
        self.weight = weight

    def targets(self, gt: Sequence[Instances], points: Points) -> Targets:
        twice = torch.deg2rad(2 * torch.cat([instances.gt_angle for instances in gt]))
        known = points.weight * torch.cat([instances.gt_angle_known for instances in gt])
        value = torch.stack([twice.sin(), twice.cos()], dim=1)
        return {"angle": points.target(value, known[:, None].expand_as(value))}

    def losses(self, maps: Maps, targets: Targets) -> dict[str, Tensor]:
        target = targets["angle"]
        loss = regression_loss(target.gather(maps["angle"]), target.value, target.weight)
        return {"loss_angle": self.weight * loss}

    def unflip(self, maps: Maps) -> dict[str, Tensor | None]:
        """Invert horizontal flipping, which negates the angle and so the sine."""
        return {"angle": maps["angle"].flip(-1) * maps["angle"].new_tensor([-1.0, 1.0]).view(2, 1, 1)}

    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """Return the angles at the peaks, (B, K) degrees in -90..90."""
        sine, cosine = peaks.gather(maps["angle"]).unbind(2)
        return {"angle": torch.rad2deg(torch.atan2(sine, cosine)) / 2}

    def to_image(self, fields: Fields, geometry: Geometry) -> Fields:
        # The inverse transform to the original image translates and scales, which does not change angles.
        return {"pred_angle": fields["angle"]}


def rotated_corners(boxes: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Return the (N, 4, 2) corners of (N, 4) XYXY boxes rotated about their centers."""
    centers, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    offsets = half[:, None] * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    cos, sin = np.cos(np.radians(degrees))[:, None], np.sin(np.radians(degrees))[:, None]
    x, y = offsets[..., 0], offsets[..., 1]
    return centers[:, None] + np.stack([cos * x - sin * y, sin * x + cos * y], axis=2)


def draw_bars(rng: np.random.Generator, size: int = 192) -> tuple[np.ndarray, list[dict]]:
    """Draw up to five separate bars.

    Returns:
        (H, W, 3) BGR image, and annotations with ``bbox`` and ``angle``.
    """
    image = np.clip(rng.uniform(60, 180) + rng.normal(0, 12, (size, size, 3)), 0, 255).astype(np.uint8)
    occupied, bars = np.zeros((size, size), np.uint8), []
    for _ in range(rng.integers(1, 6)):
        length, width = rng.uniform(36, 64), rng.uniform(12, 22)
        center, angle = rng.uniform(36, size - 36, 2), rng.uniform(-90, 90)
        half = np.array([length, width]) / 2
        box = np.concatenate([center - half, center + half])
        corners = np.round(rotated_corners(box[None], np.array([angle]))[0] * 16).astype(np.int32)
        mask = cv2.fillPoly(np.zeros_like(occupied), [corners], 1, cv2.LINE_8, 4)
        if (mask & occupied).any():
            continue
        occupied |= cv2.dilate(mask, np.ones((9, 9), np.uint8))
        cv2.fillPoly(image, [corners], rng.uniform(0, 255, 3).tolist(), cv2.LINE_AA, 4)
        cv2.polylines(image, [corners], True, (0, 0, 0), 1, cv2.LINE_AA, 4)
        bbox = BoxMode.convert(box.tolist(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        bars.append({"bbox": bbox, "angle": float(angle)})
    return image, bars


def write_bars(folder: Path, name: str, *, images: int, size: int = 192, seed: int = 0) -> None:
    """Write images and ``name.json`` in COCO format with ``angle`` in annotations."""
    rng = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True)
    records, annotations = [], []
    for image_id in range(1, images + 1):
        image, bars = draw_bars(rng, size)
        cv2.imwrite(str(folder / name / f"{image_id:04d}.png"), image)
        records.append({"id": image_id, "file_name": f"{image_id:04d}.png", "height": size, "width": size})
        for bar in bars:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, **bar})
    content = {"images": records, "annotations": annotations, "categories": [{"id": 1, "name": "bar"}]}
    (folder / f"{name}.json").write_text(json.dumps(content))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder; must not exist")
    parser.add_argument("--train", type=int, default=600, help="number of training images")
    parser.add_argument("--val", type=int, default=200, help="number of validation images")
    return cli.run(parser, write_dataset, argv)


def write_dataset(args: argparse.Namespace) -> None:
    """Write both splits.

    Raises:
        FileExistsError: the output folder exists.
    """
    if args.folder.exists():
        raise FileExistsError(f"{args.folder} already exists; nothing is overwritten, choose another folder")
    for seed, (name, count) in enumerate((("train", args.train), ("val", args.val))):
        write_bars(args.folder, name, images=count, seed=seed)
    print(f"wrote {args.train} training and {args.val} validation images of bars to {args.folder}")


if __name__ == "__main__":
    sys.exit(main())
