"""Which images train, validate and test: by the names of lists, files and folders, else by lot."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from .records import LabeledImage, Report

__all__ = ["check_overlap", "seeded_split", "settle", "split_of_name", "split_of_path"]

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    "trainval": "trainval",
}
_WORDS.update({f"{word}set": split for word, split in _WORDS.items()})
# What stands beside the word in the name of a folder; train_station is no split.
_BESIDE = {"image", "images", "img", "imgs", "label", "labels", "annotation", "annotations", "set", "data", "split"}


def split_of_name(name: str) -> str | None:
    """The split that the name of a list or annotation file stands for: instances_val2017 -> val; None for none."""
    found = {_WORDS[word] for word in re.findall(r"[a-z]+", name.lower()) if word in _WORDS}
    if "test" in found:  # COCO's test-dev
        return "test"
    if {"train", "val"} <= found:
        return "trainval"
    return found.pop() if found else None


def split_of_path(folder: str) -> str | None:
    """The split that the innermost folder with such a name stands for: images/train/cats -> train."""
    for part in reversed(folder.split("/")):
        words = re.findall(r"[a-z]+", part.lower())
        if sum(word in _WORDS for word in words) == 1 and all(word in _WORDS or word in _BESIDE for word in words):
            return split_of_name(part)
    return None


def _source(path: Path) -> str:
    """Roboflow names the augmented copies of an image a_jpg.rf.1f2e.jpg: they must not be torn apart."""
    return f"{path.parent}/{path.name.split('.rf.')[0]}"


def seeded_split(
    images: Sequence[LabeledImage], share: float, seed: int, root: Path
) -> tuple[list[LabeledImage], list[LabeledImage]]:
    """Draw lots: (train, val). The same images below `root`, share and seed give the same split.

    Images with and without objects are drawn apart, so that both splits have some of either.

    Raises:
        ValueError: there are too few images for two splits.
    """
    keys = {image.path: _source(Path(os.path.relpath(image.path, root))) for image in images}
    labeled = sorted({keys[image.path] for image in images if image.objects})
    empty = sorted(set(keys.values()) - set(labeled))
    if len(labeled) < 2:
        raise ValueError(
            f"{len(labeled)} labeled image(s) in {root} cannot be split in train and val: name others to use"
        )
    rng = np.random.default_rng(seed)
    count = min(max(1, round(share * len(labeled))), len(labeled) - 1)
    chosen = {labeled[index] for index in rng.permutation(len(labeled))[:count]}
    chosen |= {empty[index] for index in rng.permutation(len(empty))[: round(share * len(empty))]}
    train = [image for image in images if keys[image.path] not in chosen]
    return train, [image for image in images if keys[image.path] in chosen]


def settle(
    groups: dict[str | None, list[LabeledImage]], root: Path, *, share: float, seed: int, report: Report
) -> tuple[dict[str, list[LabeledImage]], str]:
    """Groups by name -> train, val and maybe test, and a sentence on where they come from.

    Images in no split are left out if others are in one. Without val, it is drawn from train (or trainval, or all).

    Raises:
        ValueError: nothing is left to train on, or a split that has a name is empty.
    """
    for name, images in groups.items():
        if name is not None and not images:
            raise ValueError(f"the split {name} in {root} is empty{report.reasons()}")
    groups = {name: images for name, images in groups.items() if images}
    if "test" in groups and len(groups) > 1 and not any(image.objects for image in groups["test"]):
        report.note(f"test is left out: not one of its {len(groups.pop('test'))} images has labels")
    named: list[str | None] = [name for name in ("train", "trainval") if name in groups]
    if not named and len(groups) == 1:
        named = list(groups)
    elif not named and None in groups:
        named = [None]
    if not named:
        there = ", ".join(str(name) for name in groups) or "no images that labels name"
        raise ValueError(f"there is no split to train on in {root}, only: {there}{report.reasons()}")
    if None in groups and named != [None]:
        for image in groups[None]:
            report.count("images in no split, left out", os.path.relpath(image.path, root))
    test = {"test": groups["test"]} if "test" in groups and named != ["test"] else {}
    if "val" in groups and named != ["val"]:
        return {"train": groups[named[0]], "val": groups["val"], **test}, "splits: as the data name them"
    train, val = seeded_split(groups[named[0]], share, seed, root)
    source = f"the {len(train) + len(val)} images" + (f" of {named[0]}" if named[0] else "")
    return {"train": train, "val": val, **test}, f"splits: {len(val)} of {source} drawn for val (seed {seed})"


def check_overlap(train: Sequence[LabeledImage], others: Sequence[LabeledImage], name: str, report: Report) -> None:
    """An image in two splits makes the figures of one a lie.

    The same file, or a copy under the same name, is refused; copies under other names are counted.

    Raises:
        ValueError: an image is in both; names up to three.
    """
    seen = {os.path.realpath(image.path): image.path for image in train}
    sizes: dict[int, list[Path]] = {}
    for image in train:
        sizes.setdefault(os.path.getsize(image.path), []).append(image.path)
    digest = cache(lambda path: hashlib.sha256(path.read_bytes()).digest())
    both = []
    for image in others:
        if os.path.realpath(image.path) in seen:
            both.append(str(image.path))
            continue
        alike = sizes.get(os.path.getsize(image.path), [])
        copies = [path for path in alike if digest(path) == digest(image.path)]
        same_name = [path for path in copies if path.name == image.path.name]
        if same_name:
            both.append(f"{image.path} (a copy of {same_name[0]})")
        elif copies:
            report.count(f"images of {name} that are copies of images of train", image.path.name)
    if both:
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        raise ValueError(f"in train and in {name}: {', '.join(both[:3])}{more}; each belongs in one split")
