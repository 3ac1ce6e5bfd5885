"""Reader of CSV files with a header and one row per box.

A row contains an image, coordinates and usually a class.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ..utils.text import printable
from .records import LabeledImage, LabeledObject, ParsedDataset, is_true
from .splits import split_of_name
from .tree import Tree, decode, read_text

__all__ = ["EXPECTED_FILES", "HEADER_REQUIREMENT", "LAYOUT", "find", "headerless", "read"]

LAYOUT = "CSV"
EXPECTED_FILES = "a .csv with a header that contains an image, a box and a class, such as path,x1,y1,x2,y2,label"

HEADER_REQUIREMENT = (
    "the first row must be a header with the column names, such as path,x1,y1,x2,y2,label; "
    "RetinaNet-style tables without a header are not supported"
)

# Supported column names, in lower case and without spaces, dots, dashes and underscores.
_COLUMNS = {
    "image": "path filename file image imageid imagepath imagename imagefile img imgpath imgname filepath",
    "label": "label class classname category categoryname labelname object objectname name type classid labelid",
    "x1": "x1 xmin left bboxxmin bboxx1 minx x0 roix1",
    "y1": "y1 ymin top bboxymin bboxy1 miny y0 roiy1",
    "x2": "x2 xmax right bboxxmax bboxx2 maxx roix2",
    "y2": "y2 ymax bottom bboxymax bboxy2 maxy roiy2",
    "x": "x bboxx bboxleft xleft",
    "y": "y bboxy bboxtop ytop",
    "cx": "xcenter centerx cx xc",
    "cy": "ycenter centery cy yc",
    "w": "w bboxwidth bboxw boxwidth",
    "h": "h bboxheight bboxh boxheight",
    "width": "width imagewidth imgwidth",
    "height": "height imageheight imgheight",
    "bbox": "bbox box",
    "split": "split set subset usage partition",
    "crowd": "iscrowd crowd isgroupof ignore",
}
_MEANING = {name: meaning for meaning, names in _COLUMNS.items() for name in names.split()}


def find(tree: Tree) -> list[Path]:
    """Return the label tables of a folder."""
    return [path for path in tree.with_suffix(".csv") if _box_kind(_columns(_first_row(path))) is not None]


def headerless(tree: Tree) -> list[Path]:
    """Return tables of boxes without a header, such as RetinaNet's.

    They are not supported because the meaning of their columns is ambiguous.
    """
    tables = []
    for path in tree.with_suffix(".csv"):
        row = _first_row(path)
        if len(row) >= 6 and not _columns(row) and sum(_number(value) is not None for value in row) >= 4:
            tables.append(path)
    return tables


def _delimiter(line: str) -> str:
    return max(",;\t|", key=line.count)


def _first_row(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            head = decode(file.read(1 << 16), "replace")
    except OSError:
        return []
    lines = [line for line in head.splitlines() if line.strip()]
    return next(csv.reader(lines[:1], delimiter=_delimiter(lines[0])), []) if lines else []


def _columns(header: list[str]) -> dict[str, int]:
    """Map meanings to column indices, for columns with a known name."""
    columns: dict[str, int] = {}
    ranks: dict[str, int] = {}
    for index, name in enumerate(header):
        plain = re.sub(r"[\s._-]", "", name.lstrip("\ufeff").lower())
        meaning = _MEANING.get(plain)
        if meaning is None:
            continue
        # A table may have both image_id and path, or class_id and class_name: the name listed first is preferred.
        rank = _COLUMNS[meaning].split().index(plain)
        if meaning not in columns or rank < ranks[meaning]:
            columns[meaning], ranks[meaning] = index, rank
    return columns


def _box_kind(columns: Mapping[str, int]) -> tuple[str, ...] | None:
    """Return the columns of the box, or None without box columns."""
    if "image" not in columns:
        return None
    kinds = (
        ("x1", "y1", "x2", "y2"),
        ("x", "y", "w", "h"),
        ("x1", "y1", "w", "h"),
        ("cx", "cy", "w", "h"),
        ("x", "y", "width", "height"),
        ("x1", "y1", "width", "height"),
        ("cx", "cy", "width", "height"),
        ("bbox",),
    )
    return next((kind for kind in kinds if all(name in columns for name in kind)), None)


class _Table:
    """Parser of one table, with its images and objects."""

    def __init__(self, tree: Tree, path: Path) -> None:
        self.tree, self.path = tree, path
        text = read_text(path)
        first = next((line for line in text.split("\n") if line.strip()), "")
        self.delimiter = _delimiter(first)
        self.rows = csv.reader(text.strip("\n").split("\n"), delimiter=self.delimiter, strict=True)
        self.columns = _columns(self._header())
        self.kind = _box_kind(self.columns) or ()
        self.images: dict[str, Path | None] = {}
        self.objects: dict[Path, list[LabeledObject]] = {}
        self.stated: dict[Path, tuple[int, int]] = {}
        self.splits: dict[Path, str | None] = {}

    def _header(self) -> list[str]:
        try:
            header = next(self.rows)
        except csv.Error as error:
            raise ValueError(f"{self.path}, line 1: {error}") from error
        known = [name for name in header if _columns([name])]
        if len(set(known)) < len(known):
            raise ValueError(f"{self.path}: a column occurs twice in the header {', '.join(header[:20])}")
        return header

    def read(self) -> None:
        try:
            for row in tqdm(self.rows, printable(self.path.name), leave=False, mininterval=1, delay=2):
                if any(value.strip() for value in row):
                    self._row(row, f"{self.tree.name(self.path)}, line {self.rows.line_num}")
        except csv.Error as error:
            raise ValueError(f"{self.path}, line {self.rows.line_num}: {error}") from error

    def _cell(self, row: list[str], name: str) -> str:
        index = self.columns.get(name)
        return row[index].strip() if index is not None and index < len(row) else ""

    def _row(self, row: list[str], where: str) -> None:
        name = self._cell(row, "image")
        if not name:
            self.tree.report.count("broken rows, skipped", where)
            return
        if name not in self.images:
            near = [folder / "images" for folder in (self.path.parent, self.path.parent.parent)]
            self.images[name] = self.tree.find_image(name, self.path, near)
        image = self.images[name]
        if image is None:
            return
        self.objects.setdefault(image, [])
        self._record_split_and_size(row, image, where)
        values = [self._cell(row, column) for column in self.kind]
        if not any(values):
            return  # background
        label = self._cell(row, "label") if "label" in self.columns else "object"
        box, crowd = self._box(values), is_true(self._cell(row, "crowd"))
        if box is None or not label:
            self.tree.report.count("broken rows, skipped", where)
        else:
            self.objects[image].append(LabeledObject(label, box, crowd=crowd, source=where, corners=True))

    def _record_split_and_size(self, row: list[str], image: Path, where: str) -> None:
        split = split_of_name(self._cell(row, "split"))
        if self.splits.setdefault(image, split) != split:
            raise ValueError(f"{where}: {image.name} is in the splits {self.splits[image]} and {split}")
        size = [side for name in ("width", "height") if (side := _number(self._cell(row, name))) is not None]
        if "width" not in self.kind and len(size) == 2 and all(map(math.isfinite, size)) and min(size) > 1:
            self.stated[image] = (int(size[0]), int(size[1]))

    def _box(self, values: list[str]) -> tuple[float, float, float, float] | None:
        if self.kind == ("bbox",):
            values = re.findall(r"[^\s,;\[\]()]+", values[0])
        texts = [value.replace(",", ".") if self.delimiter == ";" else value for value in values]
        numbers = [number for text in texts if (number := _number(text)) is not None]
        if not len(numbers) == len(values) == 4:
            return None
        a, b, c, d = numbers
        if self.kind[-1] == "y2":
            return (a, b, c, d)
        if self.kind[0] == "cx":
            return (a - c / 2, b - d / 2, a + c / 2, b + d / 2)
        return (a, b, a + c, b + d)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def read(tree: Tree, files: list[Path]) -> ParsedDataset:
    """Read tables.

    Splits are defined by a column, the file name or the folders, in this order of precedence. Coordinates are relative
    to the image size if most boxes are within 0..1.

    Raises:
        ValueError: a table is damaged, or an image is in two splits.
    """
    tables_of_boxes = set(find(tree))
    for path in tree.with_suffix(".csv"):
        if path not in files and (path in tables_of_boxes or split_of_name(path.stem)):
            reason = f"{tree.name(files[0])} was passed"
            if path not in tables_of_boxes:
                reason = "its first row has no image and box columns"
            tree.report.note(f"{tree.name(path)} is not used: {reason}")
    groups: dict[str | None, list[LabeledImage]] = {}
    homes: dict[Path, set[str | None]] = {}
    tables = [_Table(tree, path) for path in files]
    for table in tables:
        table.read()
        if "label" not in table.columns:
            tree.report.note(f"{tree.name(table.path)} has no class column: all objects get the class 'object'")
        of_file = split_of_name(table.path.stem)
        if not table.objects and of_file:
            groups.setdefault(of_file, [])
        objects = _in_pixels(tree, table)
        for image in sorted(objects):
            split = table.splits.get(image) or of_file or tree.split_of(image) or tree.split_of(table.path)
            groups.setdefault(split, []).append(
                LabeledImage(image, tuple(objects[image]), stated_size=table.stated.get(image))
            )
            homes.setdefault(image.parent, set()).add(split)
    listed = {image.path for image in (image for group in groups.values() for image in group)}
    for image in tree.images:
        # An image without a row is background if all listed images of its folder are in the same split.
        if image not in listed and len(homes.get(image.parent, ())) == 1:
            groups[next(iter(homes[image.parent]))].append(LabeledImage(image))
        elif image not in listed:
            tree.report.count("images in no table, skipped", tree.name(image))
    classes = {obj.label for group in groups.values() for image in group for obj in image.objects}
    # Numbers first, in numerical order; then names in alphabetical order.
    ordered = sorted(classes, key=lambda name: (_number(name) is None, _number(name) or 0.0, name))
    return ParsedDataset(LAYOUT, tree.root, groups, ordered)


def _in_pixels(tree: Tree, table: _Table) -> dict[Path, list[LabeledObject]]:
    """Return the objects of a table with boxes in pixels; boxes in another unit than most are skipped."""
    boxes = [obj.box for objects in table.objects.values() for obj in objects]
    fractions = sum(_is_relative(box) for box in boxes)
    pixels = sum(max(box) > 2 for box in boxes)
    if fractions <= pixels:
        return {image: _without_fractions(tree, objects) for image, objects in table.objects.items()}
    tree.report.note(f"{tree.name(table.path)}: coordinates are in 0..1 and are scaled by the image size")
    tree.measure(table.objects)
    table.stated.clear()  # The boxes refer to the size of the image from now on.
    scaled = {}
    for image, objects in table.objects.items():
        width, height = tree.sizes[image] or (1, 1)
        scaled[image] = [
            replace(x, box=(x.box[0] * width, x.box[1] * height, x.box[2] * width, x.box[3] * height)) for x in objects
        ]
    return scaled


def _is_relative(box: tuple[float, ...]) -> bool:
    """Return True if the coordinates of a box are in 0..1, with a tolerance."""
    return all(-0.05 <= value <= 1.05 for value in box)


def _without_fractions(tree: Tree, objects: list[LabeledObject]) -> list[LabeledObject]:
    """Skip boxes in 0..1 among boxes in pixels, except a box of the first pixel."""
    kept = []
    for obj in objects:
        if _is_relative(obj.box) and not all(value.is_integer() for value in obj.box):
            tree.report.count("boxes in 0..1 among boxes in pixels, skipped", obj.source)
        else:
            kept.append(obj)
    return kept
