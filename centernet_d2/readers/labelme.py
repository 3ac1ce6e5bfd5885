"""Reader of labelme's JSON files, one file per image.

Rectangles, polygons and circles are converted to boxes, points to keypoints.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..utils.parsing import parse_json
from .coco import json_kind
from .keypoints import flip_pairs_of
from .records import Keypoints, LabeledImage, LabeledObject, ParsedDataset
from .tree import Tree, read_text, stated_size

__all__ = ["EXPECTED_FILES", "LAYOUT", "find", "read"]

LAYOUT = "labelme"
EXPECTED_FILES = "one .json with shapes per image"


def find(tree: Tree) -> list[Path]:
    """Return the label files of a folder and the damaged JSON files next to them."""
    kinds = {path: json_kind(path) for path in tree.with_suffix(".json")}
    folders = {path.parent for path, kind in kinds.items() if kind == "labelme"}
    return [path for path, kind in kinds.items() if kind in ("labelme", "broken") and path.parent in folders]


@dataclass
class _Shapes:
    """Boxes of one image, and the keypoints of each box: name -> (x, y)."""

    boxes: list[tuple[LabeledObject, Any]] = field(default_factory=list)
    points: list[dict[str, tuple[float, float]]] = field(default_factory=list)


def read(tree: Tree, files: list[Path]) -> ParsedDataset:
    """Read all label files.

    A point belongs to the box of its group; without a group, to the box around it if there is exactly one.
    """
    labeled: dict[Path, tuple[_Shapes, tuple[int, int] | None] | None] = {}
    for path in tqdm(files, LAYOUT, leave=False, disable=len(files) < 500):
        try:
            content = _load(path)
        except (OSError, ValueError, RecursionError) as error:
            tree.report.count(
                "broken label files, skipped", f"{tree.name(path)} ({str(error).removeprefix(f'{path} ')})"
            )
            damaged = tree.peek_image(path.stem, path)
            if damaged is not None:
                labeled[damaged] = None
            continue
        name = content.get("imagePath")
        image = tree.paired_image(name if isinstance(name, str) else "", path)
        if image is None:
            continue
        if labeled.get(image) is not None:
            tree.report.count("duplicate label files of an image, skipped", tree.name(path))
            continue
        stated = stated_size(content.get("imageWidth"), content.get("imageHeight"))
        labeled[image] = (_shapes(tree, tree.name(path), content["shapes"]), stated)
    valid = {image: content for image, content in labeled.items() if content is not None}
    names = sorted({name for shapes, _ in valid.values() for points in shapes.points for name in points})
    groups: dict[str | None, list[LabeledImage]] = {}
    for image in sorted({*valid, *tree.background(labeled)}):
        shapes, stated = valid.get(image, (_Shapes(), None))
        members = groups.setdefault(tree.split_of(image), [])
        members.append(LabeledImage(image, _with_keypoints(shapes, names), stated_size=stated))
    classes = sorted({obj.label for group in groups.values() for image in group for obj in image.objects})
    keypoints = Keypoints(tuple(names), flip_pairs_of(names)) if names else None
    return ParsedDataset(LAYOUT, tree.root, groups, classes, keypoints=keypoints)


def _load(path: Path) -> dict:
    content = parse_json(read_text(path))
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise ValueError("no list of shapes")
    content.pop("imageData", None)
    return content


def _shapes(tree: Tree, name: str, shapes: list) -> _Shapes:
    result, points = _Shapes(), []
    merged: dict[tuple, int] = {}
    for index, shape in enumerate(shapes):
        where = f"{name}, shape {index + 1}"
        try:
            kind = shape.get("shape_type") or "polygon"
            label = shape["label"].strip() if isinstance(shape["label"], str) else str(operator.index(shape["label"]))
            group = shape.get("group_id")
            if not isinstance(kind, str) or not isinstance(group, (int, float, str, type(None))):
                raise TypeError
            corners = [(float(x), float(y)) for x, y in shape["points"]]
            box = _extent(kind, corners)
            if not label:
                raise ValueError
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            tree.report.count("broken rows, skipped", where)
            continue
        if kind == "point":
            points.append((label, corners[0], group, where))
        elif kind in ("polygon", "mask") and group is not None and (label, group) in merged:
            position = merged[label, group]
            result.boxes[position] = (_merge_box(result.boxes[position][0], box), group)
        else:
            merged[label, group] = len(result.boxes)
            result.boxes.append((LabeledObject(label, box, source=where), group))
    result.points = [{} for _ in result.boxes]
    for label, point, group, where in points:
        owner = _owner(result.boxes, point, group)
        if owner is None:
            tree.report.count("points without a box, skipped", where)
        elif label in result.points[owner]:
            tree.report.count("duplicate points of an object, skipped", where)
        else:
            result.points[owner][label] = point
    return result


def _extent(kind: str, corners: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    if kind == "circle":  # The center, and a point on the circle.
        radius = math.dist(corners[0], corners[1]) if len(corners) == 2 else math.nan
        return (xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius)
    if not all(map(math.isfinite, (*xs, *ys))):
        return (math.nan,) * 4
    return (min(xs), min(ys), max(xs), max(ys))


def _merge_box(obj: LabeledObject, box: tuple[float, float, float, float]) -> LabeledObject:
    """Extend the box of an object by another part: all polygons of a group belong to one object."""
    a, b = obj.box, box
    return replace(obj, box=(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])))


def _owner(boxes: list[tuple[LabeledObject, Any]], point: tuple[float, float], group: Any) -> int | None:
    grouped = [i for i, (_, other) in enumerate(boxes) if group is not None and other == group]
    x, y = point
    around = [i for i, (b, _) in enumerate(boxes) if b.box[0] <= x <= b.box[2] and b.box[1] <= y <= b.box[3]]
    candidates = grouped or around
    return candidates[0] if len(candidates) == 1 else None


def _with_keypoints(shapes: _Shapes, names: list[str]) -> tuple[LabeledObject, ...]:
    if not names:
        return tuple(obj for obj, _ in shapes.boxes)
    return tuple(
        replace(
            obj,
            keypoints=tuple(v for name in names for v in ((*points[name], 2.0) if name in points else (0.0,) * 3)),
        )
        for (obj, _), points in zip(shapes.boxes, shapes.points, strict=True)
    )
