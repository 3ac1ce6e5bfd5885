"""Reader of YOLO label files, with or without ``data.yaml``.

Rows contain boxes, boxes with keypoints, or polygons, which are converted to boxes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..utils.parsing import parse_yaml
from ..utils.text import shown
from .keypoints import pairs_from_order
from .lists import images_in_list, lists_of_splits
from .records import MOST_CLASSES, MOST_KEYPOINTS, Keypoints, LabeledImage, LabeledObject, ParsedDataset
from .splits import split_of_name
from .tree import Tree, decode, read_text, stem
from .yolo_rows import RowParser, is_row

__all__ = ["EXPECTED_FILES", "LAYOUT", "find", "read", "root_of"]

LAYOUT = "YOLO"
EXPECTED_FILES = (
    "a data.yaml with names and train, or .txt files with class and box in a folder labels or next to the images"
)

# Folders that are replaced by labels; darknet defines JPEGImages and raw.
_IMAGE_FOLDERS = ("images", "jpegimages", "raw", "image", "imgs", "img", "pictures", "photos", "frames")
_NAME_FILES = ("classes.txt", "obj.names", "classes.names", "predefined_classes.txt", "labels.txt")


def find(tree: Tree) -> list[Path]:
    """Return ``data.yaml``, if present, and the label files of a folder."""
    described = [path for path in tree.with_suffix(".yaml", ".yml") if _is_description(path)]
    return described + [path for path in tree.with_suffix(".txt") if _is_label(path, tree)]


def _is_description(path: Path) -> bool:
    try:
        content = _load_yaml(path)
    except ValueError:
        return path.name == "data.yaml"
    return isinstance(content, dict) and "names" in content and bool({"train", "val", "test"} & set(content))


def _is_label(path: Path, tree: Tree) -> bool:
    if _names_classes(path):
        return False
    if "labels" in (part.lower() for part in (tree.root.name, *path.relative_to(tree.root).parts[:-1])):
        return True
    if tree.peek_image(path.stem, path) is None:
        return False
    with path.open("rb") as file:
        return is_row(decode(file.read(4096), "replace").split("\n")[0])


def _load_yaml(path: Path) -> Any:
    try:
        return parse_yaml(read_text(path), strings=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error


def root_of(path: Path) -> Path:
    """Return the dataset folder of a ``data.yaml``.

    The folder is the key ``path`` if it exists, else the parent folder of the file.

    Raises:
        ValueError: the file is not a YAML file.
    """
    content = _load_yaml(path)
    value = content.get("path") if isinstance(content, dict) else None
    folder = Path(os.path.normpath(path.parent / os.path.expanduser(str(value or ""))))
    return folder if folder.is_dir() else path.parent


@dataclass(frozen=True)
class _Description:
    """Content of ``data.yaml``; `names` is None if the class names are unknown."""

    names: list[str] | None = None
    keypoints: Keypoints | None = None
    dimensions: int = 3


def read(tree: Tree, files: list[Path]) -> ParsedDataset:
    """Read the images listed in ``data.yaml``, or all images and labels without one.

    Raises:
        ValueError: ``data.yaml`` is damaged, contradicts itself, or names folders that do not exist.
    """
    described = [path for path in files if path.suffix.lower() in (".yaml", ".yml")]
    pairs = _pairs(tree, set(files).difference(described))
    if len(described) > 1:
        preferred = [path for path in described if path.name == "data.yaml"]
        if len(preferred) != 1:
            raise ValueError(f"several files describe a YOLO dataset; pass one of {', '.join(map(str, described[:3]))}")
        described = preferred
    if described:
        content = _load_yaml(described[0])
        if not isinstance(content, dict):
            raise ValueError(f"{described[0]} does not describe a YOLO dataset: it has no keys names and train")
        description = _describe(described[0], content)
        paths = _listed_images(tree, described[0], content)
    else:
        description = _Description(_named_classes(tree))
        paths = _images_by_lists(tree, set(files), pairs) or _all_images(tree, pairs)
    used = {path for group in paths.values() for path in group}
    tree.measure(used)
    labels = {image: pairs.get(image) or _label_of(tree, image) for image in used}
    known_labels = set(labels.values())
    for path in files:
        if path not in described and path not in known_labels:
            tree.report.count("labels without an image", tree.name(path))
    parser = RowParser(description.names, description.keypoints, description.dimensions, tree.report)
    groups = {split: _read_group(tree, split, images, labels, parser) for split, images in paths.items()}
    parser.check_ambiguity(tree.root)
    names = description.names
    if names is None:
        used_labels = {obj.label for group in groups.values() for image in group for obj in image.objects}
        names = [f"class_{i}" for i in range(max((int(label.split("_")[1]) for label in used_labels), default=-1) + 1)]
        tree.report.note("no data.yaml or classes.txt defines class names; classes are named class_0, class_1, ...")
    return ParsedDataset(LAYOUT, tree.root, groups, names, keypoints=description.keypoints)


def _describe(path: Path, content: dict) -> _Description:
    names = content.get("names")
    if isinstance(names, dict):
        try:
            by_index = {int(key): str(value) for key, value in names.items()}
        except ValueError:
            raise ValueError(f"{path}: the keys of names must be numbers") from None
        if min(by_index, default=0) < 0 or max(by_index, default=0) >= MOST_CLASSES:
            raise ValueError(f"{path}: the keys of names must be numbers from 0 to {MOST_CLASSES - 1}")
        if len(by_index) < len(names):
            raise ValueError(f"{path}: the keys of names contain a number twice")
        names = [by_index.get(index, f"class_{index}") for index in range(max(by_index, default=-1) + 1)]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: names must be a list of class names, or a mapping from numbers to class names")
    names = _unique([name.strip() for name in names], path)
    if "nc" in content and str(content["nc"]).strip() != str(len(names)):
        raise ValueError(f"{path}: nc is {shown(content['nc'])}, but there are {len(names)} names")
    if "kpt_shape" not in content:
        return _Description(names)
    try:
        shape = content["kpt_shape"]
        count, dimensions = (int(value) for value in (shape if isinstance(shape, list) else ()))
        if not 1 <= count <= MOST_KEYPOINTS or dimensions not in (2, 3):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"{path}: kpt_shape is {shown(content['kpt_shape'])}, but must be [number of keypoints, 2 or 3], with at "
            f"most {MOST_KEYPOINTS} keypoints"
        ) from None
    return _Description(names, _keypoints(path, content, count), dimensions)


def _unique(names: list[str], path: Path) -> list[str]:
    if len(set(names)) != len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"{path}: class names must be unique, but {shown(twice)} occurs twice")
    return names


def _keypoints(path: Path, content: dict, count: int) -> Keypoints:
    names = content.get("kpt_names")
    if isinstance(names, dict):  # One list per class; the keypoint head supports one list.
        names = next(iter(names.values()), None)
    if not isinstance(names, list) or len(set(map(str, names))) != count:
        names = [f"keypoint_{index}" for index in range(1, count + 1)]
    try:
        order = [int(value) for value in content.get("flip_idx") or range(count)]
        return Keypoints(tuple(map(str, names)), pairs_from_order([str(name) for name in names], order))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _names_classes(path: Path) -> bool:
    return path.name.lower() in _NAME_FILES or path.suffix.lower() == ".names"


def _named_classes(tree: Tree) -> list[str] | None:
    """Read class names from the first of _NAME_FILES, or from darknet's ``*.names`` files."""
    files = [path for path in tree.files if path.name.lower() in _NAME_FILES][:1]
    files = files or [path for path in tree.files if _names_classes(path)]
    names = {path: _unique(_lines(path), path) for path in files}
    if len(set(map(tuple, names.values()))) > 1:
        raise ValueError(f"{' and '.join(map(str, files[:2]))} contain different class names; keep one file")
    return next(iter(names.values()), None) or None


def _lines(path: Path) -> list[str]:
    """Return the class names of a file; an empty line between names is a class, too."""
    lines = read_text(path).rstrip().split("\n")
    return [line.strip() or f"class_{index}" for index, line in enumerate(lines) if any(lines)]


def _listed_images(tree: Tree, path: Path, content: dict) -> dict[str | None, list[Path]]:
    """Return the images of each split in ``data.yaml``."""
    folder = os.path.expanduser(str(content.get("path") or "")).replace("\\", "/")
    bases = [path.parent / folder, path.parent]
    roots = [tree.root, *([Path(folder)] if os.path.isabs(folder) else [])]
    groups: dict[str | None, list[Path]] = {}
    for key in ("train", "val", "valid", "test"):
        value = content.get(key)
        sources = [] if value in (None, "", "null", "~") else [value] if isinstance(value, str) else list(value or ())
        images = []
        for source in sources:
            images += _images_at(tree, path, key, str(source), bases, roots)
        if sources and (images or key != "test"):
            groups[split_of_name(key)] = list(dict.fromkeys(images))
    return groups


def _images_by_lists(tree: Tree, labels: set[Path], pairs: dict[Path, Path]) -> dict[str | None, list[Path]]:
    """Group images by darknet's lists (``train.txt``, ``valid.txt``); labeled images in no list form the group None."""
    lists = lists_of_splits(tree, [path for path in tree.with_suffix(".txt") if path not in labels])
    if not lists:
        return {}
    groups: dict[str | None, list[Path]] = {}
    for split, path in lists.items():
        groups[split] = images_in_list(tree, path)
    listed = {image for images in groups.values() for image in images}
    others = [image for image in tree.images if image not in listed and image in pairs]
    return {**groups, None: others} if others else groups


def _all_images(tree: Tree, pairs: dict[Path, Path]) -> dict[str | None, list[Path]]:
    """Group labeled images and backgrounds by their folders."""
    groups: dict[str | None, list[Path]] = {}
    for image in sorted({*pairs, *tree.background(pairs)}):
        groups.setdefault(tree.split_of(image), []).append(image)
    return groups


def _images_at(
    tree: Tree, path: Path, key: str, source: str, bases: Sequence[Path], roots: Sequence[Path]
) -> list[Path]:
    """Return the images below a folder or in a list."""
    if "://" in source:
        raise ValueError(f"{path}: {key} is the URL {source}; download the images and specify their folder")
    source = source.replace("\\", "/")
    inner = source
    while inner.startswith("../"):
        inner = inner[3:]
    # Roboflow writes ../train/images for a folder next to data.yaml.
    candidates = [Path(os.path.normpath(base / name)) for base in bases for name in (source, inner)]
    roots = [*roots, *([Path(source)] if os.path.isabs(source) else [])]
    target = next((p for p in candidates if p.exists() and any(p.is_relative_to(root) for root in roots)), None)
    if target is None:
        if key == "test":  # Exporters often write a test folder that does not exist.
            tree.report.note(f"{path.name}: test is {source}, which does not exist; skipped")
            return []
        hint = "; remove the key to sample val from train" if key.startswith("val") else ""
        raise ValueError(f"{path}: {key} is {source}, which does not exist in {tree.root}{hint}")
    if not target.is_relative_to(tree.root):
        tree.report.count("image folders or lists outside the dataset folder", target)
    if target.is_dir():
        return _below(tree, target)
    return images_in_list(tree, target)


def _below(tree: Tree, folder: Path) -> list[Path]:
    if folder.is_relative_to(tree.root):
        return [image for image in tree.images if image.is_relative_to(folder)]
    return Tree(folder, tree.report).images


def _pairs(tree: Tree, labels: set[Path]) -> dict[Path, Path]:
    """Return image -> label file for the labeled images of the folder.

    A label file whose path contains no image path belongs to the only nearest image with its stem.
    """
    pairs = {image: label for image in tree.images if (label := _label_of(tree, image)) in labels}
    for label in sorted(labels - set(pairs.values())):
        image = tree.peek_image(label.stem, label)
        if image is not None:
            pairs.setdefault(image, label)
    return pairs


def _label_paths(image: Path) -> list[Path]:
    """Return candidate label files of an image: in labels instead of images, or next to the image."""
    parts = list(image.with_name(f"{stem(image.name)}.txt").parts)
    paths = [Path(*parts)]
    folders = [index for index, part in enumerate(parts[:-1]) if part.lower() in _IMAGE_FOLDERS]
    if folders:
        paths.insert(0, Path(*parts[: folders[-1]], "labels", *parts[folders[-1] + 1 :]))
    else:  # train/a.jpg and labels/train/a.txt, or a.jpg and labels/a.txt
        paths.append(Path(*parts[:-2], "labels", *parts[-2:]))
        paths.append(Path(*parts[:-1], "labels", parts[-1]))
    return paths


def _label_of(tree: Tree, image: Path) -> Path | None:
    return next((label for path in _label_paths(image) if (label := tree.find_file(path))), None)


def _read_group(
    tree: Tree, split: str | None, images: Sequence[Path], labels: dict[Path, Path | None], parser: RowParser
) -> list[LabeledImage]:
    labeled = []
    progress = tqdm(images, f"YOLO {split or ''}", leave=False, disable=len(images) < 500)
    for image in progress:
        label, size = labels[image], tree.sizes[image]
        objects = [] if label is None or size is None else _read_label(tree, label, size, parser)
        if objects is not None:  # The labels of a broken file are unknown, so the image is not background.
            labeled.append(LabeledImage(image, tuple(objects)))
    return labeled


def _read_label(tree: Tree, path: Path, size: tuple[int, int], parser: RowParser) -> list[LabeledObject] | None:
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        tree.report.count("broken label files, skipped", f"{tree.name(path)} ({error})")
        return None
    objects = [
        parser.parse(line, size, f"{tree.name(path)}, line {number}")
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    return [obj for obj in objects if obj is not None]
