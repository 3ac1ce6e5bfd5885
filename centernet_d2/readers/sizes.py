"""Conversion of labels that refer to another size or orientation of their image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..imaging.reading import ImageHeader
from .records import LabeledImage, LabeledObject, Report

__all__ = ["fit_to_image"]

# Keypoints with integer coordinates are in the centers of pixels.
_HALF_PIXEL = 0.5
# EXIF orientation -> position in the upright image, for a position in the stored image and its width and height.
_UPRIGHT: dict[int, Callable[[float, float, float, float], tuple[float, float]]] = {
    1: lambda x, y, w, h: (x, y),
    2: lambda x, y, w, h: (w - x, y),
    3: lambda x, y, w, h: (w - x, h - y),
    4: lambda x, y, w, h: (x, h - y),
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - y, x),
    7: lambda x, y, w, h: (h - y, w - x),
    8: lambda x, y, w, h: (y, w - x),
}


def fit_to_image(image: LabeledImage, header: ImageHeader, name: str, report: Report) -> LabeledImage | None:
    """Convert the labels of an image to pixels of the upright image.

    Labels are scaled if the stated size has the aspect ratio of the image, and rotated if it has only the aspect ratio
    of the stored image. Without evidence, labels refer to the upright image. The report counts all of these images.

    Args:
        image: an image before its size is known.
        header: size and orientation of its file.
        name: name of the image in the report.
        report: receives the counts.

    Returns:
        None if the stated size contradicts the file.
    """
    width, height = header.upright_size
    image = replace(image, width=width, height=height)
    stated, stored = image.stated_size, (header.width, header.height)
    if not image.objects:
        return image
    unproven = stated is None or header.orientation < 5 or width == height
    if header.orientation > 1 and unproven:
        report.count("images with an EXIF orientation, whose labels are read as for the upright image", name)
    if stated is None or stated == (width, height):
        return image
    text = f"{name} (image {width}x{height}, labels {stated[0]}x{stated[1]})"
    if _are_proportional(stated, (width, height)):
        report.count("images of another size than in the labels, labels scaled", text)
        return _move(image, 1, (width / stated[0], height / stated[1]), (width, height))
    if _are_proportional(stated, stored):
        report.count("images with labels for the orientation without EXIF, labels rotated", text)
        return _move(image, header.orientation, (stored[0] / stated[0], stored[1] / stated[1]), stored)
    report.count("images with another aspect ratio than in the labels, skipped", text)
    return None


def _are_proportional(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Return True if one size is the other one times a factor, rounded to pixels."""
    small, large = sorted((first, second))
    factor = max(large[0] / small[0], large[1] / small[1])
    return all(abs(b / factor - a) < 1 for a, b in zip(small, large, strict=True))


def _move(image: LabeledImage, orientation: int, factors: tuple[float, float], stored: tuple[int, int]) -> LabeledImage:
    """Scale the labels of an image to the stored size, then apply the EXIF orientation."""

    def point(x: float, y: float) -> tuple[float, float]:
        return _UPRIGHT[orientation](x * factors[0], y * factors[1], *stored)

    def move(obj: LabeledObject) -> LabeledObject:
        (x1, y1), (x2, y2) = point(*obj.box[:2]), point(*obj.box[2:])
        box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        area = None if obj.area is None else obj.area * factors[0] * factors[1]
        if obj.keypoints is None:
            return replace(obj, box=box, area=area)
        moved: list[float] = []
        for x, y, visible in zip(*(obj.keypoints[axis::3] for axis in range(3)), strict=True):
            position = [value - _HALF_PIXEL for value in point(x + _HALF_PIXEL, y + _HALF_PIXEL)]
            moved += [*(position if visible else (x, y)), visible]
        return replace(obj, box=box, area=area, keypoints=tuple(moved))

    return replace(image, objects=tuple(map(move, image.objects)))
