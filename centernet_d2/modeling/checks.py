"""Validation of heads, training inputs and network output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..structures.types import DatasetDict, Fields, Maps
from ..utils.validation import ArgumentError
from .heads.point_head import PointHead

__all__ = ["check_classes", "check_fields", "check_finite", "check_heads"]

# Larger than any valid value; the transform to pixels of the image would overflow.
_INFINITE = 1e30


def check_heads(heads: Sequence[tuple[str, PointHead]]) -> None:
    """Check that each head finds the fields that it requires, and that no two heads make the same thing.

    Raises:
        ValueError: a required field is missing, two heads conflict, or there is no heatmap of centers.
    """
    made: dict[str, set[str]] = {"maps": set(), "decoded fields": set(), "fields": set(), "property": set()}
    for name, head in heads:
        if missing := set(head.requires) - made["decoded fields"]:
            raise _heads_error(heads, f"{name} needs {', '.join(sorted(missing))} from a head listed before it")
        own = {
            "maps": set(head.maps),
            "decoded fields": set(head.provides),
            "fields": set(head.prop.fields),
            "property": {head.prop.name, head.prop.node} - {""},
        }
        for kind, names in own.items():
            if twice := made[kind] & names:
                raise _heads_error(
                    heads, f"an earlier head has the {kind} {', '.join(sorted(twice))} of {name} already"
                )
            made[kind] |= names
    if "heatmap" not in made["maps"]:
        raise _heads_error(heads, "none predicts the heatmap of the centers; CenterHead does")


def _heads_error(heads: Sequence[tuple[str, PointHead]], problem: str) -> ArgumentError:
    return ArgumentError("heads", f"is [{', '.join(name for name, _ in heads)}], but {problem}")


def check_fields(name: str, head: PointHead, made: Mapping[str, object]) -> None:
    """Raise a ValueError unless a head made exactly the fields that its property declares."""
    if undeclared := made.keys() - set(head.prop.fields):
        raise ValueError(f"{name} makes {', '.join(sorted(undeclared))}, which its property does not name")
    if missing := set(head.prop.fields) - made.keys():
        raise ValueError(f"{name} does not make {', '.join(sorted(missing))}, which its property names")


def check_classes(record: DatasetDict, num_classes: int) -> None:
    """Validate the classes of a training image if they are on the CPU; on a GPU, this would synchronize.

    Raises:
        ValueError: an object has a class that the model does not have; names the image.
    """
    instances = record["instances"]
    classes = instances.gt_classes
    if classes.device.type != "cpu" or not len(classes):
        return
    # Regions that are ignored for all classes have -1.
    lowest = -instances.gt_ignore.to(classes) if instances.has("gt_ignore") else 0
    unknown = classes[(classes < lowest) | (classes >= num_classes)]
    if len(unknown):
        raise ValueError(
            f"{record.get('file_name', 'an image')} has an object of class {int(unknown[0])}, but the model knows "
            f"0..{num_classes - 1}: set MODEL.CENTERNET.NUM_CLASSES to the number of classes of the dataset"
        )


def check_finite(maps: Maps, fields: Fields, found: Tensor) -> None:
    """Raise a FloatingPointError for NaN in a map, or an infinite (B, K, ...) field where `found` (B, K)."""
    # A NaN score never exceeds a threshold: without this check, there would silently be no detections.
    broken = [tensor.isnan().any() for tensor in maps.values()]
    for tensor in fields.values():
        finite = (tensor.float().abs() < _INFINITE)[..., None].flatten(2).all(dim=2)
        broken.append((found & ~finite).any())
    wrong = torch.stack(broken)
    if wrong.any():
        # A field may have the name of its map.
        names = dict.fromkeys(name for name, bad in zip([*maps, *fields], wrong.tolist(), strict=True) if bad)
        raise FloatingPointError(
            f"network output contains NaN or Inf ({', '.join(names)}). Use other weights, or float32 instead of "
            "half precision"
        )
