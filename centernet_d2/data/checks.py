"""Validation of datasets before training."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..imaging.reading import ImageHeader, read_headers
from ..modeling.heads import Property
from ..structures.types import DatasetDict
from ..utils.memory import paused_collection
from ..utils.validation import LARGEST_COORDINATE, number_table
from .classes import match_classes, translate
from .loaded import load_dataset

__all__ = ["ALL_CLASSES", "EXCLUDED", "check_dataset", "has_visible_area", "load_checked"]

# Special values of `category_id`: regions to ignore for all classes, and annotations to exclude from training.
ALL_CLASSES = -1
EXCLUDED = -2
_ANNOTATION_KEYS = ("bbox", "bbox_mode", "category_id")
_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)

logger = logging.getLogger(__name__)


def check_dataset(name: str, dicts: Sequence[DatasetDict], num_classes: int, max_bad_images: int = 0) -> None:
    """Validate a dataset without decoding its images.

    One warning counts the boxes without visible area (:func:`has_visible_area`), which the mapper drops. Another
    warning reports boxes that appear to have another format than declared.

    Args:
        name: name of the registered dataset.
        dicts: images in Detectron2's format.
        num_classes: number of classes of the model.
        max_bad_images: number of damaged images to accept.

    Raises:
        OSError: an image does not exist or cannot be opened.
        ValueError: the dataset is empty; a record is incomplete; its number of classes differs from the model; an
            image differs in size from its annotations; or a box is not four finite numbers.
    """
    _check_records(name, dicts)
    classes = MetadataCatalog.get(name).get("thing_classes", [])
    if classes and len(classes) != num_classes:
        raise ValueError(
            f"the dataset '{name}' has {len(classes)} classes ({', '.join(classes[:10])}"
            f"{', ...' if len(classes) > 10 else ''}), but MODEL.CENTERNET.NUM_CLASSES is {num_classes}"
        )
    _check_boxes(name, dicts, check_images(name, dicts, max_bad_images), num_classes)


def _check_records(name: str, dicts: Sequence[DatasetDict]) -> None:
    """Reject a dataset without images, and records or annotations without the keys of Detectron2's format."""
    if not isinstance(dicts, Sequence) or not dicts:
        raise ValueError(f"the dataset '{name}' has no images; its function must return a list of dicts")
    for index, record in enumerate(dicts):
        where = f"{name}: record {index}"
        if not isinstance(record, dict):
            raise ValueError(f"{where} is a {type(record).__name__}, not a dict of Detectron2's dataset format")
        where += f" ({record.get('file_name', 'without file_name')})"
        _check_keys(record, {"file_name": (str, os.PathLike)}, where)
        for key in record.keys() & {"height", "width"}:
            if not isinstance(record[key], (int, np.integer)):
                raise ValueError(f"{where}: '{key}' is {record[key]!r:.60}, but must be a whole number of pixels")
        annotations = record.get("annotations", ())
        if not isinstance(annotations, (list, tuple)):
            raise ValueError(f"{where}: 'annotations' is a {type(annotations).__name__}, not a list of dicts")
        for number, annotation in enumerate(annotations):
            if not isinstance(annotation, dict):
                raise ValueError(f"{where}: annotation {number} is a {type(annotation).__name__}, not a dict")
            if annotation.get("category_id") != EXCLUDED:
                _check_keys(annotation, dict.fromkeys(_ANNOTATION_KEYS, object), f"{where}, annotation {number}")


def _check_keys(record: Mapping, types: Mapping[str, Any], where: str) -> None:
    for key, kind in types.items():
        if key not in record:
            raise ValueError(f"{where}: the key '{key}' is missing; see Detectron2's standard dataset dicts")
        if not isinstance(record[key], kind):
            raise ValueError(f"{where}: '{key}' is {record[key]!r:.60}, which has the wrong type")


def _check_boxes(
    name: str, dicts: Sequence[DatasetDict], sizes: Sequence[tuple[float, float]], num_classes: int
) -> None:
    """Validate boxes, see :func:`check_dataset`; `sizes` contains (width, height) of every image."""
    indices = [
        (image, index)
        for image, record in enumerate(dicts)
        for index, annotation in enumerate(record.get("annotations", ()))
        if annotation.get("category_id") != EXCLUDED
    ]
    annotations = [dicts[image]["annotations"][index] for image, index in indices]
    if not _are_objects(annotations, num_classes):
        for (image, index), annotation in zip(indices, annotations, strict=True):
            if not _are_objects([annotation], num_classes):
                where = f"{name}: {dicts[image]['file_name']}, annotation {index} of this image"
                raise ValueError(f"{where}: {_describe_error(annotation, num_classes)}")
    limits = np.array([sizes[image] for image, _ in indices], dtype=np.float64).reshape(-1, 2)
    if dropped := int((~has_visible_area(annotations, limits)).sum()):
        logger.warning(f"dataset '{name}': {dropped} boxes without area or outside their image, skipped in training")
    if reason := _find_other_format(annotations, limits):
        logger.warning(f"dataset '{name}': the box format may be wrong. {reason}")


def check_images(name: str, dicts: Sequence[DatasetDict], max_bad_images: int = 0) -> list[tuple[float, float]]:
    """Compare the image sizes in a dataset with the image files.

    Args:
        name: name of the dataset.
        dicts: images in Detectron2's format.
        max_bad_images: number of damaged images to accept.

    Returns:
        (width, height) of every image; infinite for damaged images without annotated size.

    Raises:
        OSError: an image does not exist or cannot be opened.
        ValueError: a size differs from the image file.
    """
    results = read_headers([record["file_name"] for record in dicts], f"reading image headers of {name}")
    errors = [header for header in results if isinstance(header, OSError)]
    if len(errors) > max_bad_images or any(isinstance(error, FileNotFoundError) for error in errors):
        more = f" ({len(errors)} of {len(dicts)} images cannot be opened)" if len(errors) > 1 else ""
        raise type(errors[0])(f"the dataset '{name}': {errors[0]}{more}")
    pairs = [(r, h) for r, h in zip(dicts, results, strict=True) if not isinstance(h, OSError)]
    wrong = [(record, header) for record, header in pairs if _annotated_size(record, header) != header.upright_size]
    if wrong:
        more = f" ({len(wrong)} of {len(dicts)} images differ)" if len(wrong) > 1 else ""
        raise ValueError(f"the dataset '{name}': {_describe_size_error(*wrong[0])}{more}")
    oriented = [header for _, header in pairs if header.orientation > 1]
    if unverified := sum(header.orientation < 5 or header.width == header.height for header in oriented):
        logger.warning(
            f"dataset '{name}': the EXIF orientation rotates or flips {unverified} images without changing their size; "
            "make sure that their annotations refer to the upright images"
        )
    return [
        (record.get("width", np.inf), record.get("height", np.inf)) if isinstance(one, OSError) else one.upright_size
        for record, one in zip(dicts, results, strict=True)
    ]


def _annotated_size(record: DatasetDict, header: ImageHeader) -> tuple[int, int]:
    """Return (width, height) in a dataset dict; missing values are taken from the image header."""
    width, height = header.upright_size
    return record.get("width", width), record.get("height", height)


def _describe_size_error(record: DatasetDict, header: ImageHeader) -> str:
    annotated = _annotated_size(record, header)
    width, height = header.upright_size
    text = f"the image {record['file_name']} is {width} x {height} pixels, but its annotations are for "
    text += f"{annotated[0]} x {annotated[1]} (width x height)"
    if header.orientation >= 5 and annotated == (header.width, header.height):
        return (
            f"{text}, its size without the EXIF orientation {header.orientation}. Annotate the upright image, or store "
            "the image without EXIF orientation"
        )
    return f"{text}. Correct the width and height, or the image"


def corners(annotations: Sequence[dict]) -> np.ndarray:
    """Convert the boxes of N annotations to (N, 4) float64 XYXY.

    The corners are not sorted: the second corner may be before the first.
    """
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
    sides = np.array([annotation["bbox_mode"] == BoxMode.XYWH_ABS for annotation in annotations], dtype=bool)
    boxes[sides, 2:] += boxes[sides, :2]
    return boxes


def has_visible_area(annotations: Sequence[dict], sizes: np.ndarray | tuple[float, float]) -> np.ndarray:
    """Return True for boxes with a positive area inside their image.

    Boxes with a negative width or height have no area.

    Args:
        annotations: N annotations in Detectron2's format, with boxes in XYXY_ABS or XYWH_ABS.
        sizes: (N, 2) width and height of their images, or (width, height) of a single image.

    Returns:
        (N,) bool.
    """
    boxes = corners(annotations)
    return (np.minimum(boxes[:, 2:], sizes) > np.maximum(boxes[:, :2], 0)).all(axis=1)


def _are_objects(annotations: Sequence[dict], num_classes: int) -> bool:
    """Return True if all annotations have a valid class, box mode and box."""
    return (
        all(_has_class(annotation, num_classes) and annotation.get("bbox_mode") in _MODES for annotation in annotations)
        and number_table([annotation.get("bbox") for annotation in annotations], 4) is not None
    )


def _has_class(annotation: dict, num_classes: int) -> bool:
    lowest = ALL_CLASSES if annotation.get("ignore") else 0
    category = annotation.get("category_id")
    return isinstance(category, (int, np.integer)) and bool(lowest <= category < num_classes)


def _describe_error(annotation: dict, num_classes: int) -> str:
    if not _has_class(annotation, num_classes):
        category = annotation.get("category_id")
        return f"class {category!r} is outside 0..{num_classes - 1} (MODEL.CENTERNET.NUM_CLASSES)"
    if (mode := annotation.get("bbox_mode")) not in _MODES:
        return f"bbox_mode is {mode!r}, but must be BoxMode.XYXY_ABS or BoxMode.XYWH_ABS"
    return (
        f"the box is {annotation.get('bbox')!r}, but must be four finite numbers (not strings) of at most "
        f"{LARGEST_COORDINATE} pixels"
    )


def _find_other_format(annotations: Sequence[dict], sizes: np.ndarray) -> str:
    """Describe evidence that boxes have another format than declared; return "" if there is no evidence."""
    if not annotations:
        return ""
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64)
    if (boxes >= 0).all() and (boxes <= 1).all() and boxes.any():
        return "All coordinates are in 0..1, as if relative to the image size, but pixels are required"
    sides = [annotation["bbox_mode"] == BoxMode.XYWH_ABS for annotation in annotations]
    boxes, sizes = boxes[sides], sizes[sides]
    # Tolerance of one pixel, for rounded boxes at the image border.
    exceed = (boxes[:, :2] + boxes[:, 2:] > sizes + 1).any(axis=1)
    fit = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (boxes >= 0).all(axis=1) & (boxes[:, 2:] <= sizes + 1).all(axis=1)
    if (count := int((exceed & fit).sum())) > len(boxes) / 2:
        return (
            f"{count} of {len(boxes)} boxes exceed their image as x, y, width, height (XYWH, the format of COCO), but "
            "fit as x1, y1, x2, y2 (XYXY)"
        )
    return ""


@paused_collection()
def load_checked(
    names: Sequence[str],
    num_classes: int,
    properties: Sequence[Property] = (),
    class_names: Sequence[str] = (),
    *,
    max_bad_images: int = 0,
) -> list[DatasetDict]:
    """Load and validate registered datasets.

    Every dataset is validated by :func:`check_dataset` and the properties. Images without annotations get an empty
    list; annotation values that are ``None`` or empty lists are removed. If a dataset does not label a property, all
    its images contain the name of the property in ``unlabeled``.

    Args:
        names: names of the datasets.
        num_classes: number of classes of the model.
        properties: properties of the model.
        class_names: class names of the model, if datasets label different classes. Classes are matched by name, and
            ``labeled_classes`` of an image marks the classes that its dataset labels. If empty, all datasets have
            the classes of the model.
        max_bad_images: number of damaged images per dataset to accept, because the loader skips them.

    Raises:
        KeyError: a dataset is not registered.
        OSError: an image cannot be opened.
        ValueError: a dataset cannot be loaded or is invalid.
    """
    images = []
    if not names:
        raise ValueError("no datasets are configured; set DATASETS.TRAIN and DATASETS.TEST")
    for name in names:
        dicts = _load(name)
        own = MetadataCatalog.get(name).get("thing_classes", [])
        numbers = match_classes(name, own, class_names) if class_names else None
        check_dataset(name, dicts, len(own) if class_names else num_classes, max_bad_images)
        dicts = [{**image, "annotations": list(map(_without_null, image.get("annotations", ())))} for image in dicts]
        for prop in properties:
            prop.check(dicts)
        if numbers is not None:
            dicts = translate(dicts, numbers, num_classes)
        if unlabeled := [prop.name for prop in properties if not is_labeled(dicts, prop)]:
            dicts = [{**image, "unlabeled": unlabeled} for image in dicts]
        images.extend(dicts)
    return images


def _load(name: str) -> list[DatasetDict]:
    if name not in DatasetCatalog.list():
        raise KeyError(f"the dataset '{name}' is not registered; add it to DATASETS.REGISTER, or register it in Python")
    try:
        return load_dataset(name)
    except FileNotFoundError as error:
        if error.filename is None:  # The error already has a complete message.
            raise
        root = os.getenv("DETECTRON2_DATASETS", "datasets")
        raise FileNotFoundError(
            f"the dataset '{name}' needs {error.filename}, which does not exist; relative paths start at "
            f"$DETECTRON2_DATASETS ({root})"
        ) from error
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        source = MetadataCatalog.get(name).get("json_file", "its source")
        if str(source) in str(error):
            raise
        raise ValueError(f"the dataset '{name}' cannot be loaded from {source}: {error!r}") from error


def is_labeled(dicts: Sequence[DatasetDict], prop: Property) -> bool:
    """Return True if a dataset has annotations of a property.

    A property without annotation keys is labeled in every dataset.
    """
    keys = prop.annotation_keys
    return not keys or any(key in x for image in dicts for x in image.get("annotations", ()) for key in keys)


def _without_null(annotation: dict) -> dict:
    """Remove None and empty lists, which functions of Detectron2 do not accept."""
    empty = [key for key, value in annotation.items() if value is None or (isinstance(value, list) and not value)]
    return {key: value for key, value in annotation.items() if key not in empty} if empty else annotation
