#!/usr/bin/env python
"""Instance masks from one point, and a synthetic dataset.

    python examples/masks/masks.py datasets/cutouts

The network predicts prototypes (maps that all objects share) and, at each center, coefficients. The mask of an object
is the sigmoid of the sum of prototypes weighted by its coefficients, cropped to a window around its box. Masks have a
fixed resolution, so that detections of any images can be batched, concatenated and exported.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

# Before Detectron2, to suppress warnings of its import.
from centernet_d2.utils import cli

# isort: split
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import Transform, TransformList
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer
from pycocotools import mask as coco_masks
from torch import Tensor
from torchvision.ops import roi_align

from centernet_d2.data.checks import corners
from centernet_d2.imaging.geometry import Geometry, apply_affine
from centernet_d2.imaging.visualization import class_color
from centernet_d2.modeling.heads import POINT_HEAD_REGISTRY, PointHead, Property
from centernet_d2.modeling.losses import average_over_processes
from centernet_d2.structures.plots import Plot, histogram
from centernet_d2.structures.points import Peaks, Points
from centernet_d2.structures.types import DatasetDict, Fields, Maps, Targets
from centernet_d2.utils.validation import ArgumentError

# Size of the window of a mask relative to the box, so that errors of the box do not cut the mask.
MARGIN = 1.2


class MaskProperty(Property):
    """Masks outside of the network: annotations, results, errors and visualization.

    A mask is a (S, S) grid in a window, which is the box scaled by MARGIN.
    """

    name = "mask"
    node = "MASKS"
    keys = {"resolution": "MODEL.CENTERNET.MASKS.RESOLUTION"}
    annotation_keys = ("segmentation",)
    fields = ("pred_mask_grids", "pred_mask_windows")

    @configurable
    def __init__(self, *, resolution: int = 28) -> None:
        """
        Args:
            resolution: S, the number of rows and columns of a mask.
        """
        super().__init__()
        if resolution < 2:
            raise ArgumentError("resolution", f"is {resolution}, but must be at least 2")
        self.resolution = resolution

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        node.RESOLUTION = 28
        node.PROTOTYPES = 16
        node.WEIGHT = 2.0

    def check(self, dicts: Sequence[DatasetDict]) -> None:
        for image in dicts:
            for index, annotation in enumerate(image.get("annotations", ())):
                try:
                    to_rle(annotation.get("segmentation"), 1, 1)
                except (TypeError, ValueError) as error:
                    where = f"{image['file_name']}, annotation {index} of this image"
                    raise ValueError(f"{where}: segmentation is invalid: {error}") from error

    def annotate(self, record: DatasetDict, transforms: Sequence[Transform], size: tuple[int, int]) -> dict[str, Any]:
        """Return ``gt_mask_grids`` (N, S, S) and ``gt_mask_known`` (N,)."""
        annotations = record["annotations"]
        boxes = TransformList(list(transforms)).apply_box(corners(annotations)).clip(0, [size[1], size[0]] * 2)
        masks = torch.zeros(len(annotations), self.resolution, self.resolution)
        known = torch.zeros(len(annotations))
        for index, annotation in enumerate(annotations):
            rle = to_rle(annotation.get("segmentation"), record["height"], record["width"])
            if rle is None:
                continue
            pixels = coco_masks.decode(rle)
            for transform in transforms:
                pixels = transform.apply_segmentation(pixels)
            window = windows(torch.as_tensor(boxes[index : index + 1], dtype=torch.float32))
            canvas = torch.from_numpy(np.array(pixels, dtype=np.float32))[None, None]
            masks[index] = roi_align(canvas, [window], self.resolution, aligned=True)[0, 0]
            known[index] = 1.0
        return {"gt_mask_grids": masks, "gt_mask_known": known}

    def labeled(self, truth: Instances) -> Tensor:
        return truth.gt_mask_known > 0

    def errors(self, detections: Instances, truth: Instances) -> dict[str, float]:
        """Return the mean IoU of masks in percent."""
        return {"iou": 100.0 * float(mask_overlaps(detections, truth).mean())}

    def plots(self, found: Instances | None, truth: Instances) -> list[Plot]:
        """Return the distribution of the IoU of masks."""
        if found is None:
            return []
        return [histogram("IoU of masks", "IoU (%)", 100 * mask_overlaps(found, truth).numpy(), limits=(0.0, 100.0))]

    def draw(self, visualizer: Visualizer, instances: Instances, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """Draw the masks; neighboring objects have different colors."""
        for index, mask in enumerate(image_masks(instances)):
            if mask.any():
                visualizer.draw_binary_mask(mask, class_color(index), alpha=0.5, area_threshold=0)
        return []

    def to_json(self, instances: Instances) -> list[dict[str, Any]]:
        """Return ``segmentation`` as run lengths in COCO format."""
        codes = [coco_masks.encode(np.asfortranarray(mask)) for mask in image_masks(instances)]
        return [{"segmentation": {"size": code["size"], "counts": code["counts"].decode()}} for code in codes]


@POINT_HEAD_REGISTRY.register()
class MaskHead(PointHead):
    """Masks inside the network: maps of prototypes and of coefficients.

    The last coefficient is a constant, which is added to the sum.
    """

    property_type = MaskProperty
    keys = {"prototypes": "MODEL.CENTERNET.MASKS.PROTOTYPES", "weight": "MODEL.CENTERNET.MASKS.WEIGHT"}
    requires = ("boxes",)
    provides = ("masks", "windows")

    @configurable
    def __init__(self, *, prototypes: int = 16, weight: float = 2.0, **common: Any) -> None:
        """
        Args:
            prototypes: number of prototypes.
            weight: factor of the loss.
            common: see :class:`PointHead`.
        """
        if prototypes < 1:
            raise ArgumentError("prototypes", f"is {prototypes}, but must be at least 1")
        super().__init__({"prototypes": prototypes, "coefficients": prototypes + 1}, **common)
        self.weight = weight

    def targets(self, gt: Sequence[Instances], points: Points) -> Targets:
        """Return the target masks and their windows."""
        masks = torch.cat([instances.gt_mask_grids for instances in gt]).flatten(1)
        known = points.weight * torch.cat([instances.gt_mask_known for instances in gt])
        regions = torch.cat([points.image[:, None].to(points.boxes), windows(points.boxes)], dim=1)
        return {"masks": points.target(masks, known[:, None]), "regions": regions}

    def losses(self, maps: Maps, targets: Targets) -> dict[str, Tensor]:
        """Return the binary cross-entropy, averaged over the cells of each mask."""
        target = targets["masks"]
        logits = self._logits(maps["prototypes"], target.gather(maps["coefficients"]), targets["regions"])
        entropy = F.binary_cross_entropy_with_logits(logits.flatten(1), target.value, reduction="none").mean(dim=1)
        weight = target.weight[:, 0]
        loss = (entropy * weight).sum() / average_over_processes(weight.sum(), minimum=1)
        return {"loss_mask": self.weight * loss}

    def _logits(self, prototypes: Tensor, coefficients: Tensor, regions: Tensor) -> Tensor:
        """Return (N, S, S) logits.

        Args:
            prototypes: (B, P, H, W) map.
            coefficients: (N, P + 1) coefficients.
            regions: (N, 5) index of the image, and window in map pixels.
        """
        prototypes, coefficients = prototypes.float(), coefficients.float()
        resolution = self.prop.resolution
        crops = roi_align(prototypes, regions, resolution, sampling_ratio=1, aligned=True)
        mixed = (crops.flatten(2) * coefficients[:, :-1, None]).sum(dim=1) + coefficients[:, -1:]
        return mixed.unflatten(1, (resolution, resolution))

    def unflip(self, maps: Maps) -> dict[str, Tensor | None]:
        # The network may use other prototypes for the flipped image, so coefficients cannot be averaged.
        return {"prototypes": None, "coefficients": None}

    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """Return (B, K, S, S) masks in 0..1, and (B, K, 4) windows."""
        regions = windows(fields["boxes"])
        batch, count = regions.shape[:2]
        image = torch.arange(batch).to(regions)[:, None, None].expand(-1, count, 1)
        coefficients = peaks.gather(maps["coefficients"]).flatten(0, 1)
        logits = self._logits(maps["prototypes"], coefficients, torch.cat([image, regions], dim=2).flatten(0, 1))
        return {"masks": logits.sigmoid().unflatten(0, (batch, count)), "windows": regions}

    def to_image(self, fields: Fields, geometry: Geometry) -> Fields:
        window = apply_affine(fields["windows"].unflatten(1, (2, 2)), geometry.to_image)
        return {"pred_mask_grids": fields["masks"], "pred_mask_windows": window.flatten(1)}


def windows(boxes: Tensor) -> Tensor:
    """Return (..., 4) XYXY boxes scaled by MARGIN about their centers."""
    first, last = boxes[..., :2], boxes[..., 2:]
    extra = (last - first) * (MARGIN - 1) / 2
    return torch.cat([first - extra, last + extra], dim=-1)


def to_rle(segmentation: Any, height: int, width: int) -> dict | None:
    """Convert a segmentation in COCO format to run lengths; None if it is empty.

    Raises:
        ValueError, TypeError: the segmentation is invalid.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        if not all(
            isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation
        ):
            raise ValueError("polygons must be lists of at least 3 points [x1, y1, x2, y2, ...]")
        return coco_masks.merge(coco_masks.frPyObjects(segmentation, height, width))
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError("it must be a list of polygons, or a dict with size and counts")
    if isinstance(segmentation["counts"], list):
        return coco_masks.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def located_masks(instances: Instances) -> tuple[Tensor, Tensor]:
    """Return (N, S, S) masks and (N, 4) windows of detections or ground truth."""
    if instances.has("scores"):
        return instances.pred_mask_grids, instances.pred_mask_windows
    return instances.gt_mask_grids, windows(instances.gt_boxes.tensor)


def image_masks(instances: Instances) -> np.ndarray:
    """Return (N, H, W) uint8 masks in the image."""
    masks, places = located_masks(instances)
    return paste_masks_in_image(masks, Boxes(places), instances.image_size).numpy().astype(np.uint8)


def mask_overlaps(detections: Instances, truth: Instances, resolution: int = 64) -> Tensor:
    """Return the (N,) IoUs of pairs of masks, computed on a grid over both windows."""
    parts = [located_masks(detections), located_masks(truth)]
    (_, first), (_, second) = parts
    common = torch.cat([torch.minimum(first, second)[:, :2], torch.maximum(first, second)[:, 2:]], dim=1)
    found, true = (resample(masks, places, common, resolution) > 0.5 for masks, places in parts)
    union = (found | true).flatten(1).sum(dim=1)
    return (found & true).flatten(1).sum(dim=1) / union.clamp(min=1)


def resample(masks: Tensor, places: Tensor, common: Tensor, resolution: int) -> Tensor:
    """Sample (N, S, S) masks in one window on a (N, R, R) grid in another window."""
    steps = (torch.arange(resolution) + 0.5) / resolution
    x, y = (
        (common[:, axis, None] + steps * (common[:, axis + 2] - common[:, axis])[:, None] - places[:, axis, None])
        / (places[:, axis + 2] - places[:, axis]).clamp(min=1e-6)[:, None]
        for axis in (0, 1)
    )
    grid = torch.stack([x[:, None].expand(-1, resolution, -1), y[:, :, None].expand(-1, -1, resolution)], dim=3)
    return F.grid_sample(masks[:, None], 2 * grid - 1, align_corners=False)[:, 0]


# Class -> number of corners, radius of every second corner relative to the others, and radius of the hole.
CUTOUTS = {"disk": (48, 1.0, 0.0), "star": (10, 0.5, 0.0), "ring": (48, 1.0, 0.5), "frame": (4, 1.0, 0.45)}


def outline(center: np.ndarray, radius: float, angle: float, corners: int, inner: float) -> np.ndarray:
    """Return the (N, 2) corners of a regular polygon or star."""
    angles = angle + np.arange(corners) * 2 * np.pi / corners
    radii = radius * np.where(np.arange(corners) % 2, inner, 1.0)
    return center + radii[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])


def draw_cutouts(rng: np.random.Generator, size: int = 128) -> tuple[np.ndarray, list[dict]]:
    """Draw up to five shapes, some with a hole.

    Returns:
        (H, W, 3) BGR image, and annotations: ``segmentation`` is a polygon or, for shapes with a hole, run lengths.
    """
    image = np.clip(rng.uniform(60, 180) + rng.normal(0, 12, (size, size, 3)), 0, 255).astype(np.uint8)
    occupied, annotations = np.zeros((size, size), np.uint8), []
    for _ in range(rng.integers(1, 6)):
        category = int(rng.integers(len(CUTOUTS)))
        number, inner, hole = list(CUTOUTS.values())[category]
        center, radius, angle = rng.uniform(12, size - 12, 2), rng.uniform(12, 26), rng.uniform(0, 2 * np.pi)
        # Pixel centers are at integers in OpenCV, and at half integers in COCO.
        rings = [outline(center, radius, angle, number, inner)]
        if hole:
            rings.append(outline(center, radius * hole, angle, number, inner))
        fixed = [np.round((ring - 0.5) * 16).astype(np.int32) for ring in rings]
        mask = cv2.fillPoly(np.zeros_like(occupied), fixed, 1, cv2.LINE_8, 4)
        if (mask & occupied).any():
            continue
        occupied |= cv2.dilate(mask, np.ones((5, 5), np.uint8))
        cv2.fillPoly(image, fixed, rng.uniform(0, 255, 3).tolist(), cv2.LINE_AA, 4)
        cv2.polylines(image, fixed, True, (0, 0, 0), 1, cv2.LINE_AA, 4)
        code = coco_masks.encode(np.asfortranarray(mask))
        polygon = [np.round(rings[0].clip(0, size), 2).flatten().tolist()]
        runs = {"size": code["size"], "counts": code["counts"].decode()}
        annotations.append(
            {
                "bbox": coco_masks.toBbox(code).tolist(),
                "category_id": category + 1,
                "area": float(coco_masks.area(code)),
                "iscrowd": 0,
                "segmentation": runs if hole else polygon,
            }
        )
    return image, annotations


def write_cutouts(folder: Path, name: str, *, images: int, size: int = 128, seed: int = 0) -> None:
    """Write images and ``name.json`` in COCO format with segmentations."""
    rng = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True)
    records, annotations = [], []
    for image_id in range(1, images + 1):
        image, cutouts = draw_cutouts(rng, size)
        cv2.imwrite(str(folder / name / f"{image_id:04d}.png"), image)
        records.append({"id": image_id, "file_name": f"{image_id:04d}.png", "height": size, "width": size})
        for cutout in cutouts:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **cutout})
    categories = [{"id": index + 1, "name": own} for index, own in enumerate(CUTOUTS)]
    content = {"images": records, "annotations": annotations, "categories": categories}
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
        write_cutouts(args.folder, name, images=count, seed=seed)
    print(f"wrote {args.train} training and {args.val} validation images of cutouts to {args.folder}")


if __name__ == "__main__":
    sys.exit(main())
