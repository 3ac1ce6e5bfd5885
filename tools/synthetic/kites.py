"""Synthetic keypoint dataset in COCO format: kites with four corners."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from synthetic.shapes import draw_ground

__all__ = ["FLIP_MAP", "KEYPOINTS", "draw_kites", "write_kites"]

KEYPOINTS = ("head", "left", "right", "tail")
FLIP_MAP = (("left", "right"),)
SKELETON = [[1, 2], [2, 4], [4, 3], [3, 1]]

# Corners of an upright kite relative to its length.
_CORNERS = np.array([[0.0, -0.4], [-0.3, -0.1], [0.3, -0.1], [0.0, 0.6]])


def draw_kites(rng: np.random.Generator, size: int, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw kites next to each other, with light heads and dark tails.

    Args:
        rng: random number generator.
        size: side of the square image.
        count: number of kites.

    Returns:
        The (H, W, 3) BGR image and the (4, 2) corners of each kite, in the order of KEYPOINTS.
    """
    image = draw_ground(rng, size, size)
    kites = []
    for index in range(count):
        angle = rng.uniform(-0.6, 0.6)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        center = np.array([(index + 0.5) * size / count, size * rng.uniform(0.4, 0.6)])
        corners = center + _CORNERS @ rotation.T * min(size / count, size * 0.6) * rng.uniform(0.7, 1.0)
        head, left, right, tail = corners
        for end, color in ((head, (230, 230, 90)), (tail, (120, 20, 30))):
            cv2.fillPoly(image, [np.round(np.stack([left, right, end]) * 16).astype(np.int32)], color, cv2.LINE_AA, 4)
        kites.append(corners)
    return image, kites


def write_kites(folder: str | Path, *, images: int = 8, size: int = 64, seed: int = 0) -> None:
    """Write ``images/`` and ``annotations.json`` in COCO format to a folder.

    Images contain one to three kites.

    Args:
        folder: output folder; created if it does not exist.
        images: number of images.
        size: side length of the images.
        seed: seed of the random numbers.
    """
    folder, rng = Path(folder), np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records: list[dict] = []
    annotations: list[dict] = []
    for image_id in range(1, images + 1):
        image, kites = draw_kites(rng, size, int(rng.integers(1, 4)))
        cv2.imwrite(str(folder / "images" / f"{image_id}.png"), image)
        records.append({"id": image_id, "file_name": f"{image_id}.png", "height": size, "width": size})
        for corners in kites:
            low, high = corners.min(axis=0).clip(min=0), corners.max(axis=0).clip(max=size - 1)
            width, height = (high - low).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [*low.tolist(), width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "keypoints": [value for x, y in corners.tolist() for value in (x, y, 2)],
                    "num_keypoints": len(KEYPOINTS),
                }
            )
    categories = [{"id": 1, "name": "kite", "keypoints": list(KEYPOINTS), "skeleton": SKELETON}]
    content = {"info": {}, "images": records, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
