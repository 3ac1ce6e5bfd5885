"""Reader of Pascal VOC XML files, with or without lists in ``ImageSets/Main``."""

from __future__ import annotations

import codecs
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..utils.files import read_regular
from ..utils.parsing import parse_xml
from .lists import images_in_list, lists_of_splits
from .records import LabeledImage, LabeledObject, ParsedDataset, is_true
from .splits import split_of_name
from .tree import Tree, decode, read_text, stem

__all__ = ["EXPECTED_FILES", "LAYOUT", "find", "read", "read_annotation"]

LAYOUT = "Pascal VOC"
# Elements of an object that contain its outline.
_SHAPES = ("bndbox", "robndbox", "polygon", "rotated_bndbox", "segmentation", "points")
EXPECTED_FILES = ".xml files that start with <annotation>"

_HEAD = 4096
_DECLARATION = re.compile(rb"""^\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*\?>""")
# Families of text encodings; other codecs of Python, such as idna, are no encodings of XML files.
_ENCODINGS = ("utf-8", "iso8859", "cp", "gb", "big5", "euc", "shift_jis", "koi8", "mac", "ascii", "tis", "johab", "hz")
# Files with these names usually use the larger encoding of the same family.
_LARGER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "big5": "cp950", "euc_kr": "cp949"}


def find(tree: Tree) -> list[Path]:
    """Return the annotation files of a folder and the damaged XML files next to them."""
    files = tree.with_suffix(".xml")
    folders = {path.parent for path in files if _is_annotation(path)}
    return [path for path in files if path.parent in folders]


def _is_annotation(path: Path) -> bool:
    with path.open("rb") as file:
        return re.search(rb"<annotation[\s>/]", file.read(_HEAD).replace(b"\0", b"")) is not None


def _decode(data: bytes) -> str:
    """Decode an XML file in the declared encoding, and remove the declaration.

    Raises:
        ValueError: the encoding is unknown, or the file has another one.
    """
    match = _DECLARATION.match(data)
    name = match[1].decode().lower() if match else "utf-8"
    if name.startswith(("utf-16", "utf-32", "ucs-")):  # A readable declaration is not UTF-16, but .NET writes it.
        name = "utf-8"
    try:
        name = codecs.lookup(name).name
        name = _LARGER.get(name, name)
        if not name.startswith(_ENCODINGS):
            raise LookupError
        text = decode(data) if name == "utf-8" else data.decode(name)
    except LookupError:
        raise ValueError(f"the declared encoding {name} is unknown") from None
    except UnicodeDecodeError as error:
        declared = "as declared" if match else "and declares no other encoding"
        raise ValueError(f"it is not in {name.upper()} {declared} (byte {error.start})") from None
    return re.sub(r"^\s*<\?xml[^>]*\?>", "", text)


def read_annotation(path: Path) -> tuple[str, tuple[int, int] | None, list[LabeledObject], list[str]]:
    """Read an XML file.

    VOC boxes are 1-based and inclusive. Like Detectron2, this function returns boxes that start at 0 and end at the
    end of the last pixel.

    Returns:
        File name of the image, (width, height) if present, objects, and the locations of skipped objects with the
        reason.

    Raises:
        ValueError: the file is damaged; the message contains its path.
    """
    try:
        text = _decode(read_regular(path))
    except ValueError as error:
        raise ValueError(f"{path} is not a Pascal VOC annotation: {error}") from None
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
        except ValueError as error:
            broken.append(f"{where} ({error})")
    try:
        width, height = (int(_number(root, f"size/{name}")) for name in ("width", "height"))
        size = (width, height) if min(width, height) > 0 else None
    except (TypeError, ValueError, OverflowError):
        size = None
    return (root.findtext("filename") or "").strip(), size, objects, broken


def _number(element: ET.Element, path: str) -> float:
    found = [element] if path == "." else element.findall(path)
    if len(found) > 1:
        raise ValueError(f"<{path}> occurs {len(found)} times")
    text = (found[0].text if found else "") or ""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"<{path.rsplit('/')[-1] if path != '.' else element.tag}> is '{text.strip()[:20]}'") from None


def _object(element: ET.Element, where: str) -> LabeledObject:
    label = (element.findtext("name") or "").strip()
    if not label:
        raise ValueError("no name")
    difficult = is_true(element.findtext("difficult") or "")
    corners = element.find("bndbox/xmin") is not None
    return LabeledObject(label, _box(element), difficult=difficult, source=where, corners=corners)


def _box(element: ET.Element) -> tuple[float, float, float, float]:
    """Return the box of an object, or the extent of its other shape.

    Raises:
        ValueError: the object has no complete shape.
    """
    if element.find("bndbox/xmin") is not None:
        x1, y1, x2, y2 = (_number(element, f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax"))
        (x1, x2), (y1, y2) = _span(x1, x2), _span(y1, y2)
        return (x1, y1, x2, y2)
    shape = next((child for child in element if child.tag in _SHAPES and len(child)), None)
    if shape is None:
        raise ValueError("no bndbox")
    if shape.find("cx") is not None:  # roLabelImg
        x, y, width, height, angle = (_number(shape, name) for name in ("cx", "cy", "w", "h", "angle"))
        if not all(map(math.isfinite, (x, y, width, height, angle))):
            return (math.nan,) * 4
        cos, sin = abs(math.cos(angle)) / 2, abs(math.sin(angle)) / 2
        dx, dy = width * cos + height * sin, width * sin + height * cos
        return (x - dx, y - dy, x + dx, y + dy)
    xs, ys = (
        [_number(tag, ".") for tag in shape.iter() if re.fullmatch(rf"{axis}(\d+|_.*)?", tag.tag)] for axis in "xy"
    )
    if len(xs) < 2 or len(xs) != len(ys):
        raise ValueError(f"<{shape.tag}> has no points x, y")
    if not all(map(math.isfinite, (*xs, *ys))):
        return (math.nan,) * 4
    return (min(xs), min(ys), max(xs), max(ys))


def _span(first: float, last: float) -> tuple[float, float]:
    """Convert inclusive, 1-based coordinates, also exchanged ones; the VOC devkit treats equal ones as empty."""
    if first == last:
        return first, last
    return (first - 1, last) if first < last else (first, last - 1)


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
        image = tree.paired_image(name, path, [root / "JPEGImages", root / "images"])
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
    """Group images by the lists of ``ImageSets``, else by lists in the dataset folder, else by folders."""
    folder = next((f for f in (root / "ImageSets" / "Main", root / "ImageSets") if any(f.glob("*.txt"))), None)
    if names is not None:
        lists = {name: (folder or root / "ImageSets" / "Main") / f"{name}.txt" for name in names}
    else:
        # Lists per class, such as cat_train.txt, are not splits.
        paths = sorted(folder.glob("*.txt")) if folder else []
        lists = {split: path for path in paths if "_" not in path.stem and (split := split_of_name(path.stem))}
    if not lists:
        groups: dict[str | None, list[LabeledImage]] = {}
        for split, path in lists_of_splits(tree, [p for p in tree.with_suffix(".txt") if p.parent == root]).items():
            groups[split] = [images[image] for image in images_in_list(tree, path) if image in images]
        listed = {image.path for members in groups.values() for image in members}
        if groups:
            return {**groups, None: [image for image in images.values() if image.path not in listed]}
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
