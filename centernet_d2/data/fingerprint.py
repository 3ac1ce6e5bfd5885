"""Fingerprint of a dataset, which detects changes before a resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import PurePath

import numpy as np
import torch
from torch import Tensor

from ..structures.types import DatasetDict

__all__ = ["compare", "fingerprint"]


def fingerprint(dicts: Iterable[DatasetDict]) -> Tensor:
    """Return the (N,) hashes of images and their annotations.

    A hash includes the file name without folder, the size and all annotations, but no pixels.
    """
    return torch.tensor([_hash(image) for image in dicts], dtype=torch.int64)


def _hash(image: DatasetDict) -> int:
    objects = [
        [(key, _plain(value)) for key, value in sorted(annotation.items())]
        for annotation in image.get("annotations", ())
    ]
    content = (PurePath(image.get("file_name", "")).name, image.get("height"), image.get("width"), objects)
    digest = hashlib.blake2b(repr(content).encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _plain(value: object) -> object:
    """Return numbers and arrays of numbers as floats, other values as text."""
    try:
        return np.asarray(value, dtype=np.float64).tolist()
    except (TypeError, ValueError):
        return repr(value)


def compare(old: Tensor, new: Tensor) -> str:
    """Return the difference of two fingerprints; "" if they are equal."""
    if torch.equal(old, new):
        return ""
    removed, added = int((~torch.isin(old, new)).sum()), int((~torch.isin(new, old)).sum())
    if removed or added or len(old) != len(new):
        return (
            f"{added} of {len(new)} images are new or have other annotations, and {removed} of the previous {len(old)} "
            "are missing or have other annotations"
        )
    return f"the order of its {len(new)} images has changed"
