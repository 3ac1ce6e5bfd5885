"""Annotations of registered datasets, loaded once per process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict

from ..readers.coco import read_json
from ..structures.types import DatasetDict
from .coco import CocoDataset

__all__ = ["load_coco_content", "load_dataset"]

_Content = TypeVar("_Content")

# (name, kind) -> registered function and loaded content. Pickled, so that every caller gets a separate copy.
_LOADED: dict[tuple[str, str], tuple[object, bytes]] = {}


def load_dataset(name: str) -> list[DatasetDict]:
    """Return the images of a registered dataset.

    NumPy numbers, boxes and keypoints become Python numbers and lists, which all evaluations require. The registered
    function is called once per process.

    Raises:
        KeyError: no dataset is registered under this name.
    """
    function = DatasetCatalog.data.get(name)
    if isinstance(function, CocoDataset):
        return function()
    return _once(name, "images", lambda: _without_numpy(DatasetCatalog.get(name)))


def load_coco_content(name: str) -> dict[str, Any]:
    """Return the content of the COCO file of a dataset.

    The images of a dataset without a COCO file are converted.
    """
    function = DatasetCatalog.data.get(name)
    if isinstance(function, CocoDataset):
        file = function.read()
        return {"images": file.images, "annotations": file.annotations, "categories": file.categories}
    path = MetadataCatalog.get(name).get("json_file")
    return _once(
        name, "content", partial(read_json, path) if path else lambda: _without_numpy(convert_to_coco_dict(name))
    )


def _without_numpy(value: Any, key: object = None) -> Any:
    """Convert NumPy numbers, and the arrays of boxes and keypoints, in nested lists and dicts."""
    if isinstance(value, dict):
        return {own: _without_numpy(part, own) for own, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_numpy(part, key) for part in value]
    if isinstance(value, np.ndarray) and key in ("bbox", "keypoints"):
        return value.ravel().tolist()
    return value.item() if isinstance(value, np.generic) else value


def _once(name: str, kind: str, load: Callable[[], _Content]) -> _Content:
    """Return the cached result of `load`; call it again after the dataset was registered again."""
    function = DatasetCatalog.data.get(name)
    known, content = _LOADED.get((name, kind), (None, b""))
    if known is not function or not content:
        content = pickle.dumps(load())
        _LOADED[name, kind] = function, content
    return pickle.loads(content)
