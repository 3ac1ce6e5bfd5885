"""One list of classes for data sets that label different ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..structures.types import DatasetDict

__all__ = ["match_classes", "translate"]


def match_classes(name: str, own: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Where the classes of a data set are in the list of the model.

    Args:
        name: of the data set.
        own: names of its classes.
        classes: names of the model's, in order.

    Returns:
        For each class of the data set the number of that of the model.

    Raises:
        ValueError: a class of the data set is none of the model's.
    """
    if unknown := [one for one in own if one not in classes]:
        raise ValueError(
            f"the data set '{name}' has the classes {', '.join(unknown)}, which MODEL.CENTERNET.CLASS_NAMES "
            f"({', '.join(classes)}) does not have: add them there"
        )
    return [list(classes).index(one) for one in own]


def translate(dicts: Sequence[DatasetDict], numbers: Sequence[int], num_classes: int) -> list[DatasetDict]:
    """The images of a data set with the model's classes, and with what is labelled: ``labelled_classes``, (C,) bool.

    Args:
        dicts: in Detectron2's format; not changed. Categories below 0, which are no class, stay.
        numbers: from :func:`match_classes`.
        num_classes: of the model.
    """
    labelled = torch.zeros(num_classes, dtype=torch.bool)
    labelled[list(numbers)] = True
    return [
        {
            **image,
            "labelled_classes": labelled,
            "annotations": [
                x if x["category_id"] < 0 else {**x, "category_id": numbers[x["category_id"]]}
                for x in image.get("annotations", ())
            ],
        }
        for image in dicts
    ]
