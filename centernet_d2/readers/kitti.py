"""Finds KITTI's folders and lists; the data set itself is registered as it is, with its 3-D boxes."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from .records import LabeledImage, LabeledObject, Reading
from .splits import split_of_name
from .tree import Tree, read_text

__all__ = ["CLASSES", "LAYOUT", "LOOKED_FOR", "find", "read"]

LAYOUT = "KITTI"
LOOKED_FOR = "a folder training with image_2, label_2 and calib"
CLASSES = ["Pedestrian", "Car", "Cyclist"]

_FIELDS = 15
_SUFFIXES = (".png", ".jpg")


def find(tree: Tree) -> list[Path]:
    """The label files of a folder."""
    return [path for path in tree.with_suffix(".txt") if path.parent.name == "label_2"]


def read(tree: Tree, files: list[Path]) -> Reading:
    """Frames with image, labels and calibration; splits by the lists in ``ImageSets`` whose frames are here.

    Only 2-D boxes of the classes Pedestrian, Car and Cyclist are read, for a look at their sizes.

    Raises:
        ValueError: the folder is not called training, or a row of a label file is malformed.
    """
    folders = sorted({path.parent.parent for path in files})
    if len(folders) > 1 or folders[0].name != "training":
        raise ValueError(f"KITTI's image_2, label_2 and calib must be in one folder called training, not {folders[0]}")
    folder = folders[0]
    frames: dict[str, LabeledImage] = {}
    labels = {path.stem: path for path in files}
    found = {p.stem: p for p in sorted(tree.images) if p.parent == folder / "image_2" and p.suffix in _SUFFIXES}
    for name in tqdm(sorted({*labels, *found}), LAYOUT, leave=False, disable=len(labels) < 500):
        if name not in found:
            tree.report.count("labels without an image", tree.name(labels[name]))
        elif name not in labels:
            tree.report.count("images without labels, left out", tree.name(found[name]))
        elif not (folder / "calib" / f"{name}.txt").is_file():
            tree.report.count("images without calibration, left out", tree.name(found[name]))
        else:
            frames[name] = LabeledImage(found[name], _objects(labels[name]))
    groups, lists = _by_list(tree, folder.parent / "ImageSets", frames)
    return Reading(LAYOUT, folder.parent, groups, list(CLASSES), lists=lists)


def _objects(path: Path) -> tuple[LabeledObject, ...]:
    objects = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        fields = line.split()
        if not fields:
            continue
        try:
            x1, y1, x2, y2 = (float(value) for value in fields[4:8])
            if len(fields) < _FIELDS:
                raise ValueError
        except ValueError:
            raise ValueError(f"{path}, line {number} is not a type and 14 numbers") from None
        if fields[0] in CLASSES:
            objects.append(LabeledObject(fields[0], (x1, y1, x2, y2), place=f"{path.name}, line {number}"))
    return tuple(objects)


def _by_list(
    tree: Tree, folder: Path, frames: dict[str, LabeledImage]
) -> tuple[dict[str | None, list[LabeledImage]], dict[str, str]]:
    """Of the lists of a split the one with most frames among those that are here in full, else in part.

    KITTI's test list is not about the folder training.
    """
    best: dict[str, tuple[bool, int, Path, list[str]]] = {}
    for path in sorted(folder.glob("*.txt")):
        split = split_of_name(path.stem)
        names = read_text(path).split()
        here = [name for name in names if name in frames]
        if split in ("train", "val", "trainval") and here:
            rank = (len(here) == len(names), len(here))
            if split not in best or rank > best[split][:2]:
                best[split] = (*rank, path, here)
    if {"train", "val"} <= set(best):
        best.pop("trainval", None)
    if not best:
        return {None: list(frames.values())}, {}
    for _, _, path, here in best.values():
        missing = len(read_text(path).split()) - len(here)
        if missing:
            tree.report.note(f"{missing} frames of {tree.name(path)} are not here")
    lists = {split: path.stem for split, (complete, _, path, _) in best.items() if complete}
    return {split: [frames[name] for name in here] for split, (_, _, _, here) in best.items()}, lists
