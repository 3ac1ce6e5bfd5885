"""Text files that list the images of a split, one per line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .splits import split_of_name
from .tree import Tree, decode, read_text

__all__ = ["images_in_list", "lists_of_splits"]


def lists_of_splits(tree: Tree, texts: Iterable[Path]) -> dict[str, Path]:
    """Return the lists that define splits, such as ``train.txt`` and ``valid.txt``.

    A single list, such as CVAT exports, does not define splits. If a split has several lists, the outermost is used.
    """
    lists: dict[str, Path] = {}
    for path in sorted(texts, key=lambda path: (len(path.parts), len(path.stem), path)):
        split = split_of_name(path.stem)
        if split is None:
            continue
        if split in lists:
            tree.report.note(f"{tree.name(path)} is not used because there is {tree.name(lists[split])}")
        elif not _is_list(tree, path):
            tree.report.note(f"{tree.name(path)} is not used: its first lines contain no existing image")
        else:
            lists[split] = path
    if len(lists) < 2:
        for path in lists.values():
            tree.report.note(f"{tree.name(path)} is not used: a single list does not define splits")
        return {}
    return lists


def images_in_list(tree: Tree, path: Path) -> list[Path]:
    """Return the images of a list, without duplicates; missing images are counted."""
    names = [_image_name(tree, line, path) for line in read_text(path).split("\n") if line.strip()]
    images = [tree.find_image(name, path) for name in names]
    return list(dict.fromkeys(image for image in images if image is not None))


def _image_name(tree: Tree, line: str, path: Path) -> str:
    """Return the line, or its first column if only this names an image: other columns are label files or boxes."""
    first = line.replace(",", " ").split()[0] if line.strip(", \t") else line
    return first if tree.peek_image(line, path) is None and tree.peek_image(first, path) is not None else line


def _is_list(tree: Tree, path: Path) -> bool:
    with path.open("rb") as file:
        lines = decode(file.read(4096), "replace").split("\n")
    return any(tree.peek_image(_image_name(tree, line, path), path) is not None for line in lines if line.strip())
