"""Rows of YOLO label files: boxes, boxes with keypoints, and polygons."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from .records import MOST_CLASSES, Keypoints, LabeledObject, Report, tolerance

__all__ = ["RowParser", "is_row"]


_SPACE = re.compile(r"[\s;]+")
_NUMBER_WITH_COMMA = re.compile(r"[+-]?\d+(,\d+)?")
# Largest distance of a keypoint from the box of its object, relative to the image, in rows that may be poses.
_MARGIN = 0.01


def is_row(line: str) -> bool:
    """Return True if a line may be a row: a class number or name, and a box."""
    fields = _fields(line)
    if _numbers(fields):
        return len(fields) >= 5
    return any(_numbers(fields[-count:]) and not _numbers(fields[-count - 1 : -count]) for count in (4, 5))


class RowParser:
    """Parser of the rows of one dataset.

    Args:
        names: class names, or None to name the classes by their numbers.
        keypoints: keypoint definition, or None.
        dimensions: 2 for keypoints x, y; 3 for keypoints x, y, visibility.
        report: receives the counts of skipped and repaired rows.
    """

    def __init__(self, names: list[str] | None, keypoints: Keypoints | None, dimensions: int, report: Report) -> None:
        self.names, self.keypoints, self.dimensions, self.report = names, keypoints, dimensions, report
        self._empty = (0.0,) * 3 * len(keypoints.names) if keypoints else None
        self._lengths: set[int] = set()
        self._poses: list[tuple[str, int, int]] = []
        self._polygons = 0

    def parse(self, line: str, size: tuple[int, int], where: str) -> LabeledObject | None:
        """Parse a row, or count the reason and return None.

        A row contains a class and a box (x, y, width, height), optionally with keypoints or a score; or a class and a
        polygon.

        Args:
            line: fields, separated by spaces, tabs, commas or semicolons.
            size: width and height of the image.
            where: file and line.
        """
        try:
            label, values = self._class_and_values(line, where)
            return self._object(label, values, size, where)
        except ValueError as error:
            self.report.count("broken rows, skipped", f"{where} ({error})")
        except OverflowError:
            self.report.count("rows beyond 0..1 (divide pixels by the image size), skipped", where)
        return None

    def check_ambiguity(self, root: Path) -> None:
        """Refuse rows of one length that may be polygons or boxes with keypoints.

        Raises:
            ValueError: half of the rows have both meanings; the message contains the first one.
        """
        if len(self._lengths) == 1 and 2 * len(self._poses) >= self._polygons:
            where, count, dimensions = self._poses[0]
            raise ValueError(
                f"{root / where}: the row is a box with {count} keypoints, or a polygon. For keypoints, add kpt_shape: "
                f"[{count}, {dimensions}] to data.yaml (next to names and train); replace polygons by their boxes"
                f"{self.report.indented()}"
            )

    def _class_and_values(self, line: str, where: str) -> tuple[str, list[float]]:
        fields = _fields(line)
        if len(fields) in (9, 10) and _numbers(fields[:8]) and not _numbers(fields[8:9]):
            raise ValueError("a row of DOTA, not of YOLO; see docs/formats.md")
        if len(fields) in (15, 16) and _numbers(fields[1:]) and not _numbers(fields[:1]):
            raise ValueError("a row of KITTI, not of YOLO; see docs/formats.md")
        if _has_decimal_commas(line):
            self.report.count("rows with decimal commas", where)
        index = _numbers(fields[:1])
        if index is None:
            return self._named_class(fields)
        values = _numbers(fields[1:])
        if values is None:
            raise ValueError("not numbers")
        count = MOST_CLASSES if self.names is None else len(self.names)
        if not index[0].is_integer() or not 0 <= index[0] < count:
            raise ValueError(f"invalid class {fields[0]}" + ("" if self.names is None else f", {count} classes"))
        return (f"class_{int(index[0])}" if self.names is None else self.names[int(index[0])]), values

    def _named_class(self, fields: Sequence[str]) -> tuple[str, list[float]]:
        """Return the class and the values of a row with a class name, which may consist of several words."""
        for words in range(1, len(fields)):
            name, values = " ".join(fields[:words]), _numbers(fields[words:])
            if values and name in (self.names or ()):
                return name, values
        if not _numbers(fields[1:]):
            raise ValueError("not numbers")
        raise ValueError(f"the class is {fields[0][:30]!r}, which no data.yaml or classes.txt defines")

    def _object(self, label: str, values: list[float], size: tuple[int, int], where: str) -> LabeledObject:
        width, height = size
        count = len(values)
        if self.keypoints and count == 4 + len(self.keypoints.names) * self.dimensions:
            box = _box(values[:4], size)
            return LabeledObject(label, box, keypoints=self._scaled_keypoints(values[4:], size, where), source=where)
        if count in (4, 5):  # A fifth value is the score of a pre-labeling network.
            return LabeledObject(label, _box(values[:4], size), keypoints=self._empty, source=where)
        if self.keypoints:
            needed = [len(self.keypoints.names), self.dimensions]
            raise ValueError(f"{count + 1} numbers are neither a box nor a box with keypoints of kpt_shape {needed}")
        shape = _pose_shape(values) if count >= 6 else None
        if count >= 6:
            self._lengths.add(count)
            self._polygons += 1
            if shape:
                self._poses.append((where, *shape))
        if count < 6 or count % 2 or (shape and shape[1] == 3):
            raise ValueError(
                f"{count + 1} numbers are neither a box nor a polygon; keypoints need kpt_shape in data.yaml"
            )
        _check_range(values, size)
        if not all(map(math.isfinite, values)):
            return LabeledObject(label, (math.nan,) * 4, source=where)
        xs, ys = values[::2], values[1::2]
        return LabeledObject(
            label, (min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height), source=where
        )

    def _scaled_keypoints(self, values: Sequence[float], size: tuple[int, int], where: str) -> tuple[float, ...]:
        """Convert keypoints to pixels with visibility.

        A keypoint is not labeled if its visibility is 0, it is at (0, 0) without visibility, or a value is negative.
        """
        flat: list[float] = []
        for start in range(0, len(values), self.dimensions):
            x, y = values[start : start + 2]
            visible = values[start + 2] if self.dimensions == 3 else 2.0 * bool(x or y)
            if visible not in (-1, 0, 1, 2):
                raise ValueError(f"invalid keypoint visibility {visible:g}")
            if visible > 0 and min(x, y) < 0:
                self.report.count("keypoints with negative coordinates, not labeled", where)
                visible = 0
            elif visible > 0 and _is_beyond([x, y], size):
                self.report.count("keypoints beyond 0..1 (divide pixels by the image size), not labeled", where)
                visible = 0
            flat += [x * size[0], y * size[1], visible] if visible > 0 else [0.0, 0.0, 0.0]
        return tuple(flat)


def _fields(line: str) -> list[str]:
    """Split a row at spaces, tabs, semicolons and commas, unless these are decimal commas."""
    line = line.strip(" \t;,")
    if _has_decimal_commas(line):
        return [field.replace(",", ".") for field in _SPACE.split(line)]
    return [field.strip() for field in re.split(r"\s*[,;]\s*|\s+", line)]


def _has_decimal_commas(line: str) -> bool:
    fields = _SPACE.split(line.strip(" \t;,"))
    return "," in line and len(fields) >= 5 and all(map(_NUMBER_WITH_COMMA.fullmatch, fields[1:]))


def _numbers(fields: Sequence[str]) -> list[float] | None:
    try:
        return [float(value) for value in fields]
    except ValueError:
        return None


def _is_beyond(values: Sequence[float], size: tuple[int, int]) -> bool:
    limits = [tolerance(side) / side for side in size]
    return any(value < -limits[i % 2] or value > 1 + limits[i % 2] for i, value in enumerate(values))


def _check_range(values: Sequence[float], size: tuple[int, int]) -> None:
    if _is_beyond(values, size):
        raise OverflowError


def _box(values: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    _check_range(values, size)
    (x, y, w, h), (width, height) = values, size
    return ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)


def _pose_shape(values: Sequence[float]) -> tuple[int, int] | None:
    """Return (number, dimensions) of the keypoints if a row may be a box with keypoints inside of it, else None."""
    x, y, w, h = values[:4]
    if min(x - w / 2, y - h / 2) < -_MARGIN or max(x + w / 2, y + h / 2) > 1 + _MARGIN or min(w, h) <= 0:
        return None
    if len(values) == 8 and all(abs(a - b + c - d) < _MARGIN for a, b, c, d in (values[::2], values[1::2])):
        return None  # The corners of a rotated box.
    for dimensions in (3, 2):
        points = [values[start : start + dimensions] for start in range(4, len(values), dimensions)]
        if len(points[-1]) < dimensions or (dimensions == 3 and any(point[2] not in (0, 1, 2) for point in points)):
            continue
        labeled = [point for point in points if min(point[:2]) >= 0 and any(point[:2])]
        inside = all(abs(px - x) <= w / 2 + _MARGIN and abs(py - y) <= h / 2 + _MARGIN for px, py, *_ in labeled)
        if labeled and inside:
            return len(points), dimensions
    return None
