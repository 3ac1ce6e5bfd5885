"""Annotations of registered datasets, loaded once per process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict

from ..readers.coco import read_json
from ..structures.types import DatasetDict
from .coco import CocoDataset

__all__ = ["load_coco_content", "load_dataset"]

_Content = TypeVar("_Content")

# (name, kind) -> the registered function, and what was loaded. Pickled, so that every caller gets objects of its own.
_LOADED: dict[tuple[str, str], tuple[object, bytes]] = {}


def load_dataset(name: str) -> list[DatasetDict]:
    """Return the images of a registered dataset; its function is called once per process.

    Raises:
        KeyError: no dataset is registered under this name.
    """
    function = DatasetCatalog.data.get(name)
    if isinstance(function, CocoDataset):
        return function()
    return _once(name, "images", partial(DatasetCatalog.get, name))


def load_coco_content(name: str) -> dict[str, Any]:
    """Return the content of the COCO file of a dataset, or its images converted to such a content."""
    function = DatasetCatalog.data.get(name)
    if isinstance(function, CocoDataset):
        file = function.read()
        return {"images": file.images, "annotations": file.annotations, "categories": file.categories}
    path = MetadataCatalog.get(name).get("json_file")
    return _once(name, "content", partial(read_json, path) if path else partial(convert_to_coco_dict, name))


def _once(name: str, kind: str, load: Callable[[], _Content]) -> _Content:
    """Return what `load` returned when the dataset was registered last."""
    function = DatasetCatalog.data.get(name)
    known, content = _LOADED.get((name, kind), (None, b""))
    if known is not function or not content:
        content = pickle.dumps(load())
        _LOADED[name, kind] = function, content
    return pickle.loads(content)
