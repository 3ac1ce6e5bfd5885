"""Reader of COCO files: a single file, or a folder with one file per split.

Entries with an unambiguous repair are repaired and unusable entries are skipped; a :class:`Report` counts both. An
ambiguous or damaged file raises an error with the path and the entry.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from ..utils.files import check_local, read_regular
from ..utils.parsing import parse_json
from ..utils.text import shown
from ..utils.validation import LARGEST_COORDINATE
from .extents import derived_box
from .keypoints import flip_pairs_of
from .records import Keypoints, LabeledImage, LabeledObject, ParsedDataset, Report, unique
from .splits import split_of_name
from .tree import Tree, decode, read_text, stated_size

__all__ = [
    "CONTRIBUTOR",
    "EXPECTED_FILES",
    "LAYOUT",
    "CocoFile",
    "find",
    "json_kind",
    "read",
    "read_files",
    "read_json",
]

LAYOUT = "COCO"
EXPECTED_FILES = "a .json with images, annotations and categories"
CONTRIBUTOR = "centernet_d2"

_SMALL = 8_000_000
# Keys that are read or ignored here. All other keys are kept for custom properties.
_IMAGE_KEYS = {
    *("id", "file_name", "width", "height", "license", "coco_url", "flickr_url", "date_captured"),
    *("neg_category_ids", "not_exhaustive_category_ids"),
}
_ANNOTATION_KEYS = {
    *("id", "image_id", "category_id", "bbox", "area", "iscrowd", "difficult"),
    *("keypoints", "num_keypoints", "segmentation"),
}
# Annotation keys of files without boxes -> content of such a file.
_OTHER_TASKS = {"caption": "captions", "segments_info": "panoptic masks"}
# Names of the flags for crowds and for regions to ignore, in lower case without underscores.
_CROWD_FLAGS = {"iscrowd", "crowd"}
_IGNORE_FLAGS = {"ignore", "isignore", "ignored", "isignored"}
_FLAGS = _CROWD_FLAGS | _IGNORE_FLAGS
_FLAG_VALUES = {
    **dict.fromkeys(("0", "false", "no", "none", ""), False),
    **dict.fromkeys(("1", "true", "yes"), True),
}
# Shared by all entries without other keys.
_NOTHING: Mapping[str, Any] = {}
# Largest share of annotations without a usable box.
_LOST_SHARE = 0.25


def json_kind(path: Path) -> str:
    """Return the kind of a JSON file.

    The kinds are coco, captions, panoptic masks, labelme, own, other and broken. Files of kind own were written by
    this package. Large files are searched for their keys, not parsed.
    """
    try:
        if path.stat().st_size > _SMALL:
            return _kind_of_large(path)
        return _kind(parse_json(read_text(path)))
    except (OSError, ValueError):
        return "broken"


def _kind(content: Any) -> str:
    if not isinstance(content, dict):
        return "other"
    if isinstance(content.get("shapes"), list):
        return "labelme"
    if {"images", "annotations", "categories"} <= set(content):
        if task := _other_task(content["annotations"]):
            return task
        info = content.get("info")
        return "own" if isinstance(info, dict) and info.get("contributor") == CONTRIBUTOR else "coco"
    return "other"


def _other_task(annotations: Any) -> str | None:
    """Return the content of a COCO file of another task than detection."""
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if not isinstance(first, dict) or "bbox" in first:
        return None
    return next((task for key, task in _OTHER_TASKS.items() if key in first), None)


def _kind_of_large(path: Path) -> str:
    data = path.read_bytes().rstrip()
    if not data.endswith((b"}", b"]")):
        return "broken"
    words = rb"shapes|imagePath|images|annotations|categories|caption|segments_info|bbox"
    keys = {match[1].decode() for match in re.finditer(rb'"(' + words + rb')"\s*:', data)}
    if {"shapes", "imagePath"} <= keys:
        return "labelme"
    if not {"images", "annotations", "categories"} <= keys:
        return "other"
    task = next((task for key, task in _OTHER_TASKS.items() if key in keys), None)
    if task and ("bbox" not in keys or "segments_info" in keys):
        return task
    return "own" if re.search(rb'"contributor"\s*:\s*"' + CONTRIBUTOR.encode() + rb'"', data) else "coco"


def find(tree: Tree) -> list[Path]:
    """Return the COCO files of a folder and the damaged JSON files among them.

    :func:`read` raises an error for damaged files.
    """
    kinds = {path: json_kind(path) for path in tree.with_suffix(".json")}
    folders = {path.parent for path, kind in kinds.items() if kind == "coco"}
    for path, kind in kinds.items():
        if folders and kind in _OTHER_TASKS.values():
            tree.report.note(f"{tree.name(path)} is not used: it contains {kind}, not boxes")

    def belongs(path: Path) -> bool:
        return bool(folders) and (
            path.parent in folders or (split_of_name(path.stem) or tree.split_of(path)) is not None
        )

    return [path for path, kind in kinds.items() if kind == "coco" or (kind == "broken" and belongs(path))]


def read(tree: Tree, files: list[Path]) -> ParsedDataset:
    """Read annotation files with one split each.

    The split is named after the file, or after a folder if the file name contains no split.

    Raises:
        ValueError: a file is damaged or ambiguous (:func:`read_files`), or two files contain the same split.
    """
    contents = read_files(_box_files(tree, files), tree.report, tree.name)
    categories = _Categories(tree, contents)
    groups: dict[str | None, list[LabeledImage]] = {}
    of_split: dict[str | None, Path] = {}
    for content in contents:
        path = content.path
        split = split_of_name(path.stem) or tree.split_of(path)
        if split in groups:
            raise ValueError(
                f"{tree.name(of_split[split])} and {tree.name(path)} of {tree.root} both contain "
                f"{f'the split {split}' if split else 'images without a split'}. Pass the files for training and "
                "validation explicitly"
            )
        of_split[split] = path
        groups[split] = _images(tree, content, categories)
    return ParsedDataset(LAYOUT, tree.root, groups, categories.names, categories.ids, categories.keypoints)


def _box_files(tree: Tree, files: list[Path]) -> list[Path]:
    """Keep the ``instances_*`` files of the official COCO folder, which has several annotation files per split."""
    instances = [path for path in files if path.stem.startswith("instances_")]
    others = [path for path in files if path.stem.startswith(("person_keypoints_", "stuff_", "panoptic_"))]
    if others and {split_of_name(path.stem) for path in others} <= {split_of_name(path.stem) for path in instances}:
        tree.report.note(
            f"{tree.name(others[0])} is not used because there is {tree.name(instances[0])}; pass the file to use it"
        )
        return [path for path in files if path not in others]
    return files


# Type of the id of an image or category.
_Id: TypeAlias = int | str
_LISTS = ("images", "annotations", "categories")
_NEEDED = "but must contain an object with the lists " + ", ".join(_LISTS)
_BROKEN = "broken rows, skipped"
_BOXLESS = "objects without a usable box, skipped"
_TEXTS = "numbers stored as text, converted"


@dataclass(frozen=True)
class CocoFile:
    """Validated content of a COCO file.

    Attributes:
        path: path of the file.
        images: entries with a unique ``id`` and a ``file_name``; ``width`` and ``height`` are positive integers if
            present.
        annotations: entries with the ``image_id`` of an image, the ``category_id`` of a category, and a ``bbox`` of
            four numbers; ``area``, ``iscrowd`` and ``keypoints`` are missing, None or valid. Other keys are unchanged.
        categories: entries with a unique ``id`` and a unique ``name``, sorted by id.
    """

    path: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the JSON object in a file, with or without a byte-order mark.

    Raises:
        FileNotFoundError: the file does not exist, or the path is a URL.
        ValueError: the file does not contain a JSON object; the message contains the path.
    """
    check_local(path, "the annotation file")
    try:
        content = parse_json(decode(read_regular(path)))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a COCO file: it contains a {type(content).__name__}, {_NEEDED}")
    return content


def read_files(paths: Sequence[Path], report: Report, name: Callable[[Path], str] = str) -> list[CocoFile]:
    """Read and repair the COCO files of one dataset.

    Args:
        paths: paths of the files.
        report: receives the counts of repairs and skipped entries.
        name: function that returns the name of a file in the report.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is not a COCO file; an id occurs twice; `iscrowd` or `ignore` is ambiguous; or all entries
            of a list are unusable. The message contains the file and the entry.
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
    if task := _other_task(content["annotations"]):
        raise ValueError(f"{path} contains {task}, not boxes; use the file of the same images with boxes, instances_*")
    if not content["categories"]:
        raise ValueError(f"{path}: the list 'categories' is empty; add at least one class")
    return {key: content[key] for key in _LISTS}


class _Unusable(ValueError):
    """Error for an entry to skip.

    Attributes:
        reason: reason in the report.
    """

    def __init__(self, message: str, reason: str = _BROKEN) -> None:
        super().__init__(message)
        self.reason = reason


class _Reader:
    """Validation and repair of the lists in one file."""

    def __init__(self, path: Path, report: Report, name: str) -> None:
        self.path, self.report, self.name = path, report, name
        self.images: dict[_Id, _Id] = {}
        self.categories: dict[_Id, _Id] = {}
        self.lengths: dict[_Id, int] = {}
        self.sizes: dict[_Id, tuple[Any, Any]] = {}

    def read(self, lists: Mapping[str, list], used: Set[str]) -> CocoFile:
        """
        Args:
            lists: images, annotations and categories; their entries are modified in place.
            used: ids of categories with objects in any file of the dataset, as strings.
        """
        categories = self._with_ids("categories", self._usable("categories", lists["categories"], self._category))
        categories = self._join(_without_root(sorted(categories, key=lambda item: item["id"]), used, self.report))
        images = self._with_ids("images", self._usable("images", lists["images"], self._image))
        self.images = {image["id"]: image["id"] for image in images}
        self.sizes = {image["id"]: (image.get("width"), image.get("height")) for image in images}
        annotations = self._usable("annotations", lists["annotations"], self._annotation)
        self._count_repeated_ids(annotations)
        return CocoFile(self.path, images, annotations, categories)

    def _usable(self, key: str, entries: list, repair: Callable[[dict, int], None]) -> list[dict[str, Any]]:
        """Return the repaired usable entries and count the others; raise an error if all entries are unusable.

        In a file without images, unusable annotations are only counted. Annotations without a box in images with
        other objects would become background, so that many of them are an error.
        """
        usable, first, lost = [], None, []
        for index, entry in enumerate(entries):
            try:
                if not isinstance(entry, dict):
                    raise _Unusable(f" is {shown(entry)}, not an object")
                repair(entry, index)
                usable.append(entry)
            except _Unusable as error:
                first = first or ValueError(f"{self.path}: {key}[{index}]{error}")
                if error.reason == _BOXLESS:
                    lost.append(f"{key}[{index}]{error}")
                self._count(error.reason, entry, index, key)
        if first and not usable and (self.images or key != "annotations"):
            raise first
        if len(lost) > _LOST_SHARE * len(entries):
            raise ValueError(
                f"{self.path}: {len(lost)} of {len(entries)} annotations have no box, and no mask or keypoints that "
                f"determine it, so that their objects would become background. The first is {lost[0]}"
            )
        return usable

    def _count(self, reason: str, entry: object, index: int, key: str = "annotations") -> None:
        own = entry.get("id") if isinstance(entry, dict) else None
        kind = {"images": "image", "annotations": "annotation", "categories": "category"}[key]
        self.report.count(reason, f"{self.name}, {kind} {own if _is_id(own) else index}")

    def _with_ids(self, key: str, entries: list[dict]) -> list[dict]:
        """Raise an error for repeated ids and for ids of mixed types."""
        ids = Counter(entry["id"] for entry in entries)
        if len({type(one) for one in ids}) > 1:
            raise ValueError(f"{self.path}: the ids of {key} mix numbers and strings; use one type")
        for one, count in ids.items():
            if count > 1:
                raise ValueError(f"{self.path}: {count} entries of {key} have the id {one!r}; ids must be unique")
        return entries

    def _count_repeated_ids(self, annotations: Sequence[dict]) -> None:
        """Count repeated annotation ids. The annotations are kept because nothing refers to these ids."""
        for one, count in Counter(item["id"] for item in annotations if _is_id(item.get("id"))).items():
            if count > 1:
                self.report.count("repeated annotation ids, annotations kept", f"{self.name}, annotation {one}")

    def _category(self, entry: dict, index: int) -> None:
        _check_id(entry)
        if not _is_id(entry.get("name")) or not str(entry["name"]).strip():
            raise _Unusable(f"{_own(entry)}: 'name' is {_shown(entry, 'name')}; it must be the class name")
        entry["name"] = str(entry["name"]).strip()

    def _join(self, categories: list[dict]) -> list[dict]:
        """Merge categories with the same name, and prepare the lookup of categories by id."""
        by_name: dict[str, dict] = {}
        shared = set()
        for item in categories:
            first = by_name.setdefault(item["name"], item)
            self.categories[item["id"]] = first["id"]
            if first is not item and item["name"] not in shared:
                shared.add(item["name"])
                self.report.count(
                    "categories with the same name, merged into one class", f"{item['name']} in {self.name}"
                )
            if isinstance(item.get("keypoints"), list) and item["keypoints"]:
                self.lengths[first["id"]] = 3 * len(item["keypoints"])
        return list(by_name.values())

    def _image(self, entry: dict, index: int) -> None:
        _check_id(entry)
        url = entry.get("coco_url")
        if not entry.get("file_name") and isinstance(url, str):  # LVIS; the last parts are folder and file.
            entry["file_name"] = "/".join(url.split("/")[-2:])
            self._count("image names read from coco_url", entry, index, "images")
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
                self._count("invalid widths or heights, read from the image file instead", entry, index, "images")

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
                "labels of an unknown category, skipped" if _is_id(value) else _BROKEN,
            )
        entry["image_id"], entry["category_id"] = image, category
        self._box(entry, index)
        self._area(entry, index)
        self._flags(entry, index)
        if entry.get("keypoints"):
            self._keypoints(entry, index)

    def _flags(self, entry: dict, index: int) -> None:
        """Set ``iscrowd`` to 1 in crowds and in regions to ignore, which also get ``ignore``; remove other flags."""
        attributes = entry.get("attributes")
        values: dict[str, Any] = {**attributes, **entry} if isinstance(attributes, dict) else entry
        flags = {key: _flag(values[key]) for key in _flag_keys(tuple(values))}
        for key, flag in flags.items():
            if flag is None:
                raise ValueError(
                    f"{self.path}: annotations[{index}]{_own(entry)}: '{key}' is {shown(values[key])}, not 0 or 1"
                )
        ignore = any(flag for key, flag in flags.items() if _plain_name(key) in _IGNORE_FLAGS)
        crowd = any(flags.values())
        if crowd and entry.get("iscrowd") != 1:
            kind = "ignore" if ignore else "crowd"
            self._count(f"objects with another {kind} flag than iscrowd, read as crowd regions", entry, index)
        for key in flags.keys() & entry.keys():
            del entry[key]
        if flags:
            entry["iscrowd"] = int(crowd)
        if ignore:
            entry["ignore"] = 1

    def _resolve(self, entry: dict, index: int, key: str, known: Mapping[_Id, _Id]) -> _Id | None:
        """Return the id that an annotation refers to, converted to the type of the known ids; None if unknown."""
        value: Any = _whole(entry.get(key))
        if not _is_id(value):
            return None
        if value in known:
            return known[value]
        other: _Id = str(value)
        if isinstance(value, str):
            number = _whole(_number(value)) if value.isascii() and len(value) < 20 else None
            if not isinstance(number, int) or value not in (str(number), f"{number}.0"):
                return None
            other = number
        if other in known:
            self._count(f"values of {key} with another type than the id, converted", entry, index)
        return known.get(other)

    def _box(self, entry: dict, index: int) -> None:
        """Convert the box of an object to numbers; replace it by the box of its mask or keypoints if it is unusable."""
        box: Any = entry.get("bbox")
        if _are_plain(box) and len(box) == 4 and box[2] > 0 and box[3] > 0:
            return
        numbers = _numbers(box)
        if numbers and len(numbers) == 4 and _are_coordinates(numbers) and numbers[2] > 0 and numbers[3] > 0:
            self._count(_TEXTS, entry, index)
            entry["bbox"] = numbers
            return
        derived, source = derived_box(entry, self.sizes[entry["image_id"]])
        if derived is not None:
            self._count(f"boxes computed from {source}", entry, index)
            entry["bbox"] = derived
            entry["area"] = entry.get("area") or None
            return
        if numbers is None or len(numbers) != 4 or numbers[2:] == [0, 0]:
            raise _Unusable(
                f"{_own(entry)}: 'bbox' is {shown(box)}; it must be four numbers x, y, width, height", _BOXLESS
            )
        if not _are_coordinates(numbers):
            message = f"{_own(entry)}: 'bbox' is {shown(box)}; its numbers must be finite and at most "
            raise _Unusable(f"{message}{LARGEST_COORDINATE}", "non-finite boxes, skipped")
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
            self._count("invalid areas, replaced by box areas", entry, index)

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
            reason = "objects with invalid keypoints, kept without keypoints"
        elif not _are_coordinates(numbers):
            reason = "objects with non-finite keypoints, kept without keypoints"
        else:
            if numbers is not points:
                self._count(_TEXTS, entry, index)
                entry["keypoints"] = numbers
            return
        self._count(reason, entry, index)
        entry["keypoints"] = None
        entry.pop("num_keypoints", None)


def _without_root(categories: list[dict], used: Set[str], report: Report) -> list[dict]:
    """Remove the unused category 0 that Roboflow adds as the parent of all other categories."""
    root = next((item for item in categories if item["id"] == 0), None)
    if root is None or "0" in used:
        return categories
    parents = [item.get("supercategory") for item in categories if item is not root]
    if not parents or not (root["name"] in parents or (root.get("supercategory") == "none" and "none" not in parents)):
        return categories
    report.note(f"category 0 ({root['name']}) is skipped: it is the parent of the others and has no objects")
    return [item for item in categories if item is not root]


def _check_id(entry: dict) -> None:
    if not _is_id(_whole(entry.get("id"))):
        raise _Unusable(f": 'id' is {_shown(entry, 'id')}; it must be a whole number or a string")
    entry["id"] = _whole(entry["id"])


def _whole(value: Any) -> Any:
    """Convert a float without fraction, such as 1.0, to int."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _is_id(value: object) -> bool:
    return isinstance(value, str) or (type(value) is int and abs(value) < 2**63)


def _own(entry: dict) -> str:
    return f" (id {shown(entry['id'])})" if _is_id(entry.get("id")) else ""


def _shown(entry: dict, key: str) -> str:
    return shown(entry[key]) if key in entry else "missing"


def _are_plain(values: object) -> TypeGuard[list]:
    """Return True for a list of numbers whose absolute values sum to at most LARGEST_COORDINATE."""
    if not isinstance(values, list) or not {*map(type, values)} <= {int, float}:
        return False
    try:
        return sum(map(abs, values)) <= LARGEST_COORDINATE
    except OverflowError:
        return False


def _number(value: object) -> float | None:
    """Convert a number or a string to float, which may be infinite or NaN; return None for other values."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return None


def _numbers(values: object) -> list[float] | None:
    """Convert the strings in a list to numbers; return None for other objects and for lists with other values."""
    if not isinstance(values, list):
        return None
    numbers = [number for value in values if (number := _number(value)) is not None]
    return numbers if len(numbers) == len(values) else None


def _are_coordinates(numbers: Sequence[float]) -> bool:
    return all(abs(value) <= LARGEST_COORDINATE for value in numbers)


def _flag(value: object) -> bool | None:
    """Convert the value of a flag, of any type; return None if it is ambiguous."""
    if isinstance(value, (int, float)):
        value = int(value) if value in (0, 1) else value
    return _FLAG_VALUES.get(str(value).strip().lower())


@lru_cache(1000)  # Most annotations of a file have the same keys.
def _flag_keys(keys: tuple[str, ...]) -> list[str]:
    """Return the keys that are flags."""
    return [key for key in keys if _plain_name(key) in _FLAGS]


@lru_cache(1000)  # Annotations have few different keys.
def _plain_name(key: str) -> str:
    return key.lower().replace("_", "")


class _Categories:
    """Categories of all files of a dataset, merged by name."""

    def __init__(self, tree: Tree, files: Sequence[CocoFile]) -> None:
        self.of_file = {file.path: {item["id"]: item["name"] for item in file.categories} for file in files}
        by_name: dict[str, _Id] = {}
        layouts = []
        for item in (item for file in files for item in file.categories):
            by_name.setdefault(item["name"], item["id"])
            if isinstance(item.get("keypoints"), list) and item["keypoints"]:
                lines = item.get("skeleton") or []
                layouts.append((tuple(map(str, item["keypoints"])), lines if isinstance(lines, list) else [lines]))
        ids = [number for number in by_name.values() if isinstance(number, int)]
        self.ids: list[int] = []
        if len(set(ids)) == len(by_name):
            by_name = dict(sorted(by_name.items(), key=lambda item: item[1]))  # Detectron2 orders classes by id.
            self.ids = sorted(ids)
        self.names = list(by_name)
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
            tree.report.note("keypoints are skipped: the categories have different keypoints")
            return None
        if len(set(names)) != len(names):
            raise ValueError(f"{tree.root}: keypoint names must be unique, not {', '.join(names)}")
        edges = [edge for edge in skeleton if _is_edge(edge, len(names))]
        if len(edges) < len(skeleton):
            tree.report.count("invalid skeleton edges, skipped", tree.root)
        joined = tuple((names[a - 1], names[b - 1]) for a, b in edges)
        return Keypoints(names, flip_pairs_of(names), joined)


def _is_edge(edge: Any, count: int) -> bool:
    return isinstance(edge, list) and len(edge) == 2 and all(isinstance(i, int) and 1 <= i <= count for i in edge)


def _images(tree: Tree, file: CocoFile, categories: _Categories) -> list[LabeledImage]:
    path, name = file.path, tree.name(file.path)
    near = [folder for root in (path.parent, path.parent.parent) for folder in _image_folders(root, path)]
    objects: dict[_Id, list[LabeledObject]] = {}
    # Entries are released one by one, because both representations of a large file need much memory.
    annotations = file.annotations[::-1]
    file.annotations.clear()
    for index in range(len(annotations)):
        item = annotations.pop()
        where = f"{name}, annotation {item.get('id', index)}"
        obj = _object(tree, item, where, categories.of_file[path], categories.keypoints)
        objects.setdefault(item["image_id"], []).append(obj)
    images, listed = [], set()
    for item in file.images:
        image = tree.find_image(item["file_name"], path, near)
        if image is None:
            continue
        if image in listed:
            tree.report.count("repeated image entries, skipped", f"{name} ({item['file_name']})")
            continue
        listed.add(image)
        stated = stated_size(item.get("width"), item.get("height"))
        number = item["id"] if isinstance(item["id"], int) else None
        extra = _other_keys(tree, item, _IMAGE_KEYS, f"{name} ({item['file_name']})")
        images.append(
            LabeledImage(image, tuple(objects.get(item["id"], ())), stated_size=stated, image_id=number, extra=extra)
        )
    return images


def _image_folders(root: Path, path: Path) -> list[Path]:
    """Return candidate image folders; for annotations/instances_train2017.json train2017, images/train2017, ..."""
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
        source=where,
        extra=_other_keys(tree, item, _ANNOTATION_KEYS, where),
    )


def _other_keys(tree: Tree, item: dict, known: Set[str], where: str) -> Mapping[str, Any]:
    """Return the other keys of an entry; values that JSON cannot represent are counted and skipped."""
    if item.keys() <= known:
        return _NOTHING
    others = {key: value for key, value in item.items() if key not in known}
    usable = {key: value for key, value in others.items() if _is_plain_json(value)}
    for key in others.keys() - usable.keys():
        tree.report.count("values that are not finite or nested too deep, skipped", f"{where}, {key}")
    return usable


def _is_plain_json(value: Any, depth: int = 20) -> bool:
    """Return True if a value of a JSON file contains only finite numbers that fit into 64 bits."""
    if isinstance(value, (list, dict)):
        inner = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_plain_json(one, depth - 1) for one in inner)
    return value is None or isinstance(value, str) or abs(value) < (2**63 if isinstance(value, int) else math.inf)


def _points(tree: Tree, values: Sequence[float] | None, where: str, count: int) -> tuple[float, ...]:
    if values and len(values) != 3 * count:
        tree.report.count("objects with invalid keypoints, kept without keypoints", where)
    return tuple(map(float, values)) if values and len(values) == 3 * count else (0.0,) * 3 * count
