"""What a folder of labelled images holds, whatever its layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["FoundData", "Keypoints", "LabeledImage", "LabeledObject", "Reading", "Report", "Split"]

_EXAMPLES = 3


class Report:
    """Counts what was odd in the data, by reason, and remembers the first three places of each.

    Attributes:
        counts: reason -> how often.
        examples: reason -> the first places.
        notes: sentences about what was decided.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}
        self.notes: list[str] = []

    def count(self, reason: str, where: object) -> None:
        """One more of a kind, such as "labels without an image"; `where` is a file, a line or a name."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(str(where))

    def note(self, sentence: str) -> None:
        """Say something once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def add(self, other: Report) -> None:
        """Take over what another report counted."""
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            self.examples[reason] = (self.examples.get(reason, []) + other.examples[reason])[:_EXAMPLES]
        for sentence in other.notes:
            self.note(sentence)

    def lines(self) -> list[str]:
        """The report for people: one line per reason, then the notes."""
        lines = []
        for reason, count in self.counts.items():
            more = ", ..." if count > len(self.examples[reason]) else ""
            lines.append(f"{count} {reason}: {', '.join(self.examples[reason])}{more}")
        return lines + self.notes

    def reasons(self) -> str:
        """The report below a sentence of an error: every line on its own."""
        return "".join(f"\n  {line}" for line in self.lines())


@dataclass(frozen=True)
class LabeledObject:
    """One object of an image.

    Attributes:
        label: name of its class.
        box: x1, y1, x2, y2 in pixels; x2 and y2 are where the last pixel ends.
        keypoints: K * 3 numbers x, y, visibility (0 not labelled, 1 hidden, 2 visible), or None without keypoints.
        area: in square pixels, if the data state it.
        crowd: whether the box is around a crowd.
        difficult: Pascal VOC's mark.
        place: file and row, for messages.
        own: what else a COCO annotation says, for the properties that read it.
    """

    label: str
    box: tuple[float, float, float, float]
    keypoints: tuple[float, ...] | None = None
    area: float | None = None
    crowd: bool = False
    difficult: bool = False
    place: str = ""
    own: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class LabeledImage:
    """An image file and its objects.

    Attributes:
        path: absolute.
        objects: none for background.
        width, height: in pixels, upright; 0 before the file was looked at.
        stated_size: width and height that the labels give, if they do.
        image_id: the number that the data give it, if they do.
        own: what else COCO says of the image, for the properties that read it.
    """

    path: Path
    objects: tuple[LabeledObject, ...] = ()
    width: int = 0
    height: int = 0
    stated_size: tuple[int, int] | None = None
    image_id: int | None = None
    own: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Keypoints:
    """The keypoints of a data set.

    Attributes:
        names: in order.
        flip_pairs: names that a mirror swaps.
        skeleton: names that a drawn line joins.
    """

    names: tuple[str, ...]
    flip_pairs: tuple[tuple[str, str], ...] = ()
    skeleton: tuple[tuple[str, str], ...] = ()


@dataclass
class Reading:
    """What a reader makes of a folder, before splits are settled and boxes looked at.

    Attributes:
        layout: its name, such as "YOLO".
        root: folder that image names are relative to.
        groups: images by the split that the data name: "train", "val", "test", "trainval" or None.
        classes: in order.
        class_ids: category id of each class.
        keypoints: None without.
        lists: of KITTI: split -> name of a list in ``ImageSets`` that holds exactly these images.
    """

    layout: str
    root: Path
    groups: dict[str | None, list[LabeledImage]]
    classes: list[str]
    class_ids: list[int] = field(default_factory=list)
    keypoints: Keypoints | None = None
    lists: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.class_ids = self.class_ids or list(range(1, len(self.classes) + 1))

    @property
    def images(self) -> list[LabeledImage]:
        """Of all groups."""
        return [image for group in self.groups.values() for image in group]


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        name: "train", "val" or "test".
        images: in order.
        root: folder that contains the images, for relative names; images elsewhere have absolute names.
        kitti_list: of KITTI: name of the list in ``ImageSets`` that is this split, or "" if there is none.
    """

    name: str
    images: tuple[LabeledImage, ...]
    root: Path
    kitti_list: str = ""

    @property
    def num_objects(self) -> int:
        """Of all images."""
        return sum(len(image.objects) for image in self.images)


@dataclass(frozen=True)
class FoundData:
    """A data set that was found in a folder or file.

    Attributes:
        layout: "COCO", "Pascal VOC", "YOLO", "labelme", "CSV" or "KITTI".
        path: that was looked at.
        splits: "train" and "val" always, "test" if there is one.
        class_names: in order.
        class_ids: category id of each class.
        keypoints: None without.
        split_rule: a sentence on where the splits come from.
        report: what was odd.
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
        """A summary for people: layout, splits, classes, and the report."""
        shown = ", ".join(self.class_names[:10]) + (", ..." if len(self.class_names) > 10 else "")
        sizes = [f"{s.name} {len(s.images)} images, {s.num_objects} objects" for s in self.splits.values()]
        lines = [f"{self.layout} in {self.path}", *sizes, self.split_rule, f"{len(self.class_names)} classes: {shown}"]
        if self.keypoints:
            lines.append(f"{len(self.keypoints.names)} keypoints: {', '.join(self.keypoints.names)}")
        return lines + self.report.lines()


def unique(values: Sequence[str]) -> list[str]:
    """Without repetitions, in the order of first appearance."""
    return list(dict.fromkeys(values))
