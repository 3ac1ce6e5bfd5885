"""Finds the splits and classes of a folder or file of labelled images."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import kitti, voc
from .clean import clean_images, count_classes
from .files import Tree
from .layouts import describe_unknown, read_layout
from .records import FoundData, LabeledImage, Reading, Report, Split, unique
from .splits import check_overlap, settle

__all__ = ["find_data", "find_lists"]


def find_data(
    path: str | Path,
    val: str | Path | None = None,
    *,
    seed: int = 0,
    val_share: float = 0.2,
    layout: str | None = None,
    classes: Sequence[str] | None = None,
) -> FoundData:
    """Read a data set of any known layout.

    Args:
        path: a folder, or a COCO .json, a YOLO data.yaml or a .csv, whose images are near it.
        val: another one to validate on, in place of any in `path`.
        seed, val_share: of the split that is drawn if the data name none.
        layout: a key of LAYOUTS, where a folder has several; default: found by looking.
        classes: names to keep, in this order; default: all.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: no layout, or several that disagree; a split is empty or shares images with train; a class of
            `classes` is not there; the data are damaged beyond single rows. The message names it.
    """
    if not 0 < val_share < 1:
        raise ValueError(f"the share of images to validate on is {val_share}, not between 0 and 1")
    report = Report()
    reading = read_layout(path, layout, report)
    roots = {"train": reading.root, "val": reading.root, "test": reading.root}
    if val is None:
        settled, rule = settle(reading.groups, reading.root, share=val_share, seed=seed, report=report)
    else:
        other = read_layout(val, layout, report)
        settled, rule = _pick_two(reading, other, report)
        roots["val"] = other.root
        reading = _with_classes_of(reading, other)
    if classes is not None:
        reading, settled = _choose_classes(reading, settled, classes, report)
    _check_objects(settled, roots, report)
    for name in sorted(settled.keys() - {"train"}):
        check_overlap(settled["train"], settled[name], name, report)
    count_classes(settled, reading.classes, report)
    splits = {}
    for name, images in settled.items():
        source = other if val is not None and name == "val" else reading
        listed = source.lists.get(name, "") if images is source.groups.get(name) else ""
        splits[name] = Split(name, tuple(images), roots[name], listed)
    names, ids = tuple(reading.classes), tuple(reading.class_ids)
    return FoundData(reading.layout, Path(path), splits, names, ids, reading.keypoints, rule, report)


def find_lists(path: str | Path, lists: Sequence[str] | None = None, classes: Sequence[str] | None = None) -> FoundData:
    """Read a Pascal VOC folder with every image list as a split of its own, whatever they have in common.

    Args:
        path: the folder.
        lists: names of files in ``ImageSets/Main``; default: all but those per class, such as cat_train.
        classes: names to keep, in this order; default: all, sorted.

    Raises:
        FileNotFoundError: there is no such folder or list.
        ValueError: it is no Pascal VOC folder, a list has no objects, or a class is not there.
    """
    if not Path(path).is_dir():
        raise FileNotFoundError(f"the folder {path} does not exist")
    report = Report()
    tree = Tree(Path(path), report)
    files = voc.find(tree)
    if not files:
        raise ValueError(describe_unknown(tree, [voc]))
    folder = tree.root / "ImageSets" / "Main"
    names = lists or sorted(file.stem for file in folder.glob("*.txt") if "_" not in file.stem)
    if not names:
        raise FileNotFoundError(f"there are no image lists in {folder}")
    reading = voc.read(tree, files, names)
    chosen = {name: clean_images(images, tree) for name, images in reading.groups.items() if name}
    if classes is not None:
        reading, chosen = _choose_classes(reading, chosen, classes, report)
    inner = tree.root / "JPEGImages"
    everything = [image.path for images in chosen.values() for image in images]
    root = inner if all(image.is_relative_to(inner) for image in everything) else tree.root
    _check_objects(chosen, dict.fromkeys(chosen, tree.root), report)
    splits = {name: Split(name, tuple(images), root) for name, images in chosen.items()}
    ids = tuple(reading.class_ids)
    return FoundData(reading.layout, Path(path), splits, tuple(reading.classes), ids, None, "splits: the lists", report)


def _pick_two(reading: Reading, other: Reading, report: Report) -> tuple[dict[str, list[LabeledImage]], str]:
    """Train of one reading, val of another."""
    settled = {}
    for name, source, order in (("train", reading, ("train", "trainval", None)), ("val", other, ("val", "test", None))):
        groups = {split: images for split, images in source.groups.items() if images}
        chosen = next((split for split in order if split in groups), next(iter(groups)) if len(groups) == 1 else None)
        if chosen not in groups:
            raise ValueError(
                f"{source.root} has no split for {name}, only: {', '.join(map(str, groups)) or 'no images'}"
            )
        unused = [str(split) for split in groups if split not in (chosen, "trainval")]
        if unused:
            report.note(f"of {source.root}, {', '.join(unused)} is not used")
        settled[name] = groups[chosen]
    return settled, "splits: as they were named, train and val"


def _with_classes_of(reading: Reading, other: Reading) -> Reading:
    """A reading with the classes of another one added."""
    if (reading.layout == kitti.LAYOUT) != (other.layout == kitti.LAYOUT):
        raise ValueError(f"{reading.root} is {reading.layout}, but {other.root} is {other.layout}: they do not mix")
    points, others = ((r.keypoints.names if r.keypoints else ()) for r in (reading, other))
    if points != others:
        raise ValueError(
            f"the keypoints of {reading.root} are {', '.join(points) or 'none'}, but those of {other.root} are "
            f"{', '.join(others) or 'none'}"
        )
    names, ids = unique([*reading.classes, *other.classes]), list(reading.class_ids)
    while len(ids) < len(names):
        ids.append(max(ids) + 1)
    return replace(reading, classes=names, class_ids=ids)


def _choose_classes(
    reading: Reading, settled: dict[str, list[LabeledImage]], classes: Sequence[str], report: Report
) -> tuple[Reading, dict[str, list[LabeledImage]]]:
    if reading.layout == kitti.LAYOUT:
        raise ValueError(f"the classes of KITTI are {', '.join(kitti.CLASSES)}; others cannot be chosen")
    by_case = {name.casefold(): name for name in reading.classes}
    for name in classes:
        if name not in reading.classes:
            close = by_case.get(name.casefold()) or next(
                iter(difflib.get_close_matches(name, reading.classes, 1)), None
            )
            hint = f"; do you mean {close}?" if close else ""
            raise ValueError(f"there is no class {name} in {reading.root}, only {', '.join(reading.classes)}{hint}")
    if len(set(classes)) != len(classes):
        raise ValueError(f"a class is named twice: {', '.join(classes)}")
    chosen: dict[str, list[LabeledImage]] = {}
    for split, images in settled.items():
        chosen[split] = []
        for image in images:
            kept = tuple(thing for thing in image.objects if thing.label in classes)
            for thing in image.objects:
                if thing.label not in classes:
                    report.count(f"objects of class {thing.label}, left out", thing.place)
            chosen[split].append(replace(image, objects=kept))
    # Category ids are sorted for training, so an order of one's own needs new ones.
    return replace(reading, classes=list(classes), class_ids=list(range(1, len(classes) + 1))), chosen


def _check_objects(settled: dict[str, list[LabeledImage]], roots: dict[str, Path], report: Report) -> None:
    """
    Raises:
        ValueError: a split is empty; the report says what was left out.
    """
    for name, images in settled.items():
        if not any(image.objects for image in images):
            where = f"the split {name} of {roots[name]}"
            raise ValueError(f"{where} is empty: {len(images)} images, no objects{report.reasons()}")
