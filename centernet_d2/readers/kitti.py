"""Reader of KITTI's folders, lists and label files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..utils.files import text_lines
from ..utils.validation import finite_numbers
from .records import LabeledImage, LabeledObject, Reading
from .splits import split_of_name
from .tree import Tree, read_text

__all__ = ["CLASSES", "LAYOUT", "LOOKED_FOR", "TYPES", "KittiObject", "find", "parse_object", "read", "read_objects"]

LAYOUT = "KITTI"
LOOKED_FOR = "a folder training with image_2, label_2 and calib"
CLASSES = ("Pedestrian", "Car", "Cyclist")
TYPES = (*CLASSES, "Van", "Truck", "Person_sitting", "DontCare", "Tram", "Misc")

_SUFFIXES = (".png", ".jpg")


@dataclass(frozen=True)
class KittiObject:
    """One line of a label or result file.

    Attributes:
        kind: one of TYPES.
        truncation: 0..1, the share outside the image; -1 for DontCare.
        occlusion: 0 none, 1 partly, 2 largely, 3 unknown; -1 for DontCare.
        alpha: observation angle in radians.
        box: x1, y1, x2, y2 in pixels.
        dimensions: height, width, length in metres.
        location: x, y, z of the bottom center in metres.
        rotation_y: radians.
        score: of results.
    """

    kind: str
    truncation: float
    occlusion: int
    alpha: float
    box: tuple[float, float, float, float]
    dimensions: tuple[float, float, float]
    location: tuple[float, float, float]
    rotation_y: float
    score: float | None = None


def parse_object(line: str, where: str, scored: bool = False) -> KittiObject:
    """Read one line of a label file, or of a result file if `scored`.

    Args:
        line: type and 14 numbers, 15 if scored.
        where: file and line, for errors.
        scored: whether the last number is a score.

    Raises:
        ValueError: unknown type, too few fields, or one that is not a finite number.
    """
    kind, *fields = line.split() or [""]
    wanted = 15 if scored else 14
    if kind not in TYPES:
        raise ValueError(f"{where}: unknown type '{kind}', known: {', '.join(TYPES)}")
    if len(fields) < wanted:
        raise ValueError(f"{where}: {len(fields) + 1} fields instead of {wanted + 1}")
    numbers = finite_numbers(fields[:wanted], where)
    truncation, occlusion, alpha, x1, y1, x2, y2, height, width, length, x, y, z, rotation_y, *score = numbers
    return KittiObject(
        kind=kind,
        truncation=truncation,
        occlusion=int(occlusion),
        alpha=alpha,
        box=(x1, y1, x2, y2),
        dimensions=(height, width, length),
        location=(x, y, z),
        rotation_y=rotation_y,
        score=score[0] if scored else None,
    )


def read_objects(path: str | Path, scored: bool = False) -> list[KittiObject]:
    """All objects of a label file, or of a result file if `scored`; see :func:`parse_object`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is malformed; the message names file and line.
    """
    return [parse_object(line, where, scored) for where, line in text_lines(path)]


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
    things = enumerate(read_objects(path), 1)
    return tuple(LabeledObject(x.kind, x.box, place=f"{path.name}, object {i}") for i, x in things if x.kind in CLASSES)


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
