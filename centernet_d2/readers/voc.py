"""Reads Pascal VOC's XML files, with or without lists in ``ImageSets/Main``."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .records import LabeledImage, LabeledObject, Reading
from .splits import split_of_name
from .tree import Tree, read_text, stem

__all__ = ["LAYOUT", "LOOKED_FOR", "find", "read", "read_annotation"]

LAYOUT = "Pascal VOC"
LOOKED_FOR = ".xml files that start with <annotation>"

_HEAD = 4096


def find(tree: Tree) -> list[Path]:
    """The annotation files of a folder."""
    files = tree.with_suffix(".xml")
    folders = {path.parent for path in files if _is_annotation(path)}
    return [path for path in files if path.parent in folders]  # Damaged files beside good ones are counted later.


def _is_annotation(path: Path) -> bool:
    with path.open("rb") as file:
        return b"<annotation" in file.read(_HEAD).replace(b"\0", b"")


def read_annotation(path: Path) -> tuple[str, tuple[int, int] | None, list[LabeledObject], list[str]]:
    """One XML file -> file name of its image, (width, height) if stated, objects, and why others are left out.

    VOC boxes are 1-based and inclusive; ours start at 0 and end where the last pixel ends, as Detectron2 reads VOC.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", read_text(path))  # The encoding it names was settled by reading it.
    if "<!ENTITY" in text:  # Nothing good needs them, and they can fill the memory.
        raise ValueError(f"{path} is not a Pascal VOC annotation: it declares entities")
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise ValueError(f"{path} is not a Pascal VOC annotation: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"{path} is not a Pascal VOC annotation: its root is <{root.tag}>")
    objects, broken = [], []
    for index, element in enumerate(root.findall("object")):
        where = f"{path.name}, object {index + 1}"
        try:
            objects.append(_object(element, where))
        except (AttributeError, TypeError, ValueError):
            broken.append(where)
    try:
        width, height = (int(_number(root, f"size/{name}")) for name in ("width", "height"))
        size = (width, height) if min(width, height) > 0 else None
    except (TypeError, ValueError, OverflowError):
        size = None
    return (root.findtext("filename") or "").strip(), size, objects, broken


def _number(element: ET.Element, path: str) -> float:
    return float(element.findtext(path) or "")


def _object(element: ET.Element, where: str) -> LabeledObject:
    x1, y1, x2, y2 = (_number(element, f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax"))
    label = (element.findtext("name") or "").strip()
    if not label:
        raise ValueError("no name")
    # Both corners are inside a VOC box, so one whose corners coincide has no area by VOC's own devkit.
    box = (x1 - 1, y1 - 1, x2, y2) if x2 > x1 and y2 > y1 else (x1, y1, x2, y2)
    difficult = (element.findtext("difficult") or "0").strip() not in ("", "0")
    return LabeledObject(label, box, difficult=difficult, place=where)


def read(tree: Tree, files: list[Path], lists: Sequence[str] | None = None) -> Reading:
    """Read all annotations of a folder, which may hold several data sets as VOCdevkit does.

    Args:
        tree: the folder.
        files: its annotation files.
        lists: names of the lists to read, each a group of its own; default: those that name a split.

    Raises:
        FileNotFoundError: a list of `lists` does not exist.
        ValueError: a list is empty.
    """
    groups: dict[str | None, list[LabeledImage]] = {}
    classes = set()
    roots: dict[Path, list[Path]] = {}
    for path in files:
        roots.setdefault(_root_of(path, tree.root), []).append(path)
    for root, own in roots.items():
        images = _images(tree, root, own)
        classes |= {thing.label for image in images.values() for thing in image.objects}
        for split, members in _by_list(tree, root, images, lists).items():
            groups.setdefault(split, []).extend(members)
    return Reading(LAYOUT, tree.root, groups, sorted(classes))


def _root_of(path: Path, top: Path) -> Path:
    """The folder of a VOC data set: the one above ``Annotations``, else the whole."""
    for folder in path.parents:
        if folder == top:
            break
        if folder.name.lower() == "annotations":
            return folder.parent
    return top


def _images(tree: Tree, root: Path, files: list[Path]) -> dict[Path, LabeledImage]:
    """All images of a data set, with or without annotation."""
    images: dict[Path, LabeledImage | None] = {}
    for path in tqdm(files, "Pascal VOC", leave=False, disable=len(files) < 500):
        try:
            name, size, objects, broken = read_annotation(path)
        except ValueError as error:
            tree.report.count("broken label files, left out", error)
            # Its image is no background: it has labels, but unknown ones.
            damaged = tree.peek_image(path.stem, path, [root / "JPEGImages"])
            if damaged is not None:
                images[damaged] = None
            continue
        for where in broken:
            tree.report.count("broken rows, left out", where)
        image = tree.peek_image(name, path, [root / "JPEGImages", root / "images"]) if name else None
        image = image or tree.find_image(path.stem, path, [root / "JPEGImages", root / "images"])
        if image is None:
            continue
        if images.get(image) is not None:
            tree.report.count("label files of an image that has one already, left out", tree.name(path))
            continue
        images[image] = LabeledImage(image, tuple(objects), stated_size=size)
    images.update((image, LabeledImage(image)) for image in tree.background(images, root))
    return {path: image for path, image in sorted(images.items()) if image is not None}


def _by_list(
    tree: Tree, root: Path, images: dict[Path, LabeledImage], wanted: Sequence[str] | None
) -> dict[str | None, list[LabeledImage]]:
    """Images by the lists of a data set, else by their folders."""
    folder = next((f for f in (root / "ImageSets" / "Main", root / "ImageSets") if any(f.glob("*.txt"))), None)
    if wanted is not None:
        lists = {name: (folder or root / "ImageSets" / "Main") / f"{name}.txt" for name in wanted}
    else:
        # Lists per class, such as cat_train.txt, are no splits.
        found = sorted(folder.glob("*.txt")) if folder else []
        lists = {split: path for path in found if "_" not in path.stem and (split := split_of_name(path.stem))}
    if not lists:
        groups: dict[str | None, list[LabeledImage]] = {}
        for image in images.values():
            groups.setdefault(tree.split_of(image.path), []).append(image)
        return groups
    by_stem: dict[str, LabeledImage] = {}
    for path, image in images.items():
        by_stem.setdefault(stem(path.name), image)
        by_stem[stem(path.relative_to(root).as_posix()) if path.is_relative_to(root) else str(path)] = image
    by_list: dict[str | None, list[LabeledImage]] = {}
    listed = set()
    for split, path in lists.items():
        by_list[split] = []
        for name in _read_list(path):
            member = by_stem.get(stem(name)) or by_stem.get(stem(Path(name).name))
            if member is None:
                tree.report.count("names in lists without an image", f"{name} in {tree.name(path)}")
            else:
                by_list[split].append(member)
                listed.add(member.path)
    if wanted is None and len(listed) < len(images):
        by_list[None] = [image for image in images.values() if image.path not in listed]
    return by_list


def _read_list(path: Path) -> list[str]:
    """Image names of a list; in lists per class, those that have the class (a second column that is not -1)."""
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"the image list {path} does not exist; lists in this folder: {known}")
    rows = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if "_" not in path.stem or not all(re.fullmatch(r".*\s-?[01]", row) for row in rows):
        return rows
    return [row.rsplit(None, 1)[0] for row in rows if row.split()[-1] != "-1"]
