"""Reads COCO's JSON files: one, one per split in ``annotations``, or one in each split's folder of images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from .keypoints import flip_pairs_of
from .records import Keypoints, LabeledImage, LabeledObject, Reading, unique
from .splits import split_of_name
from .tree import Tree, read_text, stated_size

__all__ = ["LAYOUT", "LOOKED_FOR", "MADE_BY", "find", "json_kind", "read"]

LAYOUT = "COCO"
LOOKED_FOR = "a .json with images, annotations and categories"
MADE_BY = "centernet_d2"

_SMALL = 8_000_000
# What is read, or means nothing here; properties of the user's own may read the rest.
_IMAGE_KEYS = {"id", "file_name", "width", "height", "license", "coco_url", "flickr_url", "date_captured"}
_ANNOTATION_KEYS = {
    *("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "difficult"),
    *("keypoints", "num_keypoints", "segmentation"),
}


def json_kind(path: Path) -> str:
    """Either coco, labelme, own (written by this package), other or broken; large files are not parsed for it."""
    try:
        if path.stat().st_size > _SMALL:
            return _kind_of_large(path)
        return _kind(json.loads(read_text(path)))
    except (OSError, ValueError, RecursionError):
        return "broken"


def _kind(content: Any) -> str:
    if not isinstance(content, dict):
        return "other"
    if isinstance(content.get("shapes"), list):
        return "labelme"
    if {"images", "annotations", "categories"} <= set(content):
        info = content.get("info")
        return "own" if isinstance(info, dict) and info.get("contributor") == MADE_BY else "coco"
    return "other"


def _kind_of_large(path: Path) -> str:
    data = path.read_bytes().rstrip()
    if not data.endswith((b"}", b"]")):
        return "broken"
    keys = {
        match[1].decode() for match in re.finditer(rb'"(shapes|imagePath|images|annotations|categories)"\s*:', data)
    }
    if {"shapes", "imagePath"} <= keys:
        return "labelme"
    if not {"images", "annotations", "categories"} <= keys:
        return "other"
    return "own" if re.search(rb'"contributor"\s*:\s*"' + MADE_BY.encode() + rb'"', data) else "coco"


def find(tree: Tree) -> list[Path]:
    """The annotation files of a folder, and damaged files that look like the rest of them, which are named later."""
    kinds = {path: json_kind(path) for path in tree.with_suffix(".json")}
    folders = {path.parent for path, kind in kinds.items() if kind == "coco"}

    def belongs(path: Path) -> bool:
        return bool(folders) and (
            path.parent in folders or (split_of_name(path.stem) or tree.split_of(path)) is not None
        )

    return [path for path, kind in kinds.items() if kind == "coco" or (kind == "broken" and belongs(path))]


def read(tree: Tree, files: list[Path]) -> Reading:
    """Read annotation files; each is a split, named by its file name or else by its folder.

    Raises:
        ValueError: a file is damaged, or two stand for one split.
    """
    contents = {path: _load(path) for path in _one_task(tree, files)}
    categories = _Categories(tree, contents)
    groups: dict[str | None, list[LabeledImage]] = {}
    of_split: dict[str | None, Path] = {}
    for path, content in contents.items():
        split = split_of_name(path.stem) or tree.split_of(path)
        if split in groups:
            raise ValueError(
                f"{tree.name(of_split[split])} and {tree.name(path)} of {tree.root} both hold "
                f"{f'the split {split}' if split else 'images of no split'}: name the files to train and validate on"
            )
        of_split[split] = path
        groups[split] = _images(tree, path, content, categories)
    return Reading(LAYOUT, tree.root, groups, categories.names, categories.ids, categories.keypoints)


def _one_task(tree: Tree, files: list[Path]) -> list[Path]:
    """COCO's own folder has several files per split; those with boxes of all classes are meant."""
    instances = [path for path in files if path.stem.startswith("instances_")]
    others = [path for path in files if path.stem.startswith(("person_keypoints_", "stuff_", "panoptic_"))]
    if others and {split_of_name(path.stem) for path in others} <= {split_of_name(path.stem) for path in instances}:
        tree.report.note(f"{tree.name(others[0])} is not used beside {tree.name(instances[0])}; to use it, name it")
        return [path for path in files if path not in others]
    return files


def _load(path: Path) -> dict[str, list]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    wanted = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in wanted):
        raise ValueError(f"{path} is not a COCO file: it needs lists of images, annotations and categories")
    return content


class _Categories:
    """The categories of all files, joined by name."""

    def __init__(self, tree: Tree, contents: dict[Path, dict]) -> None:
        used = {_id(item, "category_id") for content in contents.values() for item in _dicts(content["annotations"])}
        self.of_file: dict[Path, dict[Any, str]] = {}
        found: dict[str, int] = {}
        layouts = []
        for path, content in contents.items():
            own = [item for item in _dicts(content["categories"]) if _id(item) is not None and "name" in item]
            if not own:
                raise ValueError(f"{path} has no categories with an id and a name")
            own.sort(key=lambda item: (not isinstance(item["id"], int), str(item["id"]).zfill(12)))
            own = [item for item in own if not self._is_root(item, own, used, tree)]
            self.of_file[path] = {item["id"]: str(item["name"]).strip() for item in own}
            for name in sorted({name for name in self.of_file[path].values() if _times(own, name) > 1}):
                tree.report.count("categories that share a name, taken as one class", f"{name} in {tree.name(path)}")
            for item in own:
                found.setdefault(str(item["name"]).strip(), item["id"])
                if isinstance(item.get("keypoints"), list) and item["keypoints"]:
                    layouts.append((tuple(map(str, item["keypoints"])), item.get("skeleton") or []))
        ids = list(found.values())
        if all(isinstance(number, int) for number in ids) and len(set(ids)) == len(ids):
            found = dict(sorted(found.items(), key=lambda item: item[1]))  # Detectron2 orders classes by id.
            self.ids = list(found.values())
        else:
            self.ids = []
        self.names = list(found)
        self.keypoints = self._keypoints(tree, layouts, contents)

    @staticmethod
    def _is_root(item: dict, items: list[dict], used: set, tree: Tree) -> bool:
        """Whether this is the category 0 that Roboflow puts above all others and gives to no object."""
        parents = [other.get("supercategory") for other in items if other is not item]
        is_parent = item["name"] in parents or (item.get("supercategory") == "none" and "none" not in parents)
        if item["id"] != 0 or item["id"] in used or not parents or not is_parent:
            return False
        tree.report.note(f"category 0 ({item['name']}) is left out: it stands above the others and has no objects")
        return True

    @staticmethod
    def _keypoints(tree: Tree, layouts: list[tuple], contents: dict[Path, dict]) -> Keypoints | None:
        if not layouts:
            lengths = {
                len(item["keypoints"])
                for content in contents.values()
                for item in _dicts(content["annotations"])
                if isinstance(item.get("keypoints"), list) and item["keypoints"]
            }
            if len(lengths) != 1 or max(lengths) % 3:
                return None
            return Keypoints(tuple(f"keypoint_{index}" for index in range(1, lengths.pop() // 3 + 1)))
        names, skeleton = layouts[0]
        if any(other != names for other, _ in layouts):
            tree.report.note("keypoints are left out: categories have different ones")
            return None
        if len(set(names)) != len(names):
            raise ValueError(f"{tree.root}: keypoints share a name: {', '.join(names)}")
        lines = [line for line in skeleton if _is_line(line, len(names))]
        if len(lines) < len(skeleton):
            tree.report.count("lines of the skeleton that join no two keypoints, left out", tree.root)
        joined = tuple((names[a - 1], names[b - 1]) for a, b in lines)
        return Keypoints(names, flip_pairs_of(names), joined)


def _is_line(line: Any, count: int) -> bool:
    return isinstance(line, list) and len(line) == 2 and all(isinstance(i, int) and 1 <= i <= count for i in line)


def _times(items: list[dict], name: str) -> int:
    return sum(str(item["name"]).strip() == name for item in items)


def _id(item: dict, key: str = "id") -> int | str | None:
    return item[key] if isinstance(item.get(key), (int, str)) else None


def _dicts(items: Iterable) -> list[dict]:
    return [item for item in items if isinstance(item, dict)]


def _images(tree: Tree, path: Path, content: dict, categories: _Categories) -> list[LabeledImage]:
    near = [folder for root in (path.parent, path.parent.parent) for folder in _image_folders(root, path)]
    objects = _objects(tree, path, content, categories)
    name = tree.name(path)
    images, taken = [], set()
    for index, item in enumerate(content["images"]):
        if not isinstance(item, dict) or not isinstance(item.get("file_name"), str) or _id(item) is None:
            tree.report.count("broken rows, left out", f"{name}, image {index}")
            continue
        found = tree.find_image(item["file_name"], path, near)
        if found is None:
            continue
        if found in taken or item["id"] in taken:
            tree.report.count("images listed twice, the second left out", f"{name} ({item['file_name']})")
            continue
        taken |= {found, item["id"]}
        stated = stated_size(item.get("width"), item.get("height"))
        number = item["id"] if isinstance(item["id"], int) else None
        things = tuple(objects.get(item["id"], ()))
        own = _others(item, _IMAGE_KEYS)
        images.append(LabeledImage(found, things, stated_size=stated, image_id=number, own=own))
    return images


def _objects(tree: Tree, path: Path, content: dict, categories: _Categories) -> dict[int | str, list[LabeledObject]]:
    """Id of an image -> its objects."""
    objects: dict[int | str, list[LabeledObject]] = {}
    name = tree.name(path)
    known = {_id(item) for item in _dicts(content["images"])} - {None}
    for index, item in enumerate(content["annotations"]):
        where = f"{name}, annotation {item.get('id', index) if isinstance(item, dict) else index}"
        thing = _object(tree, item, where, categories.of_file[path], categories.keypoints)
        if thing is None:
            continue
        if _id(item, "image_id") not in known:
            tree.report.count("labels without an image", where)
        else:
            objects.setdefault(item["image_id"], []).append(thing)
    return objects


def _image_folders(root: Path, path: Path) -> list[Path]:
    """Where the images of annotations/instances_train2017.json may be: train2017, images/train2017, images ..."""
    words = [path.stem.rsplit("_", 1)[-1], path.stem, split_of_name(path.stem) or "images"]
    named = [folder for word in unique(words) for folder in (root / word, root / "images" / word)]
    return [*named, root / "images", root]


def _object(
    tree: Tree, item: Any, where: str, classes: dict[Any, str], keypoints: Keypoints | None
) -> LabeledObject | None:
    try:
        x, y, width, height = (float(value) for value in item.get("bbox") or _polygon_box(item["segmentation"]))
        label = classes[item["category_id"]]
        area = item.get("area")
        area = float(area) if area is not None else None
    except (AttributeError, KeyError, TypeError, ValueError):
        odd = isinstance(item, dict) and _id(item, "category_id") is not None and item["category_id"] not in classes
        tree.report.count("labels of an unknown category, left out" if odd else "broken rows, left out", where)
        return None
    return LabeledObject(
        label,
        (x, y, x + width, y + height),
        keypoints=_points(tree, item.get("keypoints"), where, len(keypoints.names)) if keypoints else None,
        area=area if area is not None and 0 < area < float("inf") else None,
        crowd=bool(item.get("iscrowd", 0)),
        place=where,
        own=_others(item, _ANNOTATION_KEYS),
    )


def _others(item: dict, known: Set[str]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in known}


def _polygon_box(polygons: list[list[float]]) -> tuple[float, float, float, float]:
    """x, y, width and height of polygons, of annotations without a box."""
    xs, ys = ([float(value) for polygon in polygons for value in polygon[axis::2]] for axis in (0, 1))
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _points(tree: Tree, values: Any, where: str, count: int) -> tuple[float, ...]:
    if not values:
        return (0.0,) * 3 * count
    try:
        points = tuple(float(value) for value in values)
        if len(points) != 3 * count or not set(points[2::3]) <= {0.0, 1.0, 2.0}:
            raise ValueError
    except (TypeError, ValueError):
        tree.report.count("objects with broken keypoints, kept without them", where)
        return (0.0,) * 3 * count
    return points
