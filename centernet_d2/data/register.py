"""Data sets that a config brings along."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..modeling.heads import build_properties
from ..paths import check_local
from .datasets.coco import register_coco_file
from .datasets.kitti import register_kitti_sets

__all__ = ["register_datasets", "register_from_config"]


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
