"""Assignment of images to splits, by names of files and folders or at random."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from .records import LabeledImage, Report

__all__ = ["assign_splits", "check_overlap", "seeded_split", "split_of_name", "split_of_path"]

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    "trainval": "trainval",
}
_WORDS.update({f"{word}set": split for word, split in _WORDS.items()})
# Other words that may be part of the folder name of a split; train_station is not a split.
_NEUTRAL_WORDS = {
    "image",
    "images",
    "img",
    "imgs",
    "label",
    "labels",
    "annotation",
    "annotations",
    "set",
    "data",
    "split",
}


def split_of_name(name: str) -> str | None:
    """Return the split in the name of a list or annotation file, or None.

    Example: instances_val2017 -> val.
    """
    splits = {_WORDS[word] for word in re.findall(r"[a-z]+", name.lower()) if word in _WORDS}
    if "test" in splits:  # For COCO's test-dev.
        return "test"
    if {"train", "val"} <= splits:
        return "trainval"
    return splits.pop() if splits else None


def split_of_path(folder: str) -> str | None:
    """Return the split of the innermost folder that is named after a split, or None.

    Example: images/train/cats -> train.
    """
    for part in reversed(folder.split("/")):
        words = re.findall(r"[a-z]+", part.lower())
        if sum(word in _WORDS for word in words) == 1 and all(
            word in _WORDS or word in _NEUTRAL_WORDS for word in words
        ):
            return split_of_name(part)
    return None


def _source(path: Path) -> str:
    """Return a key of the source image; Roboflow's augmented copies, such as a_jpg.rf.1f2e.jpg, share one key."""
    return f"{path.parent}/{path.name.split('.rf.')[0]}"


def seeded_split(
    images: Sequence[LabeledImage], share: float, seed: int, root: Path, report: Report
) -> tuple[list[LabeledImage], list[LabeledImage]]:
    """Split images at random into (train, val).

    The split depends only on the image names relative to `root`, the share and the seed. Images with and without
    objects are sampled separately, so that both splits contain images of both kinds.

    Raises:
        ValueError: there are too few labeled images for two splits; the message contains the report.
    """
    keys = {image.path: _source(Path(os.path.relpath(image.path, root))) for image in images}
    labeled = sorted({keys[image.path] for image in images if image.objects})
    empty = sorted(set(keys.values()) - set(labeled))
    if len(labeled) < 2:
        raise ValueError(
            f"{root} has only {len(labeled)} labeled image(s), too few to split into train and val; add images, or "
            f"pass a validation dataset{report.indented()}"
        )
    rng = np.random.default_rng(seed)
    count = min(max(1, round(share * len(labeled))), len(labeled) - 1)
    chosen = {labeled[index] for index in rng.permutation(len(labeled))[:count]}
    chosen |= {empty[index] for index in rng.permutation(len(empty))[: round(share * len(empty))]}
    train = [image for image in images if keys[image.path] not in chosen]
    return train, [image for image in images if keys[image.path] in chosen]


def assign_splits(
    groups: dict[str | None, list[LabeledImage]], root: Path, *, share: float, seed: int, report: Report
) -> tuple[dict[str, list[LabeledImage]], str]:
    """Convert named groups to train, val and, if present, test.

    If the dataset defines splits, images in no split are skipped. A missing val is sampled from train, trainval or all
    images.

    Returns:
        Split -> images, and a message about the origin of the splits.

    Raises:
        ValueError: there is no split for training, or a named split is empty.
    """
    for name, images in groups.items():
        if name == "test" and not images:
            report.note("test is skipped: it contains no images")
        elif name is not None and not images:
            raise ValueError(f"the split {name} in {root} is empty{report.indented()}")
    groups = {name: images for name, images in groups.items() if images}
    if "test" in groups and len(groups) > 1 and not any(image.objects for image in groups["test"]):
        report.note(f"test is skipped: none of its {len(groups.pop('test'))} images has labels")
    named: list[str | None] = [name for name in ("train", "trainval") if name in groups]
    if not named and len(groups) == 1:
        named = list(groups)
    elif not named and None in groups:
        named = [None]
    if not named:
        names = ", ".join(str(name) for name in groups) or "no labeled images"
        raise ValueError(f"{root} has no split for training; it contains: {names}{report.indented()}")
    if None in groups and named != [None]:
        members = {image.path for name, images in groups.items() if name is not None for image in images}
        for image in groups[None]:
            reason = "images in no split, skipped"
            if image.path in members:
                reason = "images listed twice, with and without a split (the labels of the split are used)"
            report.count(reason, os.path.relpath(image.path, root))
    test = {"test": groups["test"]} if "test" in groups and named != ["test"] else {}
    if "val" in groups and named != ["val"]:
        return {"train": groups[named[0]], "val": groups["val"], **test}, "splits: defined by the dataset"
    train, val = seeded_split(groups[named[0]], share, seed, root, report)
    source = f"the {len(train) + len(val)} images" + (f" of {named[0]}" if named[0] else "")
    return {"train": train, "val": val, **test}, f"splits: {len(val)} of {source} sampled for val (seed {seed})"


def check_overlap(train: Sequence[LabeledImage], others: Sequence[LabeledImage], name: str, report: Report) -> None:
    """Reject images that appear in more than one split.

    Copies with another file name are only counted.

    Raises:
        ValueError: a file, or a copy with the same name, is in both splits; the message contains up to three paths.
    """
    seen = {os.path.realpath(image.path) for image in train}
    sizes: dict[int, list[Path]] = {}
    for image in train:
        sizes.setdefault(os.path.getsize(image.path), []).append(image.path)
    names_of_size = cache(lambda size: _names_by_digest(sizes.get(size, ())))
    both = []
    for image in others:
        if os.path.realpath(image.path) in seen:
            both.append(str(image.path))
            continue
        alike = names_of_size(os.path.getsize(image.path))
        copies = alike.get(_digest(image.path), {}) if alike else {}
        if image.path.name in copies:
            both.append(f"{image.path} (a copy of {copies[image.path.name]})")
        elif copies:
            report.count(f"images of {name} that are copies of train images", image.path.name)
    if both:
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        raise ValueError(f"images in both train and {name}: {', '.join(both[:3])}{more}. Remove them from one split")


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _names_by_digest(paths: Sequence[Path]) -> dict[bytes, dict[str, Path]]:
    """Return digest of the content -> file name -> first path."""
    names: dict[bytes, dict[str, Path]] = {}
    for path in paths:
        names.setdefault(_digest(path), {}).setdefault(path.name, path)
    return names
