"""Looks at a data set before hours are spent on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..imaging.reading import ImageHeader, read_headers
from ..modeling.heads import Property
from ..structures.types import DatasetDict
from ..utils.validation import LARGEST_COORDINATE, number_table
from .classes import match_classes, translate
from .loaded import load_dataset

__all__ = ["ALL_CLASSES", "EXCLUDED", "check_dataset", "load_checked", "shows_something"]

# `category_id` of what belongs to no class: a region to ignore for all classes, and what is left out of training.
ALL_CLASSES = -1
EXCLUDED = -2
_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)

logger = logging.getLogger(__name__)


def check_dataset(name: str, dicts: Sequence[DatasetDict], num_classes: int) -> None:
    """Check everything that can be checked without decoding images.

    Boxes that :func:`shows_something` refuses are counted in one log line; the mapper drops them. Another line warns of
    boxes that seem to be written in another convention.

    Args:
        name: of the registered data set.
        dicts: its images in Detectron2's format.
        num_classes: classes of the model.

    Raises:
        OSError: an image does not exist, or cannot be opened.
        ValueError: the data set is empty, has other classes than the model, an image of another size than its
            annotations say, or a box that is not four finite numbers.
    """
    if not dicts:
        raise ValueError(f"the data set '{name}' has no images")
    classes = MetadataCatalog.get(name).get("thing_classes", [])
    if classes and len(classes) != num_classes:
        raise ValueError(
            f"the data set '{name}' has {len(classes)} classes ({', '.join(classes[:10])}"
            f"{', ...' if len(classes) > 10 else ''}), but MODEL.CENTERNET.NUM_CLASSES is {num_classes}"
        )
    _check_boxes(name, dicts, check_images(name, dicts), num_classes)


def _check_boxes(name: str, dicts: Sequence[DatasetDict], sizes: Sequence[tuple[int, int]], num_classes: int) -> None:
    """See :func:`check_dataset`; `sizes` are width and height of each image."""
    places = [
        (image, index)
        for image, record in enumerate(dicts)
        for index, annotation in enumerate(record.get("annotations", ()))
        if annotation.get("category_id") != EXCLUDED
    ]
    annotations = [dicts[image]["annotations"][index] for image, index in places]
    if not _are_objects(annotations, num_classes):
        for (image, index), annotation in zip(places, annotations, strict=True):
            if not _are_objects([annotation], num_classes):
                where = f"{name}: {dicts[image]['file_name']}, annotation {index} of this image"
                raise ValueError(f"{where}: {_what_is_wrong(annotation, num_classes)}")
    limits = np.array([sizes[image] for image, _ in places], dtype=np.float64).reshape(-1, 2)
    if dropped := int((~shows_something(annotations, limits)).sum()):
        logger.warning(
            f"data set '{name}': {dropped} boxes without area or outside their image are left out of training"
        )
    if convention := _other_convention(annotations, limits):
        logger.warning(f"data set '{name}': are its boxes right? {convention}")


def check_images(name: str, dicts: Sequence[DatasetDict]) -> list[tuple[int, int]]:
    """Compare the sizes that a data set gives with those of the image files.

    Returns:
        (width, height) of every image.

    Raises:
        OSError: an image does not exist, or cannot be opened.
        ValueError: a size is not that of the image.
    """
    found = read_headers([record["file_name"] for record in dicts], f"reading image headers of {name}")
    if errors := [header for header in found if isinstance(header, OSError)]:
        more = f" ({len(errors)} of {len(dicts)} images cannot be opened)" if len(errors) > 1 else ""
        raise type(errors[0])(f"the data set '{name}': {errors[0]}{more}")
    headers = [header for header in found if not isinstance(header, OSError)]
    wrong = [(r, h) for r, h in zip(dicts, headers, strict=True) if _given_size(r, h) != h.upright_size]
    if wrong:
        more = f" ({len(wrong)} of {len(dicts)} images differ)" if len(wrong) > 1 else ""
        raise ValueError(f"the data set '{name}': {_size_fault(*wrong[0])}{more}")
    turned = [header for header in headers if header.orientation > 1]
    if doubtful := sum(header.orientation < 5 or header.width == header.height for header in turned):
        logger.warning(
            f"data set '{name}': EXIF data turn or mirror {doubtful} images without changing their size; their "
            "annotations must be those of the upright images"
        )
    return [header.upright_size for header in headers]


def _given_size(record: DatasetDict, header: ImageHeader) -> tuple[int, int]:
    """(width, height) in a dataset dict; what it does not give, is that of the image."""
    width, height = header.upright_size
    return record.get("width", width), record.get("height", height)


def _size_fault(record: DatasetDict, header: ImageHeader) -> str:
    given = _given_size(record, header)
    width, height = header.upright_size
    text = f"the image {record['file_name']} is {width} x {height} pixels, but its annotations are for "
    text += f"{given[0]} x {given[1]} (width x height)"
    if header.orientation >= 5 and given == (header.width, header.height):
        return (
            f"{text}, as it is stored: its EXIF orientation {header.orientation} turns it when it is read. Annotate "
            "the upright image, or store the image without EXIF orientation"
        )
    return f"{text}. Correct width and height, or the image"


def corners(annotations: Sequence[dict]) -> np.ndarray:
    """(N, 4) boxes XYXY in float64 as they are written: the second corner may be before the first."""
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
    sides = np.array([annotation["bbox_mode"] == BoxMode.XYWH_ABS for annotation in annotations], dtype=bool)
    boxes[sides, 2:] += boxes[sides, :2]
    return boxes


def shows_something(annotations: Sequence[dict], sizes: np.ndarray | tuple[float, float]) -> np.ndarray:
    """Which boxes have an area within their image; a negative width or height is none.

    Args:
        annotations: N of Detectron2's, with boxes in XYXY_ABS or XYWH_ABS.
        sizes: (N, 2) width and height of their images, or those of the only one.

    Returns:
        (N,) bool.
    """
    boxes = corners(annotations)
    return (np.minimum(boxes[:, 2:], sizes) > np.maximum(boxes[:, :2], 0)).all(axis=1)


def _are_objects(annotations: Sequence[dict], num_classes: int) -> bool:
    """Whether all have a class, a mode and a box that can be read."""
    return (
        all(_has_class(annotation, num_classes) and annotation.get("bbox_mode") in _MODES for annotation in annotations)
        and number_table([annotation.get("bbox") for annotation in annotations], 4) is not None
    )


def _has_class(annotation: dict, num_classes: int) -> bool:
    lowest = ALL_CLASSES if annotation.get("ignore") else 0
    category = annotation.get("category_id")
    return isinstance(category, (int, np.integer)) and bool(lowest <= category < num_classes)


def _what_is_wrong(annotation: dict, num_classes: int) -> str:
    if not _has_class(annotation, num_classes):
        category = annotation.get("category_id")
        return f"class {category!r} is outside 0..{num_classes - 1} (MODEL.CENTERNET.NUM_CLASSES)"
    if (mode := annotation.get("bbox_mode")) not in _MODES:
        return f"the bbox_mode is {mode!r}, not BoxMode.XYXY_ABS or BoxMode.XYWH_ABS"
    return (
        f"the box is {annotation.get('bbox')!r}, not four numbers that are finite and at most {LARGEST_COORDINATE} "
        "pixels; numbers have no quotes"
    )


def _other_convention(annotations: Sequence[dict], sizes: np.ndarray) -> str:
    """What speaks against the convention that boxes are read in; empty if nothing does."""
    if not annotations:
        return ""
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64)
    if (boxes >= 0).all() and (boxes <= 1).all() and boxes.any():
        return "All numbers are within 0..1, like shares of width and height; pixels are needed"
    sides = [annotation["bbox_mode"] == BoxMode.XYWH_ABS for annotation in annotations]
    boxes, sizes = boxes[sides], sizes[sides]
    # A pixel more, for boxes that end at the border and were rounded.
    leave = (boxes[:, :2] + boxes[:, 2:] > sizes + 1).any(axis=1)
    fit = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (boxes >= 0).all(axis=1) & (boxes[:, 2:] <= sizes + 1).all(axis=1)
    if (count := int((leave & fit).sum())) > len(boxes) / 2:
        return (
            f"{count} of {len(boxes)} end outside their image when read as x, y, width, height (XYWH), but fit as two "
            "corners x1, y1, x2, y2 (XYXY). COCO files have XYWH"
        )
    return ""


def load_checked(
    names: Sequence[str],
    num_classes: int,
    properties: Sequence[Property] = (),
    class_names: Sequence[str] = (),
) -> list[DatasetDict]:
    """The images of registered data sets, checked one set after the other by :func:`check_dataset` and the properties.

    Images without annotations get an empty list of them; values of annotations that are ``None`` or empty lists are
    left out. Of a data set that does not label a property, every image names it in ``unlabelled``.

    Args:
        names: of the data sets.
        num_classes: of the model.
        properties: of the model.
        class_names: of the model, for data sets that label different classes: these are matched by name, and
            ``labelled_classes`` says which of the model's a data set labels. Empty: all have the classes of the model.

    Raises:
        KeyError: a data set is not registered.
        OSError: an image cannot be opened.
        ValueError: a data set cannot be loaded, or does not pass.
    """
    images = []
    if not names:
        raise ValueError("no data set is named: set DATASETS.TRAIN and DATASETS.TEST")
    for name in names:
        dicts = _load(name)
        own = MetadataCatalog.get(name).get("thing_classes", [])
        numbers = match_classes(name, own, class_names) if class_names else None
        check_dataset(name, dicts, len(own) if class_names else num_classes)
        dicts = [{**image, "annotations": list(map(_without_null, image.get("annotations", ())))} for image in dicts]
        for prop in properties:
            prop.check(dicts)
        if numbers is not None:
            dicts = translate(dicts, numbers, num_classes)
        if unlabelled := [prop.name for prop in properties if not labels(dicts, prop)]:
            dicts = [{**image, "unlabelled": unlabelled} for image in dicts]
        images.extend(dicts)
    return images


def _load(name: str) -> list[DatasetDict]:
    if name not in DatasetCatalog.list():
        raise KeyError(
            f"the data set '{name}' is not registered: add it to DATASETS.REGISTER, or register it in Python"
        )
    try:
        return load_dataset(name)
    except FileNotFoundError as error:
        if error.filename is None:  # It has its sentence already.
            raise
        root = os.getenv("DETECTRON2_DATASETS", "datasets")
        raise FileNotFoundError(
            f"the data set '{name}' needs {error.filename}, which does not exist; data sets are looked for in "
            f"$DETECTRON2_DATASETS ({root})"
        ) from error
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        source = MetadataCatalog.get(name).get("json_file", "its source")
        if str(source) in str(error):
            raise
        raise ValueError(f"the data set '{name}' cannot be loaded from {source}: {error!r}") from error


def labels(dicts: Sequence[DatasetDict], prop: Property) -> bool:
    """Whether a data set says anything of a property; every data set labels one that has no keys of its own."""
    keys = prop.annotation_keys
    return not keys or any(key in x for image in dicts for x in image.get("annotations", ()) for key in keys)


def _without_null(annotation: dict) -> dict:
    """Detectron2's own functions take a list for one with something in it wherever there is any."""
    return {key: value for key, value in annotation.items() if value is not None and value != []}
