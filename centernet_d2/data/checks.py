"""Looks at a data set before hours are spent on it."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

__all__ = ["ALL_CLASSES", "EXCLUDED", "check_coco_file", "check_dataset", "load_checked"]

# `category_id` of what belongs to no class: a region to ignore for all classes, and what is left out of training.
ALL_CLASSES = -1
EXCLUDED = -2


def check_dataset(name: str, dicts: Sequence[dict], num_classes: int) -> None:
    """Check everything that can be checked without decoding images.

    Boxes without area or outside their image are counted in one log line; the mapper drops them.

    Args:
        name: of the registered data set.
        dicts: its images in Detectron2's format.
        num_classes: classes of the model.

    Raises:
        FileNotFoundError: an image does not exist.
        ValueError: the data set is empty, has other classes than the model, or a box that is not four finite numbers.
    """
    if not dicts:
        raise ValueError(f"the data set '{name}' has no images")
    classes = MetadataCatalog.get(name).get("thing_classes", [])
    if classes and len(classes) != num_classes:
        raise ValueError(
            f"the data set '{name}' has {len(classes)} classes ({', '.join(classes[:10])}"
            f"{', ...' if len(classes) > 10 else ''}), but MODEL.CENTERNET.NUM_CLASSES is {num_classes}"
        )
    dropped = 0
    for image in dicts:
        file_name = image["file_name"]
        if not (os.path.isfile(file_name) or PathManager.isfile(file_name)):
            raise FileNotFoundError(f"the data set '{name}' names the image {file_name}, which does not exist")
        for index, annotation in enumerate(image.get("annotations", ())):
            where = f"{name}: {file_name}, annotation {index} of this image"
            dropped += not _check_annotation(annotation, image, where, num_classes)
    if dropped:
        logging.getLogger(__name__).warning(
            f"data set '{name}': {dropped} boxes without area or outside their image are left out of training"
        )


def _check_annotation(annotation: dict, image: dict, where: str, num_classes: int) -> bool:
    """Whether a box shows anything of its image."""
    category = annotation["category_id"]
    if category == EXCLUDED:
        return True
    if not (ALL_CLASSES if annotation.get("ignore") else 0) <= category < num_classes:
        raise ValueError(f"{where}: class {category} is outside 0..{num_classes - 1} (MODEL.CENTERNET.NUM_CLASSES)")
    box = annotation.get("bbox")
    try:
        x1, y1, x2, y2 = (float(value) for value in box)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: the box is {box!r}, not four numbers") from None
    if not all(math.isfinite(value) for value in (x1, y1, x2, y2)):
        raise ValueError(f"{where}: the box {list(box)} has a coordinate that is not finite")
    if annotation["bbox_mode"] == BoxMode.XYWH_ABS:
        x2, y2 = x1 + x2, y1 + y2
    width, height = image.get("width", math.inf), image.get("height", math.inf)
    return min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0)


def load_checked(names: Sequence[str], num_classes: int) -> list[dict]:
    """The images of registered data sets, checked one set after the other by :func:`check_dataset`.

    Images without annotations get an empty list of them.

    Raises:
        KeyError: a data set is not registered.
        ValueError: a data set cannot be loaded, or does not pass.
    """
    images = []
    if not names:
        raise ValueError("no data set is named: set DATASETS.TRAIN and DATASETS.TEST")
    for name in names:
        if name not in DatasetCatalog.list():
            raise KeyError(
                f"the data set '{name}' is not registered: add it to DATASETS.REGISTER, or register it in Python"
            )
        try:
            dicts = DatasetCatalog.get(name)
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            source = MetadataCatalog.get(name).get("json_file", "its source")
            raise ValueError(f"the data set '{name}' cannot be loaded from {source}: {error!r}") from error
        check_dataset(name, dicts, num_classes)
        images.extend({"annotations": [], **image} for image in dicts)
    return images


def check_coco_file(name: str) -> None:
    """Check that the COCO file of a registered data set has what pycocotools needs to evaluate on it.

    Args:
        name: of the data set.

    Raises:
        ValueError: an annotation lacks its area or crowd flag, or the file names other keypoints than the metadata.
    """
    metadata = MetadataCatalog.get(name)
    path = metadata.json_file
    with PathManager.open(path) as file:
        content = json.load(file)
    for annotation in content.get("annotations", ()):
        if lacking := [key for key in ("id", "area", "iscrowd") if key not in annotation]:
            raise ValueError(
                f"{path}: annotation {annotation.get('id', '?')} lacks {', '.join(lacking)}, which the COCO evaluation "
                "needs (area: width x height of the box, unless there is a mask; iscrowd: 0)"
            )
    known = list(metadata.get("keypoint_names", ()))
    for category in content.get("categories", ()):
        own = category.get("keypoints")
        if known and own and own != known:
            raise ValueError(
                f"{path}: the keypoints of {category['name']} are {', '.join(own)}, but those of the config or of the "
                f"metadata {', '.join(known)}"
            )
