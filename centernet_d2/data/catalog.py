"""Registration of datasets from a config, and their metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..config.portable import to_text
from ..modeling.heads import Property, build_properties
from ..utils.files import check_local
from .coco import register_coco_file
from .kitti import register_kitti_sets
from .loaded import load_dataset

__all__ = [
    "checkpoint_metadata",
    "dataset_metadata",
    "from_plain",
    "register_datasets",
    "register_from_config",
    "suggested_threshold",
    "to_plain",
]


def dataset_metadata(cfg: CfgNode) -> Metadata:
    """Return metadata with names and ids of the classes.

    They are MODEL.CENTERNET.CLASS_NAMES or, if empty, the classes of the first dataset of the config with matching
    classes.

    Returns:
        Metadata without classes if no dataset is available, or if its number of classes differs from the model.
    """
    if names := cfg.MODEL.CENTERNET.CLASS_NAMES:
        return Metadata(thing_classes=list(names))
    try:
        register_from_config(cfg)
    except FileNotFoundError:  # Annotations are required for training only.
        return Metadata()
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        metadata = MetadataCatalog.get(name) if name in DatasetCatalog.list() else Metadata()
        if metadata.get("json_file") and not metadata.get("thing_classes"):
            load_dataset(name)  # Sets `thing_classes`.
        if len(metadata.get("thing_classes", ())) == cfg.MODEL.CENTERNET.NUM_CLASSES:
            return metadata
    return Metadata()


def checkpoint_metadata(cfg: CfgNode) -> dict[str, object]:
    """Return metadata that make a checkpoint usable without its config and datasets.

    In addition to :func:`to_plain`, they contain the config as text, see :func:`centernet_d2.config.portable.to_text`.
    """
    return {**to_plain(dataset_metadata(cfg), build_properties(cfg)), "config": to_text(cfg)}


def to_plain(metadata: Metadata, properties: Sequence[Property]) -> dict[str, object]:
    """Convert metadata to plain values for a checkpoint.

    The result contains ``thing_classes`` and ``category_ids``, if known, and the metadata of the properties.
    """
    kept = {key: value for prop in properties for key, value in prop.metadata().items()}
    if names := metadata.get("thing_classes"):
        kept["thing_classes"] = list(names)
    if ids := metadata.get("thing_dataset_id_to_contiguous_id"):
        kept["category_ids"] = sorted(ids, key=ids.get)
    return kept


def from_plain(kept: object, num_classes: int) -> Metadata:
    """Convert the output of :func:`to_plain` to metadata.

    The metadata contain the names and ids of the classes. Invalid values, for example in checkpoints of other programs,
    are ignored.

    Args:
        kept: metadata in a checkpoint.
        num_classes: number of classes of the model; lists of another length are ignored.
    """
    kept = kept if isinstance(kept, dict) else {}
    names, ids = kept.get("thing_classes", ()), kept.get("category_ids", ())
    metadata = Metadata()
    if _are(names, str, num_classes):
        metadata.thing_classes = names
    if _are(ids, (int, str), num_classes) and len(set(ids)) == num_classes:
        metadata.thing_dataset_id_to_contiguous_id = {one: index for index, one in enumerate(ids)}
    return metadata


def suggested_threshold(kept: object, default: float) -> float:
    """Return the score threshold in the metadata of a checkpoint, or a default."""
    value = kept.get("threshold") if isinstance(kept, dict) else None
    return value if isinstance(value, float) and 0 <= value <= 1 else default


def _are(values: object, kind: type | tuple[type, ...], count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(isinstance(value, kind) for value in values)


def register_from_config(cfg: CfgNode) -> None:
    """Register the datasets of ``DATASETS.REGISTER`` and ``REGISTER_KITTI``.

    See :func:`register_datasets` and :func:`register_kitti_sets`.
    """
    metadata = {key: value for prop in build_properties(cfg) for key, value in prop.metadata().items()}
    register_datasets(cfg.DATASETS.REGISTER, metadata)
    register_kitti_sets(cfg.DATASETS.REGISTER_KITTI)


def register_datasets(entries: Sequence[Sequence[str]], metadata: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Register the COCO-format datasets of ``DATASETS.REGISTER``.

    Existing registrations with the same paths are kept.

    Args:
        entries: (name, annotations.json, image folder); relative paths start at $DETECTRON2_DATASETS.
        metadata: additional metadata of all datasets.

    Raises:
        ValueError: an entry is malformed, or its name is registered with other paths.
        FileNotFoundError: a file or folder does not exist.
    """
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    for entry in entries:
        if len(entry) != 3 or not all(isinstance(part, str) for part in entry):
            raise ValueError(f"DATASETS.REGISTER: {entry} must be [name, annotations.json, image folder]")
        for path in entry[1:]:
            check_local(path, "DATASETS.REGISTER:")
        name = entry[0]
        json_file, image_root = (os.path.join(root, path) for path in entry[1:])
        for path in (json_file, image_root):
            if not os.path.exists(path):
                raise FileNotFoundError(
                    f"DATASETS.REGISTER: {path} of the dataset '{name}' does not exist; relative paths start at "
                    f"$DETECTRON2_DATASETS ({root})"
                )
        if name not in DatasetCatalog.list():
            register_coco_file(name, dict(metadata), json_file, image_root)
        elif _source(name) != (json_file, image_root):
            raise ValueError(f"DATASETS.REGISTER: '{name}' is already registered with other paths; use another name")


def _source(name: str) -> tuple[str | None, str | None]:
    metadata = MetadataCatalog.get(name)
    return metadata.get("json_file"), metadata.get("image_root")
