"""Merging of datasets that label different classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..structures.types import DatasetDict

__all__ = ["match_classes", "translate"]


def match_classes(name: str, own: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Match the classes of a dataset with the classes of the model by name.

    Args:
        name: name of the dataset.
        own: class names of the dataset.
        classes: class names of the model, in order.

    Returns:
        Index of the model's class for every class of the dataset.

    Raises:
        ValueError: the model does not have a class of the dataset.
    """
    numbers = {one: number for number, one in enumerate(classes)}
    if unknown := [one for one in own if one not in numbers]:
        raise ValueError(
            f"the dataset '{name}' has the classes {', '.join(unknown)}, which MODEL.CENTERNET.CLASS_NAMES "
            f"({', '.join(classes)}) does not contain; add them"
        )
    return [numbers[one] for one in own]


def translate(dicts: Sequence[DatasetDict], numbers: Sequence[int], num_classes: int) -> list[DatasetDict]:
    """Convert the classes of a dataset to the classes of the model.

    Every image gets ``labeled_classes``, a (C,) bool tensor that marks the classes that the dataset labels.

    Args:
        dicts: images in Detectron2's format, not modified. Special categories below 0 are unchanged.
        numbers: output of :func:`match_classes`.
        num_classes: number of classes of the model.
    """
    labeled = torch.zeros(num_classes, dtype=torch.bool)
    labeled[list(numbers)] = True
    return [
        {
            **image,
            "labeled_classes": labeled,
            "annotations": [
                x if x["category_id"] < 0 else {**x, "category_id": numbers[x["category_id"]]}
                for x in image.get("annotations", ())
            ],
        }
        for image in dicts
    ]
