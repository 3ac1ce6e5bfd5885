#!/usr/bin/env python
"""Rotated boxes: an angle of period 180 degrees for every object; and a small data set of bars to learn it from.

    python examples/rotated_boxes/rotated_boxes.py datasets/bars

``bbox`` of an annotation is the box before it is turned about its center by ``angle`` degrees, clockwise on the screen
(from x, to the right, towards y, down).
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

# In front of Detectron2, whose import it makes a quiet one.
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
from centernet_d2.structures.points import Peaks, Points
from centernet_d2.structures.types import DatasetDict, Fields, Maps, Targets


class AngleProperty(Property):
    """The angle outside the network: what annotations say of it, and what people get of it."""

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
                    raise ValueError(f"{image['file_name']}, annotation {index} of this image: angle is {angle!r}")

    def annotate(self, record: DatasetDict, transforms: Sequence[Transform], size: tuple[int, int]) -> dict[str, Any]:
        """``gt_angle`` (N,) degrees under the transforms, and ``gt_angle_known`` (N,), 0 where there is none."""
        annotations = record["annotations"]
        angles = np.radians([annotation.get("angle", 0.0) for annotation in annotations])
        # A point and one beside it in the direction of the angle: whatever happens to the image, happens to them.
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
        """``degrees``, the mean, of at most 90."""
        difference = (detections.pred_angle - truth.gt_angle + 90) % 180 - 90
        return {"degrees": float(difference.abs().mean())}

    def draw(self, visualizer: Visualizer, instances: Instances, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """The turned boxes."""
        found = instances.has("scores")
        boxes = instances.pred_boxes if found else instances.gt_boxes
        angles = instances.pred_angle if found else instances.gt_angle
        color = "orange" if found else "lime"
        for corners in turned_corners(boxes.tensor.numpy(), angles.numpy()):
            visualizer.draw_polygon(corners, color, alpha=0.2)
        return []


@POINT_HEAD_REGISTRY.register()
class AngleHead(PointHead):
    """The angle inside the network: sine and cosine of twice the angle, which are the same after half a turn."""

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
        """A mirror takes the angle to its negative: the sine changes its sign."""
        return {"angle": maps["angle"].flip(-1) * maps["angle"].new_tensor([-1.0, 1.0]).view(2, 1, 1)}

    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """(B, K) degrees in -90..90."""
        sine, cosine = peaks.gather(maps["angle"]).unbind(2)
        return {"angle": torch.rad2deg(torch.atan2(sine, cosine)) / 2}

    def to_image(self, fields: Fields, geometry: Geometry) -> dict[str, Any]:
        # The way back to the original image moves and scales, which leaves angles as they are.
        return {"pred_angle": fields["angle"]}


def turned_corners(boxes: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """(N, 4, 2) corners of (N, 4) XYXY boxes that are turned about their centers."""
    centers, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    offsets = half[:, None] * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    cos, sin = np.cos(np.radians(degrees))[:, None], np.sin(np.radians(degrees))[:, None]
    x, y = offsets[..., 0], offsets[..., 1]
    return centers[:, None] + np.stack([cos * x - sin * y, sin * x + cos * y], axis=2)


def draw_bars(rng: np.random.Generator, size: int = 192) -> tuple[np.ndarray, list[dict]]:
    """A picture of up to five bars that do not overlap, (H, W, 3) BGR, and their ``bbox`` and ``angle``."""
    image = np.clip(rng.uniform(60, 180) + rng.normal(0, 12, (size, size, 3)), 0, 255).astype(np.uint8)
    taken, bars = np.zeros((size, size), np.uint8), []
    for _ in range(rng.integers(1, 6)):
        length, width = rng.uniform(36, 64), rng.uniform(12, 22)
        center, angle = rng.uniform(36, size - 36, 2), rng.uniform(-90, 90)
        half = np.array([length, width]) / 2
        box = np.concatenate([center - half, center + half])
        corners = np.round(turned_corners(box[None], np.array([angle]))[0] * 16).astype(np.int32)
        place = cv2.fillPoly(np.zeros_like(taken), [corners], 1, cv2.LINE_8, 4)
        if (place & taken).any():
            continue
        taken |= cv2.dilate(place, np.ones((9, 9), np.uint8))
        cv2.fillPoly(image, [corners], rng.uniform(0, 255, 3).tolist(), cv2.LINE_AA, 4)
        cv2.polylines(image, [corners], True, (0, 0, 0), 1, cv2.LINE_AA, 4)
        bbox = BoxMode.convert(box.tolist(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        bars.append({"bbox": bbox, "angle": float(angle)})
    return image, bars


def write_bars(folder: Path, name: str, *, images: int, size: int = 192, seed: int = 0) -> None:
    """Draw ``name/*.png`` and ``name.json``, COCO's format with an ``angle`` in each annotation."""
    rng = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True)
    records, annotations = [], []
    for image_id in range(1, images + 1):
        picture, bars = draw_bars(rng, size)
        cv2.imwrite(str(folder / name / f"{image_id:04d}.png"), picture)
        records.append({"id": image_id, "file_name": f"{image_id:04d}.png", "height": size, "width": size})
        for bar in bars:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, **bar})
    content = {"images": records, "annotations": annotations, "categories": [{"id": 1, "name": "bar"}]}
    (folder / f"{name}.json").write_text(json.dumps(content))


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=600, help="number of training images")
    parser.add_argument("--val", type=int, default=200, help="number of validation images")
    return cli.run(parser, draw, argv)


def draw(args: argparse.Namespace) -> None:
    """Draw both splits."""
    if args.folder.exists():
        raise FileExistsError(f"{args.folder} already exists; nothing is overwritten")
    for seed, (name, count) in enumerate((("train", args.train), ("val", args.val))):
        write_bars(args.folder, name, images=count, seed=seed)
    print(f"drew {args.train} and {args.val} images of bars into {args.folder}")


if __name__ == "__main__":
    sys.exit(main())
