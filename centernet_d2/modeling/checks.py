"""Validation of heads, training inputs and network output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..structures.types import DatasetDict, Fields, Maps
from ..utils.validation import ArgumentError
from .heads.point_head import PointHead

__all__ = ["check_classes", "check_fields", "check_finite", "check_heads"]

# Larger values may overflow in the transform to pixels of the image.
_INFINITE = 1e30


def check_heads(heads: Sequence[tuple[str, PointHead]]) -> None:
    """Check that the heads are complete and do not conflict.

    Raises:
        ValueError: if a required field is missing, two heads have the same output, or no head predicts a center
            heatmap.
    """
    produced: dict[str, set[str]] = {"maps": set(), "decoded fields": set(), "fields": set(), "property": set()}
    for name, head in heads:
        if missing := set(head.requires) - produced["decoded fields"]:
            raise _heads_error(heads, f"{name} requires {', '.join(sorted(missing))}, which no earlier head provides")
        own = {
            "maps": set(head.maps),
            "decoded fields": set(head.provides),
            "fields": set(head.prop.fields),
            "property": {head.prop.name, head.prop.node} - {""},
        }
        for kind, names in own.items():
            if duplicates := produced[kind] & names:
                raise _heads_error(
                    heads, f"an earlier head already has the {kind} {', '.join(sorted(duplicates))} of {name}"
                )
            produced[kind] |= names
    if "heatmap" not in produced["maps"]:
        raise _heads_error(heads, "no head predicts the center heatmap: add CenterHead")


def _heads_error(heads: Sequence[tuple[str, PointHead]], problem: str) -> ArgumentError:
    return ArgumentError("heads", f"is [{', '.join(name for name, _ in heads)}], but {problem}")


def check_fields(name: str, head: PointHead, produced: Mapping[str, object]) -> None:
    """Check that a head produced exactly the fields declared by its property.

    Raises:
        ValueError: if fields are missing or undeclared.
    """
    if undeclared := produced.keys() - set(head.prop.fields):
        raise ValueError(
            f"{name} produced {', '.join(sorted(undeclared))}, which its property does not declare in 'fields'"
        )
    if missing := set(head.prop.fields) - produced.keys():
        raise ValueError(
            f"{name} did not produce {', '.join(sorted(missing))}, which its property declares in 'fields'"
        )


def check_classes(record: DatasetDict, num_classes: int) -> None:
    """Validate the classes of a training image.

    Classes on a GPU are not checked, because that would synchronize.

    Raises:
        ValueError: if the class of an object is out of range; the message names the image.
    """
    instances = record["instances"]
    classes = instances.gt_classes
    if classes.device.type != "cpu" or not len(classes):
        return
    # Regions to ignore for all classes have class -1.
    lowest = -instances.gt_ignore.to(classes) if instances.has("gt_ignore") else 0
    unknown = classes[(classes < lowest) | (classes >= num_classes)]
    if len(unknown):
        raise ValueError(
            f"{record.get('file_name', 'an image')} has an object of class {int(unknown[0])}, but the model has "
            f"classes 0..{num_classes - 1}: set MODEL.CENTERNET.NUM_CLASSES to the number of classes of the dataset"
        )


def check_finite(maps: Maps, fields: Fields, detected: Tensor) -> None:
    """Check that maps and detections are finite.

    Args:
        maps: activated maps.
        fields: decoded (B, K, ...) fields.
        detected: (B, K) bool, True for peaks that are detections.

    Raises:
        FloatingPointError: if a map contains NaN, or a detection has an infinite value.
    """
    # NaN scores do not exceed the threshold, so detections would be dropped silently without this check.
    invalid = [tensor.isnan().any() for tensor in maps.values()]
    for tensor in fields.values():
        finite = (tensor.float().abs() < _INFINITE)[..., None].flatten(2).all(dim=2)
        invalid.append((detected & ~finite).any())
    flags = torch.stack(invalid)
    if flags.any():
        # A field and a map may have the same name.
        names = dict.fromkeys(name for name, bad in zip([*maps, *fields], flags.tolist(), strict=True) if bad)
        raise FloatingPointError(
            f"network output contains NaN or Inf ({', '.join(names)}). Use other weights, or float32 instead of "
            "half precision"
        )
