"""Index of the files in a folder, with image lookup and image sizes."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..imaging.reading import IMAGE_SUFFIXES, ImageHeader, read_headers
from ..utils.files import read_regular
from ..utils.validation import LARGEST_COORDINATE
from .records import Report
from .splits import split_of_path

__all__ = ["Tree", "decode", "read_text", "relative_name", "stated_size", "stem"]

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# More than any public dataset; a folder with more is probably not a dataset.
_MOST_FILES = 5_000_000
_DEEPEST = 50
_JUNK = ("thumbs.db", "desktop.ini")


def read_text(path: Path) -> str:
    """Read a text file in an encoding of :func:`decode`; line endings become \\n.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a text file in one of these encodings.
    """
    try:
        return decode(read_regular(path)).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8 (byte {error.start}); save it in UTF-8") from None


def decode(data: bytes, errors: str = "strict") -> str:
    """Decode text in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark.

    No other encoding is guessed: a wrong one would give wrong names silently.

    Raises:
        UnicodeDecodeError: the text has another encoding, or is truncated or damaged.
    """
    for encoding, mark in (("utf-32", codecs.BOM_UTF32), ("utf-16", codecs.BOM_UTF16)):
        if data.startswith((mark, mark[::-1])):
            return data.decode(encoding, errors)
    text = data.decode("utf-8-sig", errors)
    if "\0" in text and errors == "strict":
        raise UnicodeDecodeError("utf-8", data, data.index(0), data.index(0) + 1, "NUL is not text")
    return text


def stem(name: str) -> str:
    """Remove the suffix of an image or label file from a file name."""
    base, suffix = os.path.splitext(name)
    known = suffix.lower() in (*IMAGE_SUFFIXES, ".xml", ".txt", ".json")
    return base if known else name


def relative_name(path: Path, root: Path) -> str:
    """Return a path relative to a folder, or the path itself if it is outside."""
    full, start = path.as_posix(), f"{root.as_posix().rstrip('/')}/"
    return full[len(start) :] if full.startswith(start) else full


def stated_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Return the width and height of a label file, or None if they are invalid."""
    sides = (width, height)
    if all(type(side) is int and 0 < side <= LARGEST_COORDINATE for side in sides):
        return sides
    return None


def _key(name: str) -> str:
    """Return a lookup key that ignores case and the Unicode normalization form."""
    return unicodedata.normalize("NFC", name).casefold()


class Tree:
    """Files below a folder, except hidden files and operating system metadata.

    Attributes:
        root: absolute path of the folder.
        files: sorted paths of all files.
        images: sorted paths of the image files, by suffix.
        report: receives the counts of irregularities.
        headers: image -> header, or the error of an unreadable image; see :meth:`measure`.
        sizes: image -> (width, height), or None for unreadable images.
    """

    def __init__(self, root: Path, report: Report) -> None:
        self.root = Path(os.path.abspath(root))
        self.report = report
        self.files, self._folders = _walk(self.root, report)
        self.images = [path for path in self.files if path.suffix.lower() in IMAGE_SUFFIXES]
        self.headers: dict[Path, ImageHeader | OSError] = {}
        self.sizes: dict[Path, tuple[int, int] | None] = {}
        self._paths: dict[str, Path] = {}
        self._names: dict[str, list[Path]] = {}
        self._all = {_key(str(path)): path for path in self.files}
        self._exact = {str(path): path for path in self.images}
        for full, path in self._exact.items():
            self._paths.setdefault(_key(full), path)
            self._paths.setdefault(_key(stem(full)), path)
            for name in (path.name, stem(path.name)):
                self._names.setdefault(_key(name), []).append(path)

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Return the files with one of the suffixes, ignoring case."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def name(self, path: Path) -> str:
        """Return the name of a file for messages."""
        return relative_name(path, self.root)

    def split_of(self, path: Path) -> str | None:
        """Return the split that the folders of a file are named after, or None."""
        return split_of_path(relative_name(path.parent, self.root)) if path.is_relative_to(self.root) else None

    def find_image(self, name: str, label: Path, near: Sequence[Path] = ()) -> Path | None:
        """Find the image of a label, or count the reason and return None.

        Args:
            name: path or name in the label file, with slashes or backslashes, with or without suffix.
            label: the label file. If several images have this name, the nearest one is returned.
            near: folders to search first for a relative name.
        """
        image = self.peek_image(name, label, near)
        where = f"{self.name(label)} ({name})"
        if image is None and _URL.match(name.strip()):
            self.report.count("labels whose image is a URL (not downloaded)", where)
        elif image is None and os.path.normpath(name.strip().replace("\\", "/")).startswith("../"):
            self.report.count(f"labels without an image in {self.root} (the image may be outside)", where)
        elif image is None:
            self.report.count("labels without an image", where)
        elif _URL.match(name.strip()):
            self.report.count("images with a URL, found by file name", name.strip())
        elif os.path.isabs(name.strip()):
            self.report.count("images with an absolute path", name.strip())
        return image

    def paired_image(self, name: str, label: Path, near: Sequence[Path] = ()) -> Path | None:
        """Find the image of a label file, or count the reason and return None.

        The image with the stem of the label file is preferred to another existing image that the file names.

        Args:
            name: path or name in the label file, or "".
            label, near: see :meth:`find_image`.
        """
        named, own = self.peek_image(name, label, near), self.peek_image(label.stem, label, near)
        if named is None and own is None:
            return self.find_image(label.stem, label, near)
        if named is None:
            return own
        if own is None or _key(stem(named.name)) == _key(stem(label.name)):
            return self.find_image(name, label, near)
        self.report.count(
            "label files that name another image (paired by the name of the label file)", self.name(label)
        )
        return own

    def peek_image(self, name: str, label: Path, near: Sequence[Path] = ()) -> Path | None:
        """Find the image of a label like :meth:`find_image`, without counting."""
        name = name.strip().replace("\\", "/")
        if not name:
            return None
        if _URL.match(name):  # The image may have been downloaded.
            last = os.path.basename(re.split("[?#]", name)[0])
            return self._nearest(last, label) or self._nearest(unquote(last), label)
        for folder in (*near, label.parent, self.root):
            path = os.path.normpath(os.path.join(folder, name))
            image = self._exact.get(path) or self._paths.get(_key(path))
            if image is not None:
                return image
            if os.path.isabs(name) and os.path.isfile(path):
                return Path(path)
        return self._nearest(os.path.basename(name), label)

    def empty_splits(self) -> set[str]:
        """Return the splits (train, val) with folders but no images.

        The result is empty if no split has images in its folders.
        """
        folders = {image.parent for image in self.images}
        non_empty = {split for folder in folders if (split := self.split_of(folder / "image"))}
        named = {split for folder in self._folders if (split := split_of_path(folder.name)) in ("train", "val")}
        return named - non_empty if non_empty else set()

    def find_file(self, path: Path) -> Path | None:
        """Find a file in the tree, ignoring case, or outside of it."""
        return self._all.get(_key(str(path))) or (path if path.is_file() else None)

    def background(self, labeled: Iterable[Path], root: Path | None = None) -> list[Path]:
        """Return the unlabeled images below `root`.

        Images with the name of a labeled image are skipped: they are masks or visualizations.
        """
        labeled = set(labeled)
        stems = {_key(stem(path.name)) for path in labeled}
        background = []
        for image in self.images:
            if image in labeled or not image.is_relative_to(root or self.root):
                continue
            if _key(stem(image.name)) in stems:
                self.report.count("images with the name of a labeled image, skipped", self.name(image))
            else:
                background.append(image)
        return background

    def _nearest(self, name: str, label: Path) -> Path | None:
        """Return the image with this name or stem that is nearest to a label; None if it is ambiguous.

        Images in the split of the label are preferred, then images that share most parent folders with it.
        """
        candidates = self._names.get(_key(name)) or self._names.get(_key(stem(name))) or []
        split, parts = self.split_of(label), label.parent.parts

        def closeness(path: Path) -> tuple[bool, int]:
            return self.split_of(path) == split, len(os.path.commonprefix([path.parent.parts, parts]))

        ranked = sorted(candidates, key=closeness, reverse=True)
        if len(ranked) > 1 and closeness(ranked[0]) == closeness(ranked[1]):
            return None
        return ranked[0] if ranked else None

    def measure(self, paths: Iterable[Path]) -> None:
        """Read image headers and store them in ``headers`` and ``sizes``."""
        new = [path for path in dict.fromkeys(paths) if path not in self.sizes]
        for path, header in zip(new, read_headers(new, "image headers"), strict=True):
            self.headers[path] = header
            self.sizes[path] = None if isinstance(header, OSError) else header.upright_size


def _walk(root: Path, report: Report) -> tuple[list[Path], list[Path]]:
    """Return regular files and folders below a folder, sorted; follow links, but visit every folder once.

    Raises:
        ValueError: the folder contains too many files, or folders that are nested too deep.
    """
    files: list[str] = []
    subfolders, visited = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        subfolders += [Path(folder, name) for name in folders]
        for name in names:
            path = os.path.join(folder, name)
            if name.startswith(".") or name.lower() in _JUNK:
                continue
            if os.path.isfile(path):
                files.append(path)
            else:
                report.count("pipes, devices and broken links, skipped", relative_name(Path(path), root))
        if len(files) > _MOST_FILES or len(Path(folder).parts) - len(root.parts) > _DEEPEST:
            raise ValueError(
                f"{root} contains more than {_MOST_FILES} files, or folders in more than {_DEEPEST} levels; pass the "
                "folder of the dataset"
            )
    return [Path(path) for path in sorted(files)], subfolders
