"""COCO files: read, checked entry by entry, and turned into Detectron2's dicts."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeGuard

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..config.registry import POINT_HEAD_REGISTRY
from ..structures.points import HALF_PIXEL
from ..utils.files import check_local, leaves
from ..utils.validation import LARGEST_COORDINATE

__all__ = ["check_keypoint_names", "load_coco_file", "read_json", "register_coco_file"]

_LISTS = ("images", "annotations", "categories")
_NEEDED = "but must hold an object with the lists " + ", ".join(_LISTS)


def register_coco_file(name: str, metadata: dict[str, Any], json_file: str, image_root: str) -> None:
    """Like Detectron2's ``register_coco_instances``, but read by :func:`load_coco_file`."""
    DatasetCatalog.register(name, partial(load_coco_file, json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)


def load_coco_file(json_file: str, image_root: str, name: str) -> list[dict]:
    """A COCO file as dicts in Detectron2's format, in the order of the image ids; masks are not read.

    Classes are numbered in the order of their ids. Keypoints move by half a pixel, as Detectron2 does it; ``null`` and
    ``[]`` stand for no keypoints. Annotations of images that the file does not list are left out; one log line counts
    them. Boxes and the values of keypoints are checked later, see :func:`centernet_d2.data.checks.check_dataset`. What
    the properties of registered heads read of annotations and images (``annotation_keys``, ``input_keys``) is kept as
    it is.

    Args:
        json_file: may start with a byte-order mark.
        image_root: folder that the names of the images start from.
        name: of the data set; its metadata get ``thing_classes`` and ``thing_dataset_id_to_contiguous_id``.

    Raises:
        ValueError: the file is no COCO file, or an entry is not what it should be; the message names both.
    """
    content = read_json(json_file)
    images, annotations, categories = (_entries(json_file, content, key) for key in _LISTS)
    _check_categories(json_file, categories)
    categories = sorted(categories, key=lambda category: category["id"])
    classes = {category["id"]: index for index, category in enumerate(categories)}
    _check_images(json_file, images, image_root)
    _check_annotations(json_file, annotations, classes)
    metadata = MetadataCatalog.get(name)
    check_keypoint_names(json_file, categories, metadata.get("keypoint_names", ()))
    metadata.thing_classes = [category["name"] for category in categories]
    metadata.thing_dataset_id_to_contiguous_id = classes

    properties = [head.property_type for _, head in POINT_HEAD_REGISTRY]
    own_keys = {key for prop in properties for key in prop.annotation_keys}
    input_keys = {key for prop in properties for key in prop.input_keys}
    by_image = defaultdict(list)
    for annotation in annotations:
        by_image[annotation["image_id"]].append(_annotation(annotation, classes, own_keys))
    _report_strangers(json_file, by_image, {image["id"] for image in images})
    return [
        {
            "file_name": os.path.join(image_root, image["file_name"]),
            "image_id": image["id"],
            "height": int(image["height"]),
            "width": int(image["width"]),
            "annotations": by_image.get(image["id"], []),
            **{key: image[key] for key in input_keys if key in image},
        }
        for image in sorted(images, key=lambda image: image["id"])
    ]


def read_json(path: str) -> dict:
    """The object in a JSON file, with or without a byte-order mark.

    Raises:
        ValueError: it is something else; the message names the file.
    """
    check_local(path, "the annotation file")
    try:
        # From bytes, the json module finds out about encoding and mark.
        with open(path, "rb") as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a COCO file: it holds a {type(content).__name__}, {_NEEDED}")
    return content


def check_keypoint_names(path: str, categories: Sequence[dict], names: Sequence[str]) -> None:
    """Compare the keypoints that the categories of a COCO file name, if they do, with those of the config or metadata.

    Raises:
        ValueError: they differ.
    """
    for category in categories:
        own = category.get("keypoints")
        if names and own and list(own) != list(names):
            raise ValueError(
                f"{path}: the keypoints of {category['name']} are {', '.join(map(str, own))}, but those of the config "
                f"or of the metadata {', '.join(names)}"
            )


def _entries(path: str, content: dict, key: str) -> list[dict]:
    """One of the lists of a COCO file; its entries are objects whose ids are all different."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise ValueError(f"{path} is not a COCO file: it has no list '{key}', {_NEEDED}; [] is allowed for annotations")
    if not entries and key == "categories":
        raise ValueError(f"{path}: the list 'categories' is empty; name at least one class there")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: {key}[{index}] is {entry!r:.60}, not an object")
        # Nothing refers to annotations, so that they need no id.
        if not (_is_id(entry.get("id")) or (key == "annotations" and entry.get("id") is None)):
            raise _fault(path, key, index, entry, f"'id' is {_shown(entry, 'id')}; it must be a number or a text")
    ids = [entry["id"] for entry in entries if entry.get("id") is not None]
    if len({type(one) for one in ids}) > 1:
        raise ValueError(f"{path}: some ids of {key} are numbers and some are texts; use one of both")
    if len(set(ids)) < len(ids):
        one = next(one for one, count in Counter(ids).items() if count > 1)
        places = [f"{key}[{index}]" for index, entry in enumerate(entries) if entry.get("id") == one]
        raise ValueError(f"{path}: the id {one!r} is given to {', '.join(places[:3])}; give each its own")
    return entries


def _check_images(path: str, images: Sequence[dict], image_root: str) -> None:
    absolute = 0
    for index, image in enumerate(images):
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            what = f"'file_name' is {_shown(image, 'file_name')}; it must name a file in the image folder"
            raise _fault(path, "images", index, image, what)
        if what := _what_is_wrong_with_the_name(image["file_name"], image_root):
            raise _fault(path, "images", index, image, f"'file_name' is {image['file_name']!r}{what}")
        absolute += os.path.isabs(image["file_name"])
        for key in ("height", "width"):
            if not _is_number(size := image.get(key)) or size < 1 or size != int(size):
                what = f"'{key}' is {_shown(image, key)}; it must be a whole number of pixels"
                raise _fault(path, "images", index, image, what)
    if absolute:
        logging.getLogger(__name__).info(
            f"{path}: {absolute} of {len(images)} images have absolute names, which may be anywhere on this machine"
        )


def _what_is_wrong_with_the_name(name: str, image_root: str) -> str:
    """Empty if nothing is; what the name of an image says is no reason to look anywhere."""
    if "://" in name:
        return ", a URL, and nothing is downloaded: fetch the images, and give their names in the image folder"
    if leaves(name, image_root):
        return f", which leads out of the folder around the image folder {image_root}; an absolute path may be anywhere"
    return ""


def _check_annotations(path: str, annotations: Sequence[dict], classes: dict) -> None:
    for index, annotation in enumerate(annotations):
        if what := _what_is_wrong(annotation, classes):
            raise _fault(path, "annotations", index, annotation, what)


def _check_categories(path: str, categories: Sequence[dict]) -> None:
    for index, category in enumerate(categories):
        if not isinstance(category.get("name"), str):
            what = f"'name' is {_shown(category, 'name')}; it must be the name of the class"
            raise _fault(path, "categories", index, category, what)


def _what_is_wrong(annotation: dict, classes: dict) -> str:
    """Empty if nothing is."""
    if not _is_id(annotation.get("image_id")):
        return f"'image_id' is {_shown(annotation, 'image_id')}; it must be the id of an image"
    if not _is_id(category := annotation.get("category_id")) or category not in classes:
        known = ", ".join(map(repr, islice(classes, 10))) + (", ..." if len(classes) > 10 else "")
        return f"'category_id' is {_shown(annotation, 'category_id')}, but the ids of the categories are {known}"
    area = annotation.get("area")
    if area is not None and not (_is_number(area) and area >= 0):
        return f"'area' is {area!r}; give square pixels, or leave it out: it is then that of the box"
    if annotation.get("iscrowd") not in (None, 0, 1):
        return f"'iscrowd' is {annotation['iscrowd']!r}; it must be 0 or 1"
    if annotation.get("ignore"):
        return "'ignore' is set, which is not read from COCO files; use 'iscrowd': 1, see MODEL.CENTERNET.QUIRKS.CROWD"
    keypoints = annotation.get("keypoints")
    if keypoints is not None and not (isinstance(keypoints, list) and all(map(_is_number, keypoints))):
        return f"'keypoints' is {keypoints!r:.60}; it must be a list of finite numbers x, y, visibility, ..., or null"
    return ""


def _annotation(annotation: dict, classes: dict, own_keys: Collection[str]) -> dict:
    """In Detectron2's format."""
    result = {
        **{key: annotation[key] for key in own_keys if annotation.get(key) is not None},
        "bbox": annotation.get("bbox"),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": classes[annotation["category_id"]],
        "iscrowd": int(annotation.get("iscrowd") or 0),
    }
    result.pop("keypoints", None)
    if keypoints := annotation.get("keypoints"):
        moves = (HALF_PIXEL, HALF_PIXEL, 0)
        result["keypoints"] = [value + moves[index % 3] for index, value in enumerate(keypoints)]
    return result


def _report_strangers(path: str, by_image: dict[object, list], known: set) -> None:
    """Annotations of images that are not in the file."""
    strangers = [image for image in by_image if image not in known]
    if not strangers:
        return
    count = sum(len(by_image[image]) for image in strangers)
    total = sum(map(len, by_image.values()))
    message = (
        f"{path}: {count} of {total} annotations are of images that the file does not list (image_id "
        f"{', '.join(map(repr, strangers[:3]))}{', ...' if len(strangers) > 3 else ''})"
    )
    if count == total and known:
        raise ValueError(f"{message}: 'image_id' must be the 'id' of an image, as a number or a text like there")
    logging.getLogger(__name__).warning(f"{message}; they are left out")


def _fault(path: str, key: str, index: int, entry: dict, what: str) -> ValueError:
    own = f" (id {entry['id']!r})" if _is_id(entry.get("id")) else ""
    return ValueError(f"{path}: {key}[{index}]{own}: {what}")


def _shown(entry: dict, key: str) -> str:
    return repr(entry[key]) if key in entry else "missing"


def _is_id(value: object) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    """Also refuses NaN and infinity."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_COORDINATE**2
