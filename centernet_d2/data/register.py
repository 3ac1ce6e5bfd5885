"""Data sets that a config brings along."""

from __future__ import annotations

import os
from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

__all__ = ["register_datasets"]


def register_datasets(
    entries: Sequence[Sequence[str]],
    keypoint_names: Sequence[str] = (),
    keypoint_flip_map: Sequence[tuple[str, str]] = (),
) -> None:
    """Register the COCO-format data sets of ``DATASETS.REGISTER``; those already registered as they are, stay.

    Args:
        entries: (name, annotations.json, image folder); relative paths start at $DETECTRON2_DATASETS.
        keypoint_names, keypoint_flip_map: of all of them, for their metadata.

    Raises:
        ValueError: an entry is malformed, or its name stands for another data set already.
        FileNotFoundError: a file or folder does not exist.
    """
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    keypoints = {}
    if keypoint_names:
        flip_map = [tuple(pair) for pair in keypoint_flip_map]
        keypoints = {"keypoint_names": list(keypoint_names), "keypoint_flip_map": flip_map}
    for entry in entries:
        if len(entry) != 3 or not all(isinstance(part, str) for part in entry):
            raise ValueError(f"DATASETS.REGISTER: {entry} is not [name, annotations.json, image folder]")
        name = entry[0]
        json_file, image_root = (os.path.join(root, path) for path in entry[1:])
        for path in (json_file, image_root):
            if not os.path.exists(path):
                raise FileNotFoundError(
                    f"DATASETS.REGISTER: {path} of the data set '{name}' does not exist; relative paths start at "
                    f"$DETECTRON2_DATASETS ({root})"
                )
        if name not in DatasetCatalog.list():
            register_coco_instances(name, keypoints, json_file, image_root)
        elif _source(name) != (json_file, image_root):
            raise ValueError(f"DATASETS.REGISTER: the name '{name}' is taken by another data set")


def _source(name: str) -> tuple[str | None, str | None]:
    metadata = MetadataCatalog.get(name)
    return metadata.get("json_file"), metadata.get("image_root")
