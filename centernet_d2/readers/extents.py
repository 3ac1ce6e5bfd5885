"""Boxes of objects that are labeled by a mask or by keypoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..utils.validation import LARGEST_COORDINATE

__all__ = ["derived_box"]

# Keypoints are inside of an object: the box extends beyond them by this share of its longer side.
_MARGIN = 0.1


def derived_box(annotation: Mapping[str, Any], size: tuple[Any, Any]) -> tuple[list[float] | None, str]:
    """Compute the box of a COCO annotation from its mask or labeled keypoints.

    Args:
        annotation: annotation with ``segmentation`` or ``keypoints``.
        size: width and height of its image; None if unknown. A mask of another size is not used.

    Returns:
        x, y, width and height; None if they are not determined, or the box has no area. The source of the box.
    """
    mask = annotation.get("segmentation")
    candidates = (
        (_polygon_box, mask, "polygons"),
        (_run_length_box, mask, "run-length masks"),
        (_keypoint_box, annotation.get("keypoints"), "keypoints"),
    )
    for compute, value, source in candidates:
        try:
            box = compute(value, size)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            continue
        if all(abs(number) <= LARGEST_COORDINATE for number in box) and box[2] > 0 and box[3] > 0:
            return box, source
    return None, ""


def _polygon_box(polygons: Any, size: tuple[Any, Any]) -> list[float]:
    if isinstance(polygons[0], (int, float)):  # A single polygon without its list.
        polygons = [polygons]
    return _around(*([float(value) for polygon in polygons for value in polygon[axis::2]] for axis in (0, 1)))


def _run_length_box(masks: Any, size: tuple[Any, Any]) -> list[float]:
    from pycocotools import mask as coco_mask

    boxes = []
    for mask in masks if isinstance(masks, list) else [masks]:
        (height, width), counts = map(int, mask["size"]), mask["counts"]
        counts = _decode_counts(counts) if isinstance(counts, str) else counts
        if min(height, width) < 1 or min(counts) < 0 or sum(counts) != height * width:
            raise ValueError("the runs do not fill the mask")
        if None not in size and size != (width, height):
            raise ValueError("the mask has another size than its image")
        runs = {"size": [height, width], "counts": counts}
        x, y, w, h = coco_mask.toBbox(coco_mask.frPyObjects(runs, height, width)).tolist()
        boxes.append((x, y, x + w, y + h))
    return _around([x for box in boxes for x in box[::2]], [y for box in boxes for y in box[1::2]])


def _decode_counts(text: str) -> list[int]:
    """Decode the compressed runs of COCO: 5 bits per character, relative to the run before the last one."""
    counts: list[int] = []
    value = shift = 0
    for char in text:
        bits = ord(char) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def _keypoint_box(keypoints: Any, size: tuple[Any, Any]) -> list[float]:
    labeled = [index for index, visible in enumerate(keypoints[2::3]) if float(visible) > 0]
    x, y, width, height = _around(*([float(keypoints[3 * index + axis]) for index in labeled] for axis in (0, 1)))
    margin = _MARGIN * max(width, height)
    limits = [side or math.inf for side in size]
    left, top = max(x - margin, 0.0), max(y - margin, 0.0)
    right, bottom = min(x + width + margin, limits[0]), min(y + height + margin, limits[1])
    return [left, top, right - left, bottom - top]


def _around(xs: Sequence[float], ys: Sequence[float]) -> list[float]:
    """Return x, y, width and height of the box around points; raise a ValueError if there are none."""
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
