"""Layout detection: find the splits and classes of a folder or file of labeled images."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from . import coco, kitti, labelme, voc, yolo
from . import csv as table
from .records import FoundData, LabeledImage, LabeledObject, Reading, Report, Split, unique
from .splits import check_overlap, settle
from .tree import Tree

__all__ = ["find_data", "find_lists"]

# Labels may round up to the next pixel; only what reaches out further is cut.
_TOLERANCE = 1.0


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


# Name for people to choose with -> reader, in the order of preference of layouts that agree.
LAYOUTS = {"coco": coco, "voc": voc, "yolo": yolo, "labelme": labelme, "csv": table, "kitti": kitti}

_PIXELS = 2.0


def read_layout(path: str | Path, layout: str | None, report: Report) -> Reading:
    """Read a folder or file; its boxes are checked, its splits are still as they are named.

    Args:
        path: a folder, or a COCO .json, a YOLO data.yaml or a .csv.
        layout: a key of LAYOUTS, or None to find out.
        report: takes what is counted.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: no layout, or several that disagree.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"the layout '{layout}' is unknown; known: {', '.join(LAYOUTS)}")
    if "://" in str(path):
        raise ValueError(f"{path} is a URL; fetch the data first, then name the folder")
    path = Path(os.path.abspath(os.path.expanduser(path)))
    if not path.exists():
        raise FileNotFoundError(f"the data {path} do not exist")
    if path.is_file():
        return _read_file(path, report)
    tree = Tree(path, report)
    names = [layout] if layout else list(LAYOUTS)
    found = {name: files for name in names if (files := LAYOUTS[name].find(tree))}
    if not found:
        raise ValueError(describe_unknown(tree, [LAYOUTS[name] for name in names]))
    readings = []
    for name, files in found.items():
        # Each reader counts for itself: only what is used is reported.
        own = Tree(path, Report()) if len(found) > 1 else tree
        readings.append((_finish(LAYOUTS[name].read(own, files), own), own))
    reading, own = _agreeing(readings, tree)
    if own is not tree:
        report.add(own.report)
    return reading


def _read_file(path: Path, report: Report) -> Reading:
    readers = {".json": coco, ".yaml": yolo, ".yml": yolo, ".csv": table}
    reader = readers.get(path.suffix.lower())
    if reader is coco and coco.json_kind(path) == "labelme":
        reader = None
    if reader is None:
        raise ValueError(f"{path} alone is no data set: name its folder, a COCO .json, a data.yaml or a .csv")
    tree = Tree(yolo.root_of(path) if reader is yolo else path.parent, report)
    if reader is not yolo and (path.parent.name.lower() in ("annotations", "labels") or not tree.images):
        tree = Tree(path.parent.parent, report)
    if reader is table and path not in table.find(tree):
        raise ValueError(f"{path}: {table.NEEDS}")
    labels = [label for label in yolo.find(tree) if label.suffix.lower() == ".txt"] if reader is yolo else []
    return _finish(reader.read(tree, [path, *labels]), tree)


def _finish(reading: Reading, tree: Tree) -> Reading:
    joint = {"trainval"} if {"train", "val"} <= set(reading.groups) else set()  # the union of both
    groups = {split: clean_images(images, tree) for split, images in reading.groups.items() if split not in joint}
    for split in tree.empty_splits():
        groups.setdefault(split, [])
    whole = {split: name for split, name in reading.lists.items() if len(groups[split]) == len(reading.groups[split])}
    return replace(reading, groups=groups, lists=whole)


def describe_unknown(tree: Tree, readers: Sequence[ModuleType]) -> str:
    """What was looked for in a folder, and what is there."""
    kinds: dict[str, int] = {}
    for file in tree.files:
        kinds[file.suffix.lower() or "no suffix"] = kinds.get(file.suffix.lower() or "no suffix", 0) + 1
    there = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1])[:8])
    names = sorted({file.relative_to(tree.root).parts[0] for file in tree.files})
    lines = [f"{tree.root} has no layout that is known. Looked for:"]
    lines += [f"  {reader.LAYOUT}: {reader.LOOKED_FOR}" for reader in readers]
    lines.append(f"Found: {there or 'no files'}" + (f" ({', '.join(names[:8])})" if names else ""))
    lines += [f"{tree.name(file)}: {table.NEEDS}" for file in table.headerless(tree)[:1]]
    broken = [file for file in tree.with_suffix(".json") if coco.json_kind(file) == "broken"]
    lines += [f"{tree.name(file)} is not a JSON file that can be read" for file in broken[:3]]
    return "\n".join(lines)


def _agreeing(readings: list[tuple[Reading, Tree]], tree: Tree) -> tuple[Reading, Tree]:
    """The reading to use of several: the one that names splits, if all say the same."""
    labeled = [pair for pair in readings if any(image.objects for image in pair[0].images)]
    if len(labeled) < 2:
        return (labeled or readings)[0]
    chosen = max(labeled, key=lambda pair: len(set(pair[0].groups) - {None}))
    for other in labeled:
        if other is chosen:
            continue
        difference = _difference(chosen[0], other[0])
        if difference:
            raise ValueError(
                f"{tree.root} has two layouts that disagree, {chosen[0].layout} and {other[0].layout}: {difference}. "
                "Name the file or sub-folder of the one to use"
            )
        chosen[1].report.note(f"{other[0].layout} labels are there too, and say the same as {chosen[0].layout}")
    return chosen


def _difference(first: Reading, second: Reading) -> str:
    """Where two readings differ by more than two pixels, or "" if they do not."""
    one, other = ({i.path: (split, i) for split, group in r.groups.items() for i in group} for r in (first, second))
    for path in sorted({*one, *other}):
        (split, image), (other_split, image_2) = (side.get(path, (None, LabeledImage(path))) for side in (one, other))
        if not _same_objects(image, image_2):
            counts = f"{len(image.objects)} and {len(image_2.objects)} objects"
            return f"{path.name} has {counts}" + (" that differ" if len(image.objects) == len(image_2.objects) else "")
        if None not in (split, other_split) and split != other_split:
            return f"{path.name} is in {split} and in {other_split}"
    return ""


def _same_objects(first: LabeledImage, second: LabeledImage) -> bool:
    left = list(second.objects)
    for thing in first.objects:
        for index, other in enumerate(left):
            near = all(abs(a - b) <= _PIXELS for a, b in zip(thing.box, other.box, strict=True))
            if near and thing.label == other.label:
                del left[index]
                break
        else:
            return False
    return not left


def clean_images(images: Sequence[LabeledImage], tree: Tree) -> list[LabeledImage]:
    """Images that can be read, with their upright size and the objects that are in them; the report counts the rest.

    Boxes that reach out of their image by more than a pixel are cut; those that are not finite, have no area or lie
    outside are left out. Images without objects stay.
    """
    tree.measure(image.path for image in images)
    cleaned = []
    for image in images:
        size, name = tree.sizes[image.path], tree.name(image.path)
        if size is None or 0 in size:
            tree.report.count("images that cannot be read, left out", name)
            continue
        if image.stated_size and image.stated_size != size:
            stated = "x".join(str(side) for side in image.stated_size)
            tree.report.count("images of another size than their labels say", f"{name} ({size[0]}x{size[1]}, {stated})")
        objects = [_clean_object(thing, size, thing.place or name, tree.report) for thing in image.objects]
        kept = tuple(thing for thing in objects if thing is not None)
        if not image.objects:
            tree.report.count("images without labels, kept as background", name)
        elif not kept:
            tree.report.count("images of whose labels none is left, kept as background", name)
        cleaned.append(replace(image, objects=kept, width=size[0], height=size[1]))
    return cleaned


def _clean_object(thing: LabeledObject, size: tuple[int, int], where: str, report: Report) -> LabeledObject | None:
    x1, y1, x2, y2 = thing.box
    if not all(math.isfinite(value) for value in thing.box):
        report.count("boxes that are not finite, left out", where)
        return None
    if x2 <= x1 or y2 <= y1:
        report.count("boxes without area, left out", where)
        return None
    if x1 >= size[0] or y1 >= size[1] or x2 <= 0 or y2 <= 0:
        report.count("boxes outside their image, left out", where)
        return None
    if min(x1, y1) < -_TOLERANCE or x2 > size[0] + _TOLERANCE or y2 > size[1] + _TOLERANCE:
        report.count("boxes partly outside their image, cut", where)
        box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1])))
        thing = replace(thing, box=box)
    if thing.keypoints is not None and not all(math.isfinite(value) for value in thing.keypoints):
        report.count("objects whose keypoints are not finite, kept without them", where)
        thing = replace(thing, keypoints=(0.0,) * len(thing.keypoints))
    return thing


def count_classes(splits: Mapping[str, Sequence[LabeledImage]], classes: Sequence[str], report: Report) -> None:
    """Count classes without objects, at all or in train only, and those that differ only in case."""
    used = {name: {thing.label for image in images for thing in image.objects} for name, images in splits.items()}
    everywhere = set().union(*used.values())
    first: dict[str, str] = {}
    for name in classes:
        if name not in everywhere:
            report.count("classes without objects", name)
        elif name not in used["train"]:
            report.count("classes without objects in train", name)
        other = first.setdefault(name.casefold(), name)
        if other != name:
            report.count("pairs of classes that differ only in case", f"{other} and {name}")
