"""NumPy version of the data loading of the reference implementation.

This is the baseline of speed comparisons; it is not used for training. It samples window and colors like the reference
implementation (docs/original.md), works on float images, and loops over the objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode

from centernet_d2.data.augmentations import EIGENVALUES, EIGENVECTORS, crop_border

__all__ = ["lean_sample", "reference_sample"]

MAX_OBJECTS = 128
# Weights of blue, green and red in gray values.
GRAY = np.array([0.114, 0.587, 0.299])


def reference_sample(record: dict, cfg: CfgNode) -> dict[str, np.ndarray]:
    """Read, flip, warp, jitter and normalize one image, and draw its targets.

    Args:
        record: dataset dict in Detectron2's format, with XYWH_ABS boxes.
        cfg: config of a detection model; input size, pixel statistics, augmentation and number of classes are used.

    Returns:
        ``input`` (3, H, W), ``hm`` (C, H / 4, W / 4), and one row per object: ``wh``, ``reg``, ``ind``, ``reg_mask``.
    """
    return _sample(record, cfg, _normalize)


def lean_sample(record: dict, cfg: CfgNode) -> dict[str, np.ndarray]:
    """Compute the output of :func:`reference_sample` with one color matrix."""
    return _sample(record, cfg, _normalize_by_matrix)


def _sample(
    record: dict, cfg: CfgNode, normalize: Callable[[np.ndarray, CfgNode], np.ndarray]
) -> dict[str, np.ndarray]:
    image = cv2.imread(record["file_name"])
    height, width = image.shape[:2]
    out_height, out_width = cfg.INPUT.AFFINE.SIZE
    window = max(height, width) * np.random.choice(cfg.INPUT.AFFINE.SCALES)
    center = np.array(
        [np.random.randint(border := crop_border(side), side - border) for side in (width, height)], dtype=np.float32
    )
    flipped = np.random.random() < 0.5
    if flipped:
        image = image[:, ::-1]
        center[0] = width - 1 - center[0]
    matrix = window_matrix(center, window, (out_width, out_height))
    pixels = cv2.warpAffine(image, matrix, (out_width, out_height), flags=cv2.INTER_LINEAR)
    map_size = (out_width // 4, out_height // 4)
    to_map = window_matrix(center, window, map_size)
    flip_width = width if flipped else None
    return {
        "input": normalize(pixels, cfg),
        **draw_targets(record, to_map, map_size, cfg.MODEL.CENTERNET.NUM_CLASSES, flip_width),
    }


def _normalize(pixels: np.ndarray, cfg: CfgNode) -> np.ndarray:
    pixels = pixels.astype(np.float32) / 255
    change_colors(pixels, cfg.INPUT.COLOR_JITTER, cfg.INPUT.LIGHTING)
    mean, std = (np.array(values, dtype=np.float32) / 255 for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    return ((pixels - mean) / std).transpose(2, 0, 1)


def _normalize_by_matrix(pixels: np.ndarray, cfg: CfgNode) -> np.ndarray:
    strength, colors = cfg.INPUT.COLOR_JITTER, np.eye(3, 4)
    backgrounds = np.zeros((3, 3, 4))
    backgrounds[1, :, 3] = GRAY @ cv2.mean(pixels)[:3]
    backgrounds[2, :, :3] = GRAY
    for index in np.random.permutation(3):
        factor = 1 + np.random.uniform(-strength, strength)
        colors = factor * colors + (1 - factor) * backgrounds[index]
    colors[:, 3] += 255 * (EIGENVECTORS @ (EIGENVALUES * np.random.normal(scale=cfg.INPUT.LIGHTING, size=3)))
    colors[:, 3] -= cfg.MODEL.PIXEL_MEAN
    colors /= np.array(cfg.MODEL.PIXEL_STD)[:, None]
    changed = cv2.transform(pixels.astype(np.float32), colors.astype(np.float32))
    return np.stack(cv2.split(changed))


def window_matrix(center: np.ndarray, window: float, size: tuple[int, int]) -> np.ndarray:
    """Return the (2, 3) affine matrix from a square window to an output.

    The matrix is computed from three points, as in the reference implementation.

    Args:
        center: center of the window, x and y.
        window: side length of the window.
        size: width and height of the output.
    """
    corners = np.array([[0, 0], [0, -0.5], [-0.5, -0.5]])
    source = (center + window * corners).astype(np.float32)
    target = (np.array(size) / 2 + size[0] * corners).astype(np.float32)
    return cv2.getAffineTransform(source, target)


def change_colors(image: np.ndarray, strength: float, lighting: float) -> None:
    """Change brightness, contrast, saturation and lighting of an image in place.

    Args:
        image: (H, W, 3) float32 BGR, values in [0, 1].
        strength: strength of the color jitter.
        lighting: standard deviation of the lighting noise.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    mean = gray.mean()
    backgrounds = [None, mean, gray[:, :, None]]
    for index in np.random.permutation(3):
        factor = 1 + np.random.uniform(-strength, strength)
        image *= factor
        if index:
            image += backgrounds[index] * (1 - factor)
    image += EIGENVECTORS @ (EIGENVALUES * np.random.normal(scale=lighting, size=3))


def draw_targets(
    record: dict, to_map: np.ndarray, map_size: tuple[int, int], num_classes: int, flip_width: int | None
) -> dict[str, np.ndarray]:
    """Return heatmap, sizes and offsets of the objects of an image.

    Args:
        record: dataset dict in Detectron2's format, with XYWH_ABS boxes.
        to_map: (2, 3) matrix from the image to the maps.
        map_size: width and height of the maps.
        num_classes: number of classes.
        flip_width: width of the image if it was flipped horizontally, else None.
    """
    map_width, map_height = map_size
    heatmap = np.zeros((num_classes, map_height, map_width), dtype=np.float32)
    sizes, offsets = np.zeros((2, MAX_OBJECTS, 2), dtype=np.float32)
    cells, used = np.zeros(MAX_OBJECTS, dtype=np.int64), np.zeros(MAX_OBJECTS, dtype=np.uint8)
    for row, annotation in enumerate(record["annotations"][:MAX_OBJECTS]):
        assert annotation["bbox_mode"] == BoxMode.XYWH_ABS
        x, y, w, h = annotation["bbox"]
        box = np.array([x, y, x + w, y + h], dtype=np.float32)
        if flip_width is not None:
            box[[0, 2]] = flip_width - box[[2, 0]] - 1
        box[:2] = to_map @ np.array([box[0], box[1], 1], dtype=np.float32)
        box[2:] = to_map @ np.array([box[2], box[3], 1], dtype=np.float32)
        box[[0, 2]] = np.clip(box[[0, 2]], 0, map_width - 1)
        box[[1, 3]] = np.clip(box[[1, 3]], 0, map_height - 1)
        w, h = box[2] - box[0], box[3] - box[1]
        if w <= 0 or h <= 0:
            continue
        center = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], dtype=np.float32)
        cell = center.astype(np.int32)
        draw_gaussian(heatmap[annotation["category_id"]], cell, max(0, int(radius(np.ceil(h), np.ceil(w)))))
        sizes[row], offsets[row] = (w, h), center - cell
        cells[row], used[row] = cell[1] * map_width + cell[0], 1
    return {"hm": heatmap, "wh": sizes, "reg": offsets, "ind": cells, "reg_mask": used}


def radius(height: float, width: float, overlap: float = 0.7) -> float:
    """Return the smallest of the three radii (original.md: Radius)."""
    total, area = height + width, height * width
    first = (total + np.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    second = (2 * total + np.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 2
    third = (-2 * overlap * total + np.sqrt(4 * overlap**2 * total**2 + 16 * overlap * (1 - overlap) * area)) / 2
    return min(first, second, third)


def draw_gaussian(heatmap: np.ndarray, cell: Sequence[int] | np.ndarray, size: int) -> None:
    """Draw a Gaussian on a heatmap in place (original.md: Gaussian).

    Args:
        heatmap: (H, W), replaced by its elementwise maximum with the Gaussian.
        cell: x and y of the center.
        size: radius.
    """
    rows, columns = np.ogrid[-size : size + 1, -size : size + 1]
    sigma = (2 * size + 1) / 6
    gaussian = np.exp(-(columns * columns + rows * rows) / (2 * sigma * sigma))
    gaussian[gaussian < np.finfo(gaussian.dtype).eps * gaussian.max()] = 0
    (x, y), (height, width) = cell, heatmap.shape
    left, right, top, bottom = min(x, size), min(width - x, size + 1), min(y, size), min(height - y, size + 1)
    window = heatmap[y - top : y + bottom, x - left : x + right]
    np.maximum(window, gaussian[size - top : size + bottom, size - left : size + right], out=window)
