"""Reader of COCO files, of one or of a folder with one file per split.

Entries that can be repaired without doubt are repaired, entries that cannot be used are skipped; a :class:`Report`
counts both. A file that is ambiguous or damaged is refused, with its path and the entry.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from ..utils.files import check_local
from ..utils.validation import LARGEST_COORDINATE
from .keypoints import flip_pairs_of
from .records import Keypoints, LabeledImage, LabeledObject, Reading, Report, unique
from .splits import split_of_name
from .tree import Tree, decode, read_text, stated_size

__all__ = ["LAYOUT", "LOOKED_FOR", "MADE_BY", "CocoFile", "find", "json_kind", "read", "read_files", "read_json"]

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
        ValueError: a file is damaged or ambiguous (:func:`read_files`), or two files hold one split.
    """
    contents = read_files(_one_task(tree, files), tree.report, tree.name)
    categories = _Categories(tree, contents)
    groups: dict[str | None, list[LabeledImage]] = {}
    of_split: dict[str | None, Path] = {}
    for content in contents:
        path = content.path
        split = split_of_name(path.stem) or tree.split_of(path)
        if split in groups:
            raise ValueError(
                f"{tree.name(of_split[split])} and {tree.name(path)} of {tree.root} both hold "
                f"{f'the split {split}' if split else 'images of no split'}: name the files to train and validate on"
            )
        of_split[split] = path
        groups[split] = _images(tree, content, categories)
    return Reading(LAYOUT, tree.root, groups, categories.names, categories.ids, categories.keypoints)


def _one_task(tree: Tree, files: list[Path]) -> list[Path]:
    """COCO's own folder has several files per split; those with boxes of all classes are meant."""
    instances = [path for path in files if path.stem.startswith("instances_")]
    others = [path for path in files if path.stem.startswith(("person_keypoints_", "stuff_", "panoptic_"))]
    if others and {split_of_name(path.stem) for path in others} <= {split_of_name(path.stem) for path in instances}:
        tree.report.note(f"{tree.name(others[0])} is not used beside {tree.name(instances[0])}; to use it, name it")
        return [path for path in files if path not in others]
    return files


# Id of an image or category.
_Id: TypeAlias = int | str
_LISTS = ("images", "annotations", "categories")
_NEEDED = "but must contain an object with the lists " + ", ".join(_LISTS)
_BROKEN = "broken rows, left out"
_TEXTS = "numbers stored as text, converted"


@dataclass(frozen=True)
class CocoFile:
    """Validated content of a COCO file.

    Attributes:
        path: of the file.
        images: each has an ``id`` of its own and a ``file_name``; ``width`` and ``height`` are positive integers if
            present.
        annotations: each has the ``image_id`` of an image, the ``category_id`` of a category, and a ``bbox`` of four
            numbers; ``area``, ``iscrowd`` and ``keypoints`` are missing, None or valid. Other keys are unchanged.
        categories: sorted by their ids; each has an ``id`` and a ``name`` of its own.
    """

    path: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file, with or without a byte-order mark.

    Raises:
        FileNotFoundError: the file does not exist, or its name is a URL.
        ValueError: the file contains something else; the message names the file.
    """
    check_local(path, "the annotation file")
    try:
        content = json.loads(decode(Path(path).read_bytes()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a COCO file: it contains a {type(content).__name__}, {_NEEDED}")
    return content


def read_files(paths: Sequence[Path], report: Report, name: Callable[[Path], str] = str) -> list[CocoFile]:
    """Read the COCO files of one dataset, with repairs.

    Args:
        paths: of the files.
        report: counts repairs and skipped entries.
        name: returns the name of a file in the report.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is not a COCO file; an id occurs twice; `iscrowd` or `ignore` is ambiguous; or a list has
            entries, but none that can be used. The message names the file and the entry.
    """
    lists = {path: _lists(path) for path in paths}
    annotations = (item for part in lists.values() for item in part["annotations"] if isinstance(item, dict))
    used = {str(item.get("category_id")) for item in annotations}
    return [_Reader(path, report, name(path)).read(part, used) for path, part in lists.items()]


def _lists(path: Path) -> dict[str, list]:
    content = read_json(path)
    for key in _LISTS:
        if not isinstance(content.get(key), list):
            raise ValueError(
                f"{path} is not a COCO file: it has no list '{key}', {_NEEDED}; [] is allowed for annotations"
            )
    if not content["categories"]:
        raise ValueError(f"{path}: the list 'categories' is empty; name at least one class there")
    return {key: content[key] for key in _LISTS}


class _Unusable(ValueError):
    """Entry that is skipped.

    Attributes:
        reason: for the report.
    """

    def __init__(self, what: str, reason: str = _BROKEN) -> None:
        super().__init__(what)
        self.reason = reason


class _Reader:
    """Validation and repair of the lists of one file."""

    def __init__(self, path: Path, report: Report, name: str) -> None:
        self.path, self.report, self.name = path, report, name
        self.images: dict[_Id, _Id] = {}
        self.categories: dict[_Id, _Id] = {}
        self.lengths: dict[_Id, int] = {}

    def read(self, lists: Mapping[str, list], used: Set[str]) -> CocoFile:
        """
        Args:
            lists: images, annotations and categories; their entries are changed.
            used: ids of categories with objects in any file of the dataset, as text.
        """
        categories = self._with_ids("categories", self._usable("categories", lists["categories"], self._category))
        categories = self._join(_without_root(sorted(categories, key=lambda item: item["id"]), used, self.report))
        images = self._with_ids("images", self._usable("images", lists["images"], self._image))
        self.images = {image["id"]: image["id"] for image in images}
        annotations = self._usable("annotations", lists["annotations"], self._annotation)
        self._count_repeated_ids(annotations)
        return CocoFile(self.path, images, annotations, categories)

    def _usable(self, key: str, entries: list, repair: Callable[[dict, int], None]) -> list[dict[str, Any]]:
        """Return the repaired entries that can be used; count the others, or refuse the file if it has no usable entry.

        Annotations of a file without images are only counted.
        """
        usable, first = [], None
        for index, entry in enumerate(entries):
            try:
                if not isinstance(entry, dict):
                    raise _Unusable(f" is {entry!r:.60}, not an object")
                repair(entry, index)
                usable.append(entry)
            except _Unusable as error:
                first = first or ValueError(f"{self.path}: {key}[{index}]{error}")
                self._count(error.reason, entry, index, key)
        if first and not usable and (self.images or key != "annotations"):
            raise first
        return usable

    def _count(self, reason: str, entry: object, index: int, key: str = "annotations") -> None:
        own = entry.get("id") if isinstance(entry, dict) else None
        kind = {"images": "image", "annotations": "annotation", "categories": "category"}[key]
        self.report.count(reason, f"{self.name}, {kind} {own if _is_id(own) else index}")

    def _with_ids(self, key: str, entries: list[dict]) -> list[dict]:
        """Refuse entries whose ids are repeated or of two types."""
        ids = Counter(entry["id"] for entry in entries)
        if len({type(one) for one in ids}) > 1:
            raise ValueError(f"{self.path}: some ids of {key} are numbers and some are texts; use one of both")
        for one, count in ids.items():
            if count > 1:
                raise ValueError(f"{self.path}: {count} entries of {key} have the id {one!r}; give each its own")
        return entries

    def _count_repeated_ids(self, annotations: Sequence[dict]) -> None:
        """Count ids of several annotations, which are kept because nothing refers to these ids."""
        for one, count in Counter(item["id"] for item in annotations if _is_id(item.get("id"))).items():
            if count > 1:
                self.report.count("ids of several annotations, which are kept", f"{self.name}, annotation {one}")

    def _category(self, entry: dict, index: int) -> None:
        _check_id(entry)
        if not _is_id(entry.get("name")) or not str(entry["name"]).strip():
            raise _Unusable(f"{_own(entry)}: 'name' is {_shown(entry, 'name')}; it must be the name of the class")
        entry["name"] = str(entry["name"]).strip()

    def _join(self, categories: list[dict]) -> list[dict]:
        """Take categories that share a name as one, and prepare the lookup of categories by id."""
        by_name: dict[str, dict] = {}
        shared = set()
        for item in categories:
            first = by_name.setdefault(item["name"], item)
            self.categories[item["id"]] = first["id"]
            if first is not item and item["name"] not in shared:
                shared.add(item["name"])
                self.report.count("categories that share a name, taken as one class", f"{item['name']} in {self.name}")
            if isinstance(item.get("keypoints"), list) and item["keypoints"]:
                self.lengths[first["id"]] = 3 * len(item["keypoints"])
        return list(by_name.values())

    def _image(self, entry: dict, index: int) -> None:
        _check_id(entry)
        if not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
            raise _Unusable(f"{_own(entry)}: 'file_name' is {_shown(entry, 'file_name')}; it must name an image file")
        for key in ("width", "height"):
            value = entry.get(key)
            if type(value) is int and value > 0:
                continue
            number = _number(value)
            if isinstance(value, str) and number is not None:
                self._count(_TEXTS, entry, index, "images")
            if number is not None and number >= 1 and number.is_integer():
                entry[key] = int(number)
            elif entry.pop(key, None) is not None:
                self._count("widths or heights that are not pixels, taken from the image file", entry, index, "images")

    def _annotation(self, entry: dict, index: int) -> None:
        image = self._resolve(entry, index, "image_id", self.images)
        if image is None:
            raise _Unusable(
                f"{_own(entry)}: 'image_id' is {_shown(entry, 'image_id')}; it must be the id of an image",
                "labels without an image",
            )
        category = self._resolve(entry, index, "category_id", self.categories)
        if category is None:
            known = ", ".join(map(repr, list(self.categories)[:10])) + (", ..." if len(self.categories) > 10 else "")
            value = entry.get("category_id")
            raise _Unusable(
                f"{_own(entry)}: 'category_id' is {_shown(entry, 'category_id')}, but the ids of the categories are "
                f"{known}",
                "labels of an unknown category, left out" if _is_id(value) else _BROKEN,
            )
        entry["image_id"], entry["category_id"] = image, category
        self._box(entry, index)
        self._area(entry, index)
        crowd = entry.get("iscrowd")
        ambiguous = ""
        if crowd is not None and crowd not in (0, 1):
            ambiguous = f"'iscrowd' is {crowd!r:.60}, not 0 or 1"
        elif entry.get("ignore"):
            ambiguous = "'ignore' is set, which is not read; use 'iscrowd': 1, see MODEL.CENTERNET.QUIRKS.CROWD"
        if ambiguous:
            raise ValueError(f"{self.path}: annotations[{index}]{_own(entry)}: {ambiguous}")
        if entry.get("keypoints"):
            self._keypoints(entry, index)

    def _resolve(self, entry: dict, index: int, key: str, known: Mapping[_Id, _Id]) -> _Id | None:
        """Return the id that an annotation refers to, as a number or a text like the id itself; None if unknown."""
        value: Any = entry.get(key)
        if not _is_id(value):
            return None
        if value in known:
            return known[value]
        other: _Id = str(value)
        if isinstance(value, str):
            if not (value.isascii() and value.isdecimal() and len(value) < 20 and str(int(value)) == value):
                return None
            other = int(value)
        if other in known:
            self._count(f"values of {key} whose type is not that of the id, converted", entry, index)
        return known.get(other)

    def _box(self, entry: dict, index: int) -> None:
        box: Any = entry.get("bbox")
        if _are_plain(box) and len(box) == 4:
            return
        if not box and (box := _polygon_box(entry.get("segmentation"))):
            self._count("boxes computed from polygons", entry, index)
        numbers = _numbers(box)
        if numbers is None or len(numbers) != 4:
            raise _Unusable(f"{_own(entry)}: 'bbox' is {box!r:.60}; it must be four numbers x, y, width, height")
        if not _are_coordinates(numbers):
            message = f"{_own(entry)}: 'bbox' is {box!r:.60}, but finite numbers up to {LARGEST_COORDINATE} are needed"
            raise _Unusable(message, "boxes that are not finite, left out")
        if any(isinstance(value, str) for value in box):
            self._count(_TEXTS, entry, index)
        entry["bbox"] = numbers

    def _area(self, entry: dict, index: int) -> None:
        area = entry.get("area")
        if area is None or (type(area) in (int, float) and 0 <= area <= LARGEST_COORDINATE**2):
            return
        number = _number(area)
        if number is not None and 0 <= number <= LARGEST_COORDINATE**2:
            entry["area"] = number
            self._count(_TEXTS, entry, index)
        else:
            del entry["area"]
            self._count("areas that are not square pixels, replaced by the areas of the boxes", entry, index)

    def _keypoints(self, entry: dict, index: int) -> None:
        points = entry["keypoints"]
        numbers = points if _are_plain(points) else _numbers(points)
        length = self.lengths.get(entry["category_id"])
        if (
            numbers is None
            or len(numbers) % 3
            or len(numbers) != (length or len(numbers))
            or not set(numbers[2::3]) <= {0, 1, 2}
        ):
            reason = "objects with broken keypoints, kept without them"
        elif not _are_coordinates(numbers):
            reason = "objects whose keypoints are not finite, kept without them"
        else:
            if numbers is not points:
                self._count(_TEXTS, entry, index)
                entry["keypoints"] = numbers
            return
        self._count(reason, entry, index)
        entry["keypoints"] = None
        entry.pop("num_keypoints", None)


def _without_root(categories: list[dict], used: Set[str], report: Report) -> list[dict]:
    """Return categories without the category 0 that Roboflow puts above all others and gives to no object."""
    kept = []
    for item in categories:
        parents = [other.get("supercategory") for other in categories if other is not item]
        is_parent = item["name"] in parents or (item.get("supercategory") == "none" and "none" not in parents)
        if item["id"] != 0 or "0" in used or not parents or not is_parent:
            kept.append(item)
        else:
            report.note(f"category 0 ({item['name']}) is left out: it stands above the others and has no objects")
    return kept


def _check_id(entry: dict) -> None:
    if not _is_id(entry.get("id")):
        raise _Unusable(f": 'id' is {_shown(entry, 'id')}; it must be a number or a text")


def _is_id(value: object) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _own(entry: dict) -> str:
    return f" (id {entry['id']!r})" if _is_id(entry.get("id")) else ""


def _shown(entry: dict, key: str) -> str:
    return f"{entry[key]!r:.60}" if key in entry else "missing"


def _are_plain(values: object) -> TypeGuard[list]:
    """Return True for a list of numbers whose absolute values add up to at most LARGEST_COORDINATE."""
    if not isinstance(values, list) or not {*map(type, values)} <= {int, float}:
        return False
    try:
        return sum(map(abs, values)) <= LARGEST_COORDINATE
    except OverflowError:
        return False


def _number(value: object) -> float | None:
    """Return a number, or the number in a text, which may be infinite or NaN; None for other values."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return None


def _numbers(values: object) -> list[float] | None:
    """Return a list with its texts converted to numbers; None if it is another object or contains other values."""
    if not isinstance(values, list):
        return None
    numbers = [number for value in values if (number := _number(value)) is not None]
    return numbers if len(numbers) == len(values) else None


def _are_coordinates(numbers: Sequence[float]) -> bool:
    return all(abs(value) <= LARGEST_COORDINATE for value in numbers)


def _polygon_box(polygons: object) -> list[float] | None:
    """Return x, y, width and height of polygons; None if there are no polygons."""
    try:
        xs, ys = ([float(value) for polygon in polygons for value in polygon[axis::2]] for axis in (0, 1))  # type: ignore[attr-defined]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    except (OverflowError, TypeError, ValueError):
        return None


class _Categories:
    """Categories of all files of a dataset, joined by name."""

    def __init__(self, tree: Tree, files: Sequence[CocoFile]) -> None:
        self.of_file = {file.path: {item["id"]: item["name"] for item in file.categories} for file in files}
        found: dict[str, _Id] = {}
        layouts = []
        for item in (item for file in files for item in file.categories):
            found.setdefault(item["name"], item["id"])
            if isinstance(item.get("keypoints"), list) and item["keypoints"]:
                layouts.append((tuple(map(str, item["keypoints"])), item.get("skeleton") or []))
        ids = [number for number in found.values() if isinstance(number, int)]
        self.ids: list[int] = []
        if len(set(ids)) == len(found):
            found = dict(sorted(found.items(), key=lambda item: item[1]))  # Detectron2 orders classes by id.
            self.ids = sorted(ids)
        self.names = list(found)
        self.keypoints = self._keypoints(tree, layouts, files)

    @staticmethod
    def _keypoints(tree: Tree, layouts: list[tuple], files: Sequence[CocoFile]) -> Keypoints | None:
        if not layouts:
            annotations = (item for file in files for item in file.annotations)
            lengths = {len(item["keypoints"]) for item in annotations if item.get("keypoints")}
            if len(lengths) != 1:
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


def _images(tree: Tree, file: CocoFile, categories: _Categories) -> list[LabeledImage]:
    path, name = file.path, tree.name(file.path)
    near = [folder for root in (path.parent, path.parent.parent) for folder in _image_folders(root, path)]
    objects: dict[_Id, list[LabeledObject]] = {}
    for index, item in enumerate(file.annotations):
        where = f"{name}, annotation {item.get('id', index)}"
        thing = _object(tree, item, where, categories.of_file[path], categories.keypoints)
        objects.setdefault(item["image_id"], []).append(thing)
    images, taken = [], set()
    for item in file.images:
        found = tree.find_image(item["file_name"], path, near)
        if found is None:
            continue
        if found in taken:
            tree.report.count("images listed twice, the second left out", f"{name} ({item['file_name']})")
            continue
        taken.add(found)
        stated = stated_size(item.get("width"), item.get("height"))
        number = item["id"] if isinstance(item["id"], int) else None
        things = tuple(objects.get(item["id"], ()))
        own = _others(item, _IMAGE_KEYS)
        images.append(LabeledImage(found, things, stated_size=stated, image_id=number, own=own))
    return images


def _image_folders(root: Path, path: Path) -> list[Path]:
    """Where the images of annotations/instances_train2017.json may be: train2017, images/train2017, images ..."""
    words = [path.stem.rsplit("_", 1)[-1], path.stem, split_of_name(path.stem) or "images"]
    named = [folder for word in unique(words) for folder in (root / word, root / "images" / word)]
    return [*named, root / "images", root]


def _object(
    tree: Tree, item: dict, where: str, classes: Mapping[_Id, str], keypoints: Keypoints | None
) -> LabeledObject:
    x, y, width, height = map(float, item["bbox"])
    area = item.get("area")
    return LabeledObject(
        classes[item["category_id"]],
        (x, y, x + width, y + height),
        keypoints=_points(tree, item.get("keypoints"), where, len(keypoints.names)) if keypoints else None,
        area=float(area) if area else None,
        crowd=bool(item.get("iscrowd")),
        place=where,
        own=_others(item, _ANNOTATION_KEYS),
    )


def _others(item: dict, known: Set[str]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in known}


def _points(tree: Tree, values: Sequence[float] | None, where: str, count: int) -> tuple[float, ...]:
    if values and len(values) != 3 * count:
        tree.report.count("objects with broken keypoints, kept without them", where)
    return tuple(map(float, values)) if values and len(values) == 3 * count else (0.0,) * 3 * count
