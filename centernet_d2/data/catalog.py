"""Registration of datasets from a config, their classes and their metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..modeling.heads import Property, build_properties
from ..utils.files import check_local
from .coco import register_coco_file
from .kitti import register_kitti_sets
from .loaded import load_dataset

__all__ = [
    "dataset_metadata",
    "from_plain",
    "register_datasets",
    "register_from_config",
    "to_plain",
]


def dataset_metadata(cfg: CfgNode) -> Metadata:
    """Names and ids of the classes: MODEL.CENTERNET.CLASS_NAMES, else of the first data set of a config that has them.

    Returns:
        Metadata without classes where no data set is at hand, or where it has other classes than the model.
    """
    if names := cfg.MODEL.CENTERNET.CLASS_NAMES:
        return Metadata(thing_classes=list(names))
    try:
        register_from_config(cfg)
    except FileNotFoundError:  # Its annotations are needed for training only.
        return Metadata()
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        metadata = MetadataCatalog.get(name) if name in DatasetCatalog.list() else Metadata()
        if metadata.get("json_file") and not metadata.get("thing_classes"):
            load_dataset(name)  # Sets the names of the classes.
        if len(metadata.get("thing_classes", ())) == cfg.MODEL.CENTERNET.NUM_CLASSES:
            return metadata
    return Metadata()


def to_plain(metadata: Metadata, properties: Sequence[Property]) -> dict[str, object]:
    """What a checkpoint keeps: ``thing_classes`` and ``category_ids`` where they are known, and what properties say."""
    kept = {key: value for prop in properties for key, value in prop.metadata().items()}
    if names := metadata.get("thing_classes"):
        kept["thing_classes"] = list(names)
    if ids := metadata.get("thing_dataset_id_to_contiguous_id"):
        kept["category_ids"] = sorted(ids, key=ids.get)
    return kept


def from_plain(kept: object, num_classes: int) -> Metadata:
    """Names and ids of the classes from what :func:`to_plain` made; files of others may have anything in its place.

    Args:
        kept: what a checkpoint has.
        num_classes: of the model; names and ids of another number are none.
    """
    kept = kept if isinstance(kept, dict) else {}
    names, ids = kept.get("thing_classes", ()), kept.get("category_ids", ())
    metadata = Metadata()
    if _are(names, str, num_classes):
        metadata.thing_classes = names
    if _are(ids, (int, str), num_classes) and len(set(ids)) == num_classes:
        metadata.thing_dataset_id_to_contiguous_id = {one: index for index, one in enumerate(ids)}
    return metadata


def _are(values: object, kind: type | tuple[type, ...], count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(isinstance(value, kind) for value in values)


def register_from_config(cfg: CfgNode) -> None:
    """Register the data sets that ``DATASETS.REGISTER`` and ``REGISTER_KITTI`` name, see :func:`register_datasets`."""
    metadata = {key: value for prop in build_properties(cfg) for key, value in prop.metadata().items()}
    register_datasets(cfg.DATASETS.REGISTER, metadata)
    register_kitti_sets(cfg.DATASETS.REGISTER_KITTI)


def register_datasets(entries: Sequence[Sequence[str]], metadata: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Register the COCO-format data sets of ``DATASETS.REGISTER``; those already registered as they are, stay.

    Args:
        entries: (name, annotations.json, image folder); relative paths start at $DETECTRON2_DATASETS.
        metadata: of all of them.

    Raises:
        ValueError: an entry is malformed, or its name stands for another data set already.
        FileNotFoundError: a file or folder does not exist.
    """
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    for entry in entries:
        if len(entry) != 3 or not all(isinstance(part, str) for part in entry):
            raise ValueError(f"DATASETS.REGISTER: {entry} is not [name, annotations.json, image folder]")
        for path in entry[1:]:
            check_local(path, "DATASETS.REGISTER:")
        name = entry[0]
        json_file, image_root = (os.path.join(root, path) for path in entry[1:])
        for path in (json_file, image_root):
            if not os.path.exists(path):
                raise FileNotFoundError(
                    f"DATASETS.REGISTER: {path} of the data set '{name}' does not exist; relative paths start at "
                    f"$DETECTRON2_DATASETS ({root})"
                )
        if name not in DatasetCatalog.list():
            register_coco_file(name, dict(metadata), json_file, image_root)
        elif _source(name) != (json_file, image_root):
            raise ValueError(f"DATASETS.REGISTER: the name '{name}' is taken by another data set")


def _source(name: str) -> tuple[str | None, str | None]:
    metadata = MetadataCatalog.get(name)
    return metadata.get("json_file"), metadata.get("image_root")
