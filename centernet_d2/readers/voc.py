"""Reader of Pascal VOC XML files, with or without lists in ``ImageSets/Main``."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..utils.parsing import parse_xml
from .records import LabeledImage, LabeledObject, ParsedDataset
from .splits import split_of_name
from .tree import Tree, read_text, stem

__all__ = ["EXPECTED_FILES", "LAYOUT", "find", "read", "read_annotation"]

LAYOUT = "Pascal VOC"
EXPECTED_FILES = ".xml files that start with <annotation>"

_HEAD = 4096


def find(tree: Tree) -> list[Path]:
    """Return the annotation files of a folder and the damaged XML files next to them."""
    files = tree.with_suffix(".xml")
    folders = {path.parent for path in files if _is_annotation(path)}
    return [path for path in files if path.parent in folders]


def _is_annotation(path: Path) -> bool:
    with path.open("rb") as file:
        return b"<annotation" in file.read(_HEAD).replace(b"\0", b"")


def read_annotation(path: Path) -> tuple[str, tuple[int, int] | None, list[LabeledObject], list[str]]:
    """Read an XML file.

    VOC boxes are 1-based and inclusive. Like Detectron2, this function returns boxes that start at 0 and end at the
    end of the last pixel.

    Returns:
        File name of the image, (width, height) if present, objects, and the locations of skipped objects.

    Raises:
        ValueError: the file is damaged; the message contains its path.
    """
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", read_text(path))  # `read_text` has decoded the file.
    try:
        root = parse_xml(text)
    except ValueError as error:
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
    (text,) = [one.text or "" for one in element.findall(path)]  # Repeated elements are ambiguous.
    return float(text)


def _object(element: ET.Element, where: str) -> LabeledObject:
    x1, y1, x2, y2 = (_number(element, f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax"))
    label = (element.findtext("name") or "").strip()
    if not label:
        raise ValueError("no name")
    # VOC corners are inclusive, but the VOC devkit treats a box whose corners coincide as empty.
    box = (x1 - 1, y1 - 1, x2, y2) if x2 > x1 and y2 > y1 else (x1, y1, x2, y2)
    difficult = (element.findtext("difficult") or "0").strip() not in ("", "0")
    return LabeledObject(label, box, difficult=difficult, source=where)


def read(tree: Tree, files: list[Path], lists: Sequence[str] | None = None) -> ParsedDataset:
    """Read all annotations of a folder.

    The folder may contain several datasets, like VOCdevkit.

    Args:
        tree: the folder.
        files: annotation files of the folder.
        lists: names of the lists to read as one group each; default: lists named after a split.

    Raises:
        FileNotFoundError: a list of `lists` does not exist.
        ValueError: a list is empty.
    """
    groups: dict[str | None, list[LabeledImage]] = {}
    classes = set()
    roots: dict[Path, list[Path]] = {}
    for path in files:
        roots.setdefault(_root_of(path, tree.root), []).append(path)
    for root, own_files in roots.items():
        images = _images(tree, root, own_files)
        classes |= {obj.label for image in images.values() for obj in image.objects}
        for split, members in _by_list(tree, root, images, lists).items():
            groups.setdefault(split, []).extend(members)
    return ParsedDataset(LAYOUT, tree.root, groups, sorted(classes))


def _root_of(path: Path, top: Path) -> Path:
    """Return the folder of a VOC dataset: the parent of ``Annotations``, else `top`."""
    for folder in path.parents:
        if folder == top:
            break
        if folder.name.lower() == "annotations":
            return folder.parent
    return top


def _images(tree: Tree, root: Path, files: list[Path]) -> dict[Path, LabeledImage]:
    """Return all images of a dataset, with or without annotations."""
    images: dict[Path, LabeledImage | None] = {}
    for path in tqdm(files, "Pascal VOC", leave=False, disable=len(files) < 500):
        try:
            name, size, objects, broken = read_annotation(path)
        except ValueError as error:
            tree.report.count("broken label files, skipped", error)
            # The image has unknown labels, so it is not background.
            damaged = tree.peek_image(path.stem, path, [root / "JPEGImages"])
            if damaged is not None:
                images[damaged] = None
            continue
        for where in broken:
            tree.report.count("broken rows, skipped", where)
        image = tree.peek_image(name, path, [root / "JPEGImages", root / "images"]) if name else None
        image = image or tree.find_image(path.stem, path, [root / "JPEGImages", root / "images"])
        if image is None:
            continue
        if images.get(image) is not None:
            tree.report.count("duplicate label files of an image, skipped", tree.name(path))
            continue
        images[image] = LabeledImage(image, tuple(objects), stated_size=size)
    images.update((image, LabeledImage(image)) for image in tree.background(images, root))
    return {path: image for path, image in sorted(images.items()) if image is not None}


def _by_list(
    tree: Tree, root: Path, images: dict[Path, LabeledImage], names: Sequence[str] | None
) -> dict[str | None, list[LabeledImage]]:
    """Group images by the lists of a dataset, or by folders without lists."""
    folder = next((f for f in (root / "ImageSets" / "Main", root / "ImageSets") if any(f.glob("*.txt"))), None)
    if names is not None:
        lists = {name: (folder or root / "ImageSets" / "Main") / f"{name}.txt" for name in names}
    else:
        # Lists per class, such as cat_train.txt, are not splits.
        paths = sorted(folder.glob("*.txt")) if folder else []
        lists = {split: path for path in paths if "_" not in path.stem and (split := split_of_name(path.stem))}
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
                tree.report.count("list entries without an image", f"{name} in {tree.name(path)}")
            else:
                by_list[split].append(member)
                listed.add(member.path)
    if names is None and len(listed) < len(images):
        by_list[None] = [image for image in images.values() if image.path not in listed]
    return by_list


def _read_list(path: Path) -> list[str]:
    """Return the image names of a list; lists per class have a second column, where -1 means without the class."""
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"the image list {path} does not exist; lists in this folder: {known}")
    rows = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if "_" not in path.stem or not all(re.fullmatch(r".*\s-?[01]", row) for row in rows):
        return rows
    return [row.rsplit(None, 1)[0] for row in rows if row.split()[-1] != "-1"]
