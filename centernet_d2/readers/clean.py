"""Boxes and sizes of what a reader found, checked the same way for every layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .records import LabeledImage, LabeledObject, Report
from .tree import Tree

__all__ = ["clean_images", "count_classes"]

# Labels may round up to the next pixel; only what reaches out further is cut.
_TOLERANCE = 1.0


def clean_images(images: Sequence[LabeledImage], tree: Tree) -> list[LabeledImage]:
    """Images that can be read, with their upright size and the objects that are in them; the report counts the rest.

    Boxes that reach out of their image by more than a pixel are cut; those that are not finite, have no area or lie
    outside are left out. Images without objects stay.
    """
    tree.measure(image.path for image in images)
    cleaned = []
    for image in images:
        size, name = tree.sizes[image.path], tree.name(image.path)
        if size is None or 0 in size:
            tree.report.count("images that cannot be read, left out", name)
            continue
        if image.stated_size and image.stated_size != size:
            stated = "x".join(str(side) for side in image.stated_size)
            tree.report.count("images of another size than their labels say", f"{name} ({size[0]}x{size[1]}, {stated})")
        objects = [_clean_object(thing, size, thing.place or name, tree.report) for thing in image.objects]
        kept = tuple(thing for thing in objects if thing is not None)
        if not image.objects:
            tree.report.count("images without labels, kept as background", name)
        elif not kept:
            tree.report.count("images of whose labels none is left, kept as background", name)
        cleaned.append(replace(image, objects=kept, width=size[0], height=size[1]))
    return cleaned


def _clean_object(thing: LabeledObject, size: tuple[int, int], where: str, report: Report) -> LabeledObject | None:
    x1, y1, x2, y2 = thing.box
    if not all(math.isfinite(value) for value in thing.box):
        report.count("boxes that are not finite, left out", where)
        return None
    if x2 <= x1 or y2 <= y1:
        report.count("boxes without area, left out", where)
        return None
    if x1 >= size[0] or y1 >= size[1] or x2 <= 0 or y2 <= 0:
        report.count("boxes outside their image, left out", where)
        return None
    if min(x1, y1) < -_TOLERANCE or x2 > size[0] + _TOLERANCE or y2 > size[1] + _TOLERANCE:
        report.count("boxes partly outside their image, cut", where)
        box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1])))
        thing = replace(thing, box=box)
    if thing.keypoints is not None and not all(math.isfinite(value) for value in thing.keypoints):
        report.count("objects whose keypoints are not finite, kept without them", where)
        thing = replace(thing, keypoints=(0.0,) * len(thing.keypoints))
    return thing


def count_classes(splits: Mapping[str, Sequence[LabeledImage]], classes: Sequence[str], report: Report) -> None:
    """Count classes without objects, at all or in train only, and those that differ only in case."""
    used = {name: {thing.label for image in images for thing in image.objects} for name, images in splits.items()}
    everywhere = set().union(*used.values())
    first: dict[str, str] = {}
    for name in classes:
        if name not in everywhere:
            report.count("classes without objects", name)
        elif name not in used["train"]:
            report.count("classes without objects in train", name)
        other = first.setdefault(name.casefold(), name)
        if other != name:
            report.count("pairs of classes that differ only in case", f"{other} and {name}")
