"""Layout-independent data structures of a labeled dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..utils.text import plural, printable

__all__ = ["DiscoveredDataset", "Keypoints", "LabeledImage", "LabeledObject", "ParsedDataset", "Report", "Split"]

_EXAMPLES = 3
# Every class and keypoint has a channel of the network, so more are an error of the file.
MOST_CLASSES = 100_000
MOST_KEYPOINTS = 1_000


class Report:
    """Counts of irregularities by reason, with the first three locations of each.

    Attributes:
        counts: reason -> number of occurrences.
        examples: reason -> first locations.
        notes: messages about decisions of the reader.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}
        self.notes: list[str] = []

    def count(self, reason: str, where: object) -> None:
        """Count an occurrence of a reason, such as "labels without an image".

        Control characters in the location are escaped.

        Args:
            reason: a plural noun phrase, printed after the count.
            where: a file, line or name.
        """
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(printable(where))

    def note(self, sentence: str) -> None:
        """Add a note unless it exists; control characters are escaped."""
        sentence = printable(sentence)
        if sentence not in self.notes:
            self.notes.append(sentence)

    def add(self, other: Report) -> None:
        """Add the counts and notes of another report."""
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            self.examples[reason] = (self.examples.get(reason, []) + other.examples[reason])[:_EXAMPLES]
        for sentence in other.notes:
            self.note(sentence)

    def lines(self) -> list[str]:
        """Format the report: one line per reason, then the notes."""
        lines = []
        for reason, count in self.counts.items():
            more = ", ..." if count > len(self.examples[reason]) else ""
            lines.append(f"{count} {reason}: {', '.join(self.examples[reason])}{more}")
        return [printable(line) for line in lines] + self.notes

    def indented(self) -> str:
        """Format the report as indented lines to append to an error message."""
        return "".join(f"\n  {line}" for line in self.lines())


@dataclass(frozen=True, slots=True)
class LabeledObject:
    """One object of an image.

    Attributes:
        label: class name.
        box: x1, y1, x2, y2 in pixels; x2 and y2 are the end of the last pixel.
        keypoints: K * 3 numbers x, y, visibility (0 not labeled, 1 hidden, 2 visible), or None without keypoints.
        area: area in square pixels, if the dataset specifies it.
        crowd: True for a box around a crowd.
        difficult: the flag of Pascal VOC.
        source: file and row, for messages.
        corners: True if the box was written as corners inside of the image. Exchanged corners are then repaired, and a
            box that exceeds the image by more than a tolerance is rejected instead of clipped.
        extra: other keys of the COCO annotation, for properties that read them.
    """

    label: str
    box: tuple[float, float, float, float]
    keypoints: tuple[float, ...] | None = None
    area: float | None = None
    crowd: bool = False
    difficult: bool = False
    source: str = ""
    corners: bool = field(default=False, compare=False)
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class LabeledImage:
    """An image file and its objects.

    Attributes:
        path: absolute path.
        objects: objects of the image; empty for background.
        width, height: size of the upright image in pixels; 0 before the file is inspected.
        stated_size: width and height in the labels, if present.
        image_id: image id of the dataset, if present.
        extra: other keys of the COCO image entry, for properties that read them.
    """

    path: Path
    objects: tuple[LabeledObject, ...] = ()
    width: int = 0
    height: int = 0
    stated_size: tuple[int, int] | None = None
    image_id: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Keypoints:
    """Keypoint definition of a dataset.

    Attributes:
        names: keypoint names, in order.
        flip_pairs: pairs of names that horizontal flipping swaps.
        skeleton: pairs of names to connect in visualizations.
    """

    names: tuple[str, ...]
    flip_pairs: tuple[tuple[str, str], ...] = ()
    skeleton: tuple[tuple[str, str], ...] = ()


@dataclass
class ParsedDataset:
    """Output of a reader, before splits are assigned and boxes are validated.

    Attributes:
        layout: name of the layout, such as "YOLO".
        root: folder that image names are relative to.
        groups: images by the split in the dataset: "train", "val", "test", "trainval" or None.
        classes: class names, in order.
        class_ids: category id of each class.
        keypoints: keypoint definition, or None.
        lists: for KITTI: split -> name of the list in ``ImageSets`` that contains exactly these images.
    """

    layout: str
    root: Path
    groups: dict[str | None, list[LabeledImage]]
    classes: list[str]
    class_ids: list[int] = field(default_factory=list)
    keypoints: Keypoints | None = None
    lists: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, number, limit in (
            ("classes", len(self.classes), MOST_CLASSES),
            ("keypoints", len(self.keypoints.names) if self.keypoints else 0, MOST_KEYPOINTS),
        ):
            if number > limit:
                raise ValueError(f"{self.root} has {number} {what}, but at most {limit} are supported")
        self.class_ids = self.class_ids or list(range(1, len(self.classes) + 1))

    @property
    def images(self) -> list[LabeledImage]:
        """Images of all groups."""
        return [image for group in self.groups.values() for image in group]


@dataclass(frozen=True)
class Split:
    """Split of a dataset.

    Attributes:
        name: "train", "val" or "test".
        images: images, in order.
        root: folder that relative image names start from; images outside of it have absolute names.
        kitti_list: for KITTI: name of the list in ``ImageSets`` that defines this split, or "".
    """

    name: str
    images: tuple[LabeledImage, ...]
    root: Path
    kitti_list: str = ""

    @property
    def num_objects(self) -> int:
        """Number of objects in all images."""
        return sum(len(image.objects) for image in self.images)


@dataclass(frozen=True)
class DiscoveredDataset:
    """Dataset discovered in a folder or file.

    Attributes:
        layout: "COCO", "Pascal VOC", "YOLO", "labelme", "CSV" or "KITTI".
        path: path of the folder or file.
        splits: always "train" and "val"; "test" if present.
        class_names: class names, in order.
        class_ids: category id of each class.
        keypoints: keypoint definition, or None.
        split_rule: message about the origin of the splits.
        report: irregularities and decisions of the reader.
    """

    layout: str
    path: Path
    splits: dict[str, Split]
    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]
    keypoints: Keypoints | None
    split_rule: str
    report: Report

    def lines(self) -> list[str]:
        """Format a summary: layout, splits, classes, and the report."""
        names = ", ".join(self.class_names[:10]) + (", ..." if len(self.class_names) > 10 else "")
        sizes = [
            f"{s.name} {plural(len(s.images), 'image')}, {plural(s.num_objects, 'object')}"
            for s in self.splits.values()
        ]
        classes = f"{plural(len(self.class_names), 'class')}: {names}"
        lines = [f"{self.layout} in {self.path}", *sizes, self.split_rule, classes]
        if self.keypoints:
            lines.append(f"{len(self.keypoints.names)} keypoints: {', '.join(self.keypoints.names)}")
        return [printable(line) for line in lines] + self.report.lines()


def tolerance(side: float) -> float:
    """Return the largest accepted distance of a coordinate from an image side."""
    return max(2.0, 0.01 * side)


def is_true(text: str) -> bool:
    """Return True for a flag such as 1, True or yes; words for false are False."""
    return text.strip().lower() not in ("", "0", "0.0", "false", "no", "n", "f", "none", "null", "unspecified")


def unique(values: Sequence[str]) -> list[str]:
    """Remove duplicates and keep the order of first appearance."""
    return list(dict.fromkeys(values))
