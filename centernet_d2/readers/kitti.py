"""Reader of the folders, lists and label files of KITTI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..utils.files import text_lines
from ..utils.validation import finite_numbers
from .records import LabeledImage, LabeledObject, ParsedDataset, Report
from .splits import split_of_name
from .tree import Tree, read_text

__all__ = [
    "CLASSES",
    "EXPECTED_FILES",
    "LAYOUT",
    "TYPES",
    "KittiObject",
    "find",
    "parse_object",
    "read",
    "read_objects",
]

LAYOUT = "KITTI"
BOX_LAYOUT = "KITTI without 3-D boxes"
EXPECTED_FILES = "a folder training with image_2, label_2 and calib (calib is not needed without 3-D boxes)"
CLASSES = ("Pedestrian", "Car", "Cyclist")
TYPES = (*CLASSES, "Van", "Truck", "Person_sitting", "DontCare", "Tram", "Misc")

_SUFFIXES = (".png", ".jpg")


@dataclass(frozen=True)
class KittiObject:
    """One line of a label or result file.

    Attributes:
        kind: one of TYPES.
        truncation: fraction outside the image, 0..1; -1 for DontCare.
        occlusion: 0 none, 1 partly, 2 largely, 3 unknown; -1 for DontCare.
        alpha: observation angle in radians.
        box: x1, y1, x2, y2 in pixels.
        dimensions: height, width, length in meters.
        location: x, y, z of the bottom center in meters.
        rotation_y: rotation around the y axis in radians.
        score: score in result files; None in label files.
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
    """Parse one line of a label file, or of a result file if `scored`.

    Args:
        line: a type and 14 numbers, or 15 if `scored`.
        where: file and line, for error messages.
        scored: True if the last number is a score.

    Raises:
        ValueError: the type is unknown, fields are missing, or a field is not a finite number.
    """
    kind, *fields = line.split() or [""]
    count = 15 if scored else 14
    if kind not in TYPES:
        raise ValueError(f"{where}: unknown type '{kind}'; use one of {', '.join(TYPES)}")
    if len(fields) < count:
        raise ValueError(f"{where}: {len(fields) + 1} fields instead of {count + 1}")
    numbers = finite_numbers(fields[:count], where)
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
    """Read a label file, or a result file if `scored`; see :func:`parse_object`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line is malformed; the message contains the file and the line.
    """
    return [parse_object(line, where, scored) for where, line in text_lines(path)]


def find(tree: Tree) -> list[Path]:
    """Return the label files of a folder."""
    return [path for path in tree.with_suffix(".txt") if path.parent.name == "label_2"]


def read(tree: Tree, files: list[Path]) -> ParsedDataset:
    """Read the frames that have an image, labels and a calibration.

    The lists in ``ImageSets`` define the splits. Only the 2-D boxes of the classes Pedestrian, Car and Cyclist are
    read, which suffices for box statistics. If no row has a 3-D box, the classes are taken from the rows, and
    calibrations are not needed.

    Raises:
        ValueError: the folder is not named training, or a row of a label file is malformed.
    """
    folders = sorted({path.parent.parent for path in files})
    if len(folders) > 1 or folders[0].name != "training":
        raise ValueError(f"image_2, label_2 and calib of KITTI must be in one folder named training, not {folders[0]}")
    folder = folders[0]
    frames: dict[str, LabeledImage] = {}
    labels = {path.stem: path for path in files}
    rows = {path: text_lines(path) for path in files}
    spatial = any(_has_box3d(line) for lines in rows.values() for _, line in lines)
    if spatial:
        _check_types(rows)
    images = {
        p.stem: p
        for p in sorted(tree.images)
        if p.parent == folder / "image_2" and (p.suffix in _SUFFIXES or not spatial)
    }
    for name in tqdm(sorted({*labels, *images}), LAYOUT, leave=False, disable=len(labels) < 500):
        if name not in images:
            tree.report.count("labels without an image", tree.name(labels[name]))
        elif name not in labels:
            tree.report.count("images without labels, skipped", tree.name(images[name]))
        elif spatial and not (folder / "calib" / f"{name}.txt").is_file():
            tree.report.count("images without calibration, skipped", tree.name(images[name]))
        else:
            objects = [_object(line, where, spatial, tree.report) for where, line in rows[labels[name]]]
            frames[name] = LabeledImage(images[name], tuple(obj for obj in objects if obj is not None))
    groups, lists = _by_list(tree, folder.parent / "ImageSets", frames)
    if spatial:
        return ParsedDataset(LAYOUT, folder.parent, groups, list(CLASSES), lists=lists)
    tree.report.note("no row has a 3-D box: only boxes are read, with the types as classes")
    classes = sorted({obj.label for image in frames.values() for obj in image.objects})
    return ParsedDataset(BOX_LAYOUT, folder.parent, groups, classes)


def _has_box3d(line: str) -> bool:
    """Return True if a row has dimensions; tools that label boxes only write zeros, -1, or nothing."""
    kind, *fields = line.split()
    return kind != "DontCare" and any(not re.fullmatch(r"-.*|[0.]+", field) for field in fields[7:10])


def _check_types(rows: Mapping[Path, list[tuple[str, str]]]) -> None:
    """
    Raises:
        ValueError: labels contain unknown types; the message contains the first row and all unknown types.
    """
    unknown: dict[str, list[str]] = {}
    for where, line in (row for lines in rows.values() for row in lines):
        if (kind := line.split()[0]) not in TYPES:
            unknown.setdefault(kind, []).append(where)
    if unknown:
        kind, (first, *_) = next(iter(unknown.items()))
        counts = ", ".join(f"{name} ({len(places)} rows)" for name, places in list(unknown.items())[:10])
        raise ValueError(
            f"{first}: unknown type '{kind}'; use one of {', '.join(TYPES)}. Unknown types in this dataset: {counts}. "
            "Rename them, or write Misc for objects of no class; for other classes remove the 3-D part of all rows"
        )


def _object(line: str, where: str, spatial: bool, report: Report) -> LabeledObject | None:
    """Parse a row; return None for types that are no class."""
    if spatial:
        obj = parse_object(line, where)
        return LabeledObject(obj.kind, obj.box, source=where) if obj.kind in CLASSES else None
    kind, *fields = line.split()
    if len(fields) < 7:
        raise ValueError(f"{where}: {len(fields) + 1} fields instead of 8 (boxes) or 15 (3-D boxes)")
    x1, y1, x2, y2 = finite_numbers(fields[3:7], where)
    if kind == "DontCare":
        report.count("DontCare regions, skipped", where)
        return None
    return LabeledObject(kind, (x1, y1, x2, y2), source=where)


def _by_list(
    tree: Tree, folder: Path, frames: dict[str, LabeledImage]
) -> tuple[dict[str | None, list[LabeledImage]], dict[str, str]]:
    """Choose one list per split: the longest complete list or, without one, the list with most available frames.

    The list test of KITTI is ignored because it does not refer to the folder training.
    """
    best: dict[str, tuple[bool, int, Path, list[str]]] = {}
    for path in sorted(folder.glob("*.txt")):
        split = split_of_name(path.stem)
        names = read_text(path).split()
        available = [name for name in names if name in frames]
        if split in ("train", "val", "trainval") and available:
            rank = (len(available) == len(names), len(available))
            if split not in best or rank > best[split][:2]:
                best[split] = (*rank, path, available)
    if {"train", "val"} <= set(best):
        best.pop("trainval", None)
    if not best:
        return {None: list(frames.values())}, {}
    for _, _, path, available in best.values():
        missing = len(read_text(path).split()) - len(available)
        if missing:
            tree.report.note(f"{missing} frames of {tree.name(path)} are missing")
    lists = {split: path.stem for split, (complete, _, path, _) in best.items() if complete}
    return {split: [frames[name] for name in available] for split, (_, _, _, available) in best.items()}, lists
