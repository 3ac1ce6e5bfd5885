"""Data sets that a config brings along."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from .datasets.coco import register_coco_file
from .datasets.kitti import register_kitti_sets

__all__ = ["keypoint_metadata", "register_datasets", "register_from_config"]


def register_from_config(cfg: CfgNode) -> None:
    """Register the data sets that ``DATASETS.REGISTER`` and ``REGISTER_KITTI`` name, see :func:`register_datasets`."""
    node = cfg.DATASETS
    register_datasets(node.REGISTER, node.KEYPOINT_NAMES, node.KEYPOINT_FLIP_MAP, node.KEYPOINT_SKELETON)
    register_kitti_sets(node.REGISTER_KITTI)


def register_datasets(
    entries: Sequence[Sequence[str]],
    keypoint_names: Sequence[str] = (),
    keypoint_flip_map: Sequence[tuple[str, str]] = (),
    keypoint_skeleton: Sequence[tuple[str, str]] = (),
) -> None:
    """Register the COCO-format data sets of ``DATASETS.REGISTER``; those already registered as they are, stay.

    Args:
        entries: (name, annotations.json, image folder); relative paths start at $DETECTRON2_DATASETS.
        keypoint_names, keypoint_flip_map, keypoint_skeleton: of all of them, for their metadata.

    Raises:
        ValueError: an entry is malformed, its name stands for another data set already, or the skeleton has unknown
            names.
        FileNotFoundError: a file or folder does not exist.
    """
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    keypoints = keypoint_metadata(keypoint_names, keypoint_flip_map, keypoint_skeleton)
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
            register_coco_file(name, keypoints, json_file, image_root)
        elif _source(name) != (json_file, image_root):
            raise ValueError(f"DATASETS.REGISTER: the name '{name}' is taken by another data set")


def keypoint_metadata(
    names: Sequence[str], flip_map: Sequence[tuple[str, str]], skeleton: Sequence[tuple[str, str]]
) -> dict[str, list]:
    """What Detectron2 wants to know about keypoints; each line of the skeleton gets a color.

    Raises:
        ValueError: the skeleton has an unknown name.
    """
    if not names:
        return {}
    rules = []
    for index, pair in enumerate(skeleton):
        if len(pair) != 2 or not set(pair) <= set(names):
            raise ValueError(
                f"DATASETS.KEYPOINT_SKELETON: {list(pair)} is not a pair of keypoint names ({', '.join(names)})"
            )
        color = colorsys.hsv_to_rgb(index / len(skeleton), 0.9, 1.0)
        rules.append((*pair, tuple(round(255 * part) for part in color)))
    pairs = [tuple(pair) for pair in flip_map]
    return {"keypoint_names": list(names), "keypoint_flip_map": pairs, "keypoint_connection_rules": rules}


def _source(name: str) -> tuple[str | None, str | None]:
    metadata = MetadataCatalog.get(name)
    return metadata.get("json_file"), metadata.get("image_root")
