"""Synthetic detection dataset in COCO format: shapes on a textured background."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

__all__ = ["SHAPES", "draw_ground", "draw_shapes", "write_shapes"]

# Class -> number of corners of its outline, and radius of every second corner relative to the others.
SHAPES = {"disk": (64, 1.0), "triangle": (3, 1.0), "square": (4, 1.0), "star": (10, 0.45), "hexagon": (6, 1.0)}

_SUBPIXEL_BITS = 4


def _outline(shape: str, center: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Return the (N, 2) corners of a shape in pixels."""
    corners, inner = SHAPES[shape]
    angles = angle + np.arange(corners) * 2 * np.pi / corners
    lengths = radius * np.where(np.arange(corners) % 2, inner, 1.0)
    return center + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def draw_ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw a smooth, slightly tinted gray texture, (H, W, 3) uint8."""
    coarse = (rng.uniform(50, 205, size=(4, 4, 1)) + rng.uniform(-15, 15, size=(4, 4, 3))).astype(np.float32)
    soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(soft + rng.normal(0, 8, size=soft.shape), 0, 255).astype(np.uint8)


def _color(rng: np.random.Generator, category: int) -> np.ndarray:
    """Return a random BGR color with a hue near the hue of a class."""
    spacing = 180 / len(SHAPES)
    hue = (category + rng.uniform(-0.2, 0.2)) * spacing % 180
    color = np.array([[[hue, rng.uniform(140, 255), rng.uniform(110, 255)]]], dtype=np.uint8)
    return cv2.cvtColor(color, cv2.COLOR_HSV2BGR)[0, 0].astype(float)


def _overlap(box: np.ndarray, others: list[np.ndarray]) -> float:
    """Return the largest IoU of a box with others."""
    best = 0.0
    for other in others:
        sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        shared = np.prod(sides.clip(min=0))
        best = max(best, shared / (np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - shared))
    return best


def draw_shapes(
    rng: np.random.Generator, size: tuple[int, int], max_objects: int = 6
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw one image with shapes.

    Objects may overlap up to an IoU of 0.4 and be truncated by the border; 10 % of the images are empty.

    Args:
        rng: random number generator.
        size: (height, width).
        max_objects: maximum number of objects.

    Returns:
        The (H, W, 3) BGR image, and (class, [x1, y1, x2, y2]) of each object, boxes clipped to the image.
    """
    height, width = size
    image = draw_ground(rng, height, width)
    objects: list[tuple[int, np.ndarray]] = []
    attempts = 0 if rng.random() < 0.1 else rng.integers(1, max_objects + 1)
    for _ in range(attempts):
        category = int(rng.integers(len(SHAPES)))
        radius = min(size) * rng.uniform(0.1, 0.28)
        center = rng.uniform([0, 0], [width, height])
        corners = _outline(list(SHAPES)[category], center, radius, rng.uniform(0, 2 * np.pi))
        box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
        visible = np.concatenate([box[:2].clip(min=0), np.minimum(box[2:], [width - 1, height - 1])])
        inside = np.prod((visible[2:] - visible[:2]).clip(min=0)) / np.prod(box[2:] - box[:2])
        if inside < 0.5 or _overlap(visible, [other for _, other in objects]) > 0.4:
            continue
        color = _color(rng, category)
        points = np.round(corners * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(image, [points], color.tolist(), cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.polylines(image, [points], True, (color * 0.5).tolist(), 1, cv2.LINE_AA, _SUBPIXEL_BITS)
        objects.append((category, visible))
    return image, objects


def write_shapes(
    folder: str | Path, *, train: int = 400, val: int = 100, size: int = 128, seed: int = 0, max_objects: int = 6
) -> None:
    """Write ``train/``, ``val/`` and ``annotations/{train,val}.json`` to a folder.

    Images have several sizes and aspect ratios. The same arguments produce the same files. Category ids are not
    contiguous.

    Args:
        folder: output folder; created if it does not exist.
        train, val: number of images.
        size: mean side length of the images.
        seed: seed of the random numbers.
        max_objects: maximum number of objects per image.
    """
    folder = Path(folder)
    categories = [{"id": 10 * (index + 1), "name": name} for index, name in enumerate(SHAPES)]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, (name, count) in enumerate((("train", train), ("val", val))):
        rng = np.random.default_rng([seed, split])
        images: list[dict] = []
        annotations: list[dict] = []
        (folder / name).mkdir(exist_ok=True)
        for index in tqdm(range(count), desc=f"writing {name}", leave=False):
            height, width = (int(size * factor) for factor in rng.choice([0.8, 1.0, 1.2], size=2))
            image, objects = draw_shapes(rng, (height, width), max_objects)
            file_name = f"{index:05d}.png"
            cv2.imwrite(str(folder / name / file_name), image)
            images.append({"id": index + 1, "file_name": file_name, "height": height, "width": width})
            for category, (x1, y1, x2, y2) in objects:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": categories[category]["id"],
                        "bbox": [round(float(value), 2) for value in (x1, y1, x2 - x1, y2 - y1)],
                        "area": round(float((x2 - x1) * (y2 - y1)), 2),
                        "iscrowd": 0,
                    }
                )
        content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"{name}.json").write_text(json.dumps(content))
