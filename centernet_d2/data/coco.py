"""COCO files as Detectron2 datasets."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..config.registry import POINT_HEAD_REGISTRY
from ..readers.coco import CocoFile, read_files
from ..readers.records import Report
from ..structures.points import HALF_PIXEL
from ..structures.types import DatasetDict
from ..utils.files import leaves_folder
from ..utils.memory import paused_collection

__all__ = ["CocoDataset", "check_keypoint_names", "register_coco_file"]

# Annotation keys that the evaluation reads.
_TRUTH_KEYS = frozenset(
    ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "keypoints", "num_keypoints")
)


def register_coco_file(name: str, metadata: dict[str, Any], json_file: str, image_root: str) -> None:
    """Register a :class:`CocoDataset`, like Detectron2's ``register_coco_instances``."""
    DatasetCatalog.register(name, CocoDataset(name, json_file, image_root))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)


class CocoDataset:
    """Function of a registered dataset that parses its COCO file once per process.

    :func:`centernet_d2.readers.coco.read_files` repairs and skips entries and raises errors. Repairs and skipped
    entries are logged.
    """

    def __init__(self, name: str, json_file: str, image_root: str) -> None:
        """
        Args:
            name: name of the dataset; its metadata get ``thing_classes`` and ``thing_dataset_id_to_contiguous_id``.
            json_file: the COCO file.
            image_root: folder that relative names of images start from.
        """
        self.name = name
        self.json_file = json_file
        self.image_root = image_root
        #: Messages about repairs and skipped entries.
        self.notes: list[str] = []
        # Pickled: every caller gets a separate copy, and large datasets need less memory.
        self._content = b""

    @paused_collection()
    def __call__(self) -> list[DatasetDict]:
        """Return images in Detectron2's format, in the order of their ids; masks are not read.

        Classes are numbered in the order of their ids. Keypoints are shifted by half a pixel, as in Detectron2. The
        keys that properties of registered heads read (``annotation_keys``, ``input_keys``) are kept unchanged.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is damaged or ambiguous, or its keypoint names differ from the metadata.
        """
        file = self.read()
        classes = {category["id"]: index for index, category in enumerate(file.categories)}
        metadata = MetadataCatalog.get(self.name)
        check_keypoint_names(self.json_file, file.categories, metadata.get("keypoint_names", ()))
        metadata.thing_classes = [category["name"] for category in file.categories]
        metadata.thing_dataset_id_to_contiguous_id = classes
        own_keys, input_keys = _keys_of_properties()
        by_image: dict[int | str, list[dict]] = {image["id"]: [] for image in file.images}
        for annotation in file.annotations:
            by_image[annotation["image_id"]].append(_to_detectron2(annotation, classes, own_keys))
        return [
            {
                "file_name": os.path.join(self.image_root, image["file_name"]),
                "image_id": image["id"],
                **{key: image[key] for key in ("height", "width") if key in image},
                "annotations": by_image[image["id"]],
                **{key: image[key] for key in input_keys if key in image},
            }
            for image in sorted(file.images, key=lambda image: image["id"])
        ]

    @paused_collection()
    def read(self) -> CocoFile:
        """Return the content of the file, without masks."""
        if not self._content:
            report = Report()
            (file,) = read_files([Path(self.json_file)], report, lambda path: path.name)
            self._check_names(file.images)
            self.notes = report.lines()
            for line in self.notes:
                logging.getLogger(__name__).warning(f"{self.json_file}: {line}")
            kept = _TRUTH_KEYS | _keys_of_properties()[0]
            for annotation in file.annotations:
                for key in annotation.keys() - kept:
                    del annotation[key]
            self._content = pickle.dumps(file)
            return file
        return pickle.loads(self._content)

    def _check_names(self, images: Sequence[dict]) -> None:
        """Reject image names that are URLs or outside of the dataset; log absolute paths."""
        for image in images:
            name = image["file_name"]
            where = f"{self.json_file}: image {image['id']!r}: 'file_name' is {name!r}"
            if "://" in name:
                raise ValueError(
                    f"{where}, a URL; images are not downloaded. Download them, and set 'file_name' relative to the "
                    "image folder"
                )
            if leaves_folder(name, self.image_root):
                raise ValueError(
                    f"{where}, which is outside of the parent of the image folder {self.image_root}; use an absolute "
                    "path for such images"
                )
        if absolute := sum(os.path.isabs(image["file_name"]) for image in images):
            logging.getLogger(__name__).info(
                f"{self.json_file}: {absolute} of {len(images)} images have absolute paths, which may be outside of "
                "the image folder"
            )


def check_keypoint_names(path: str, categories: Sequence[dict], names: Sequence[str]) -> None:
    """Compare the keypoint names in a COCO file with the config or metadata.

    Categories without keypoint names are accepted.

    Raises:
        ValueError: the names differ.
    """
    for category in categories:
        own = category.get("keypoints")
        if names and own and list(own) != list(names):
            raise ValueError(
                f"{path}: the keypoints of {category['name']} are {', '.join(map(str, own))}, but the keypoints in the "
                f"config or metadata are {', '.join(names)}"
            )


def _keys_of_properties() -> tuple[set[str], set[str]]:
    """Return the annotation keys and the image keys that properties of registered heads read."""
    properties = [head.property_type for _, head in POINT_HEAD_REGISTRY]
    return {key for x in properties for key in x.annotation_keys}, {key for x in properties for key in x.input_keys}


def _to_detectron2(annotation: dict, classes: dict, own_keys: Collection[str]) -> dict:
    """Convert an annotation to Detectron2's format."""
    result = {
        **{key: value for key, value in annotation.items() if key in own_keys and value is not None},
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": classes[annotation["category_id"]],
        "iscrowd": int(annotation.get("iscrowd") or 0),
    }
    if annotation.get("ignore"):
        result["ignore"] = True
    result.pop("keypoints", None)
    if keypoints := annotation.get("keypoints"):
        shift = (HALF_PIXEL, HALF_PIXEL, 0)
        result["keypoints"] = [value + shift[index % 3] for index, value in enumerate(keypoints)]
    return result
