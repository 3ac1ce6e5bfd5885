"""What classes are called: from the data sets of a config, or from what a checkpoint has kept of them."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..modeling.heads import Property
from .register import register_from_config

__all__ = ["dataset_metadata", "from_plain", "to_plain"]


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
            DatasetCatalog.get(name)  # Reading the annotations fills in the names.
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
