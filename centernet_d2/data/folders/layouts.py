"""Which layout a folder or file has, and what that layout's reader makes of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from . import coco, kitti, labelme, table, voc, yolo
from .clean import clean_images
from .files import Tree
from .records import LabeledImage, Reading, Report

__all__ = ["LAYOUTS", "describe_unknown", "read_layout"]

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
