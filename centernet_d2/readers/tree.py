"""Files of a folder, looked at once: what is junk, which image a label means, how large images are."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..imaging.reading import read_headers
from .records import Report
from .splits import split_of_path

__all__ = ["Tree", "decode", "read_text", "relative_name", "stated_size", "stem"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_JUNK = ("thumbs.db", "desktop.ini")


def read_text(path: Path) -> str:
    """A text file of any platform, see :func:`decode`; lines end in \\n.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no text.
    """
    try:
        return decode(path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file") from None


def decode(data: bytes, errors: str = "strict") -> str:
    """Text in UTF-16 if it has that byte order mark, else in UTF-8 with or without one, else in Latin-1.

    Raises:
        UnicodeDecodeError: UTF-16 that is cut or damaged.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors)
    try:
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError:
        return data.decode("latin-1")


def stem(name: str) -> str:
    """A file name without the suffix of an image or label file."""
    base, suffix = os.path.splitext(name)
    known = suffix.lower() in (*IMAGE_SUFFIXES, ".xml", ".txt", ".json")
    return base if known else name


def relative_name(path: Path, root: Path) -> str:
    """A path for messages and lists: relative to a folder if it is inside."""
    full, start = path.as_posix(), f"{root.as_posix().rstrip('/')}/"
    return full[len(start) :] if full.startswith(start) else full


def stated_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height as a label file has them, or None if they are no size."""
    if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0:
        return width, height
    return None


def _key(name: str) -> str:
    """Names that differ only in case or in how an accent is stored are one."""
    return unicodedata.normalize("NFC", name).casefold()


class Tree:
    """All files below a folder but hidden ones and what operating systems leave behind.

    Attributes:
        root: absolute.
        files: sorted.
        images: those that are images by their suffix.
        report: where oddities are counted.
    """

    def __init__(self, root: Path, report: Report) -> None:
        self.root = Path(os.path.abspath(root))
        self.report = report
        self.files, self._folders = _walk(self.root)
        self.images = [path for path in self.files if path.suffix.lower() in IMAGE_SUFFIXES]
        self.sizes: dict[Path, tuple[int, int] | None] = {}
        self._paths: dict[str, Path] = {}
        self._names: dict[str, list[Path]] = {}
        self._every = {_key(str(path)): path for path in self.files}
        self._exact = {str(path): path for path in self.images}
        for full, path in self._exact.items():
            self._paths.setdefault(_key(full), path)
            self._paths.setdefault(_key(stem(full)), path)
            for name in (path.name, stem(path.name)):
                self._names.setdefault(_key(name), []).append(path)

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Files by their suffix, in any case."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def name(self, path: Path) -> str:
        """For messages."""
        return relative_name(path, self.root)

    def split_of(self, path: Path) -> str | None:
        """The split that a folder above a file names."""
        return split_of_path(relative_name(path.parent, self.root)) if path.is_relative_to(self.root) else None

    def find_image(self, name: str, label: Path, near: Sequence[Path] = ()) -> Path | None:
        """The image that a label means, or None; then the reason is counted.

        Args:
            name: as the label has it: a path with slashes of either kind, or a bare name, with or without suffix.
            label: the label file; of several images with the name, the one nearest to it is meant.
            near: folders that a relative name may start at, before all others.
        """
        found = self.peek_image(name, label, near)
        where = f"{self.name(label)} ({name})"
        if found is None and _URL.match(name.strip()):
            self.report.count("labels whose image is a URL, which is not fetched", where)
        elif found is None and os.path.normpath(name.strip().replace("\\", "/")).startswith("../"):
            self.report.count(f"labels without an image in {self.root}, though they may name one outside", where)
        elif found is None:
            self.report.count("labels without an image", where)
        elif _URL.match(name.strip()):
            self.report.count("images with a URL, found by its last part", name.strip())
        elif os.path.isabs(name.strip()):
            self.report.count("images with an absolute name", name.strip())
        return found

    def peek_image(self, name: str, label: Path, near: Sequence[Path] = ()) -> Path | None:
        """As :meth:`find_image`, but nothing is counted."""
        name = name.strip().replace("\\", "/")
        if not name:
            return None
        if _URL.match(name):  # A copy that somebody fetched will do.
            last = os.path.basename(re.split("[?#]", name)[0])
            return self._nearest(last, label) or self._nearest(unquote(last), label)
        for folder in (*near, label.parent, self.root):
            path = os.path.normpath(os.path.join(folder, name))
            found = self._exact.get(path) or self._paths.get(_key(path))
            if found is not None:
                return found
            if os.path.isabs(name) and os.path.isfile(path):
                return Path(path)
        return self._nearest(os.path.basename(name), label)

    def empty_splits(self) -> set[str]:
        """Splits, train or val, of which there is a folder, but in none an image, while others have some."""
        homes = {image.parent for image in self.images}
        inhabited = {split for home in homes if (split := self.split_of(home / "image"))}
        named = {split for folder in self._folders if (split := split_of_path(folder.name)) in ("train", "val")}
        return named - inhabited if inhabited else set()

    def find_file(self, path: Path) -> Path | None:
        """A file, whatever the case of its name; in the tree or not."""
        return self._every.get(_key(str(path))) or (path if path.is_file() else None)

    def background(self, labeled: Iterable[Path], root: Path | None = None) -> list[Path]:
        """Images below `root` that are not labeled, but for masks and drawings, which are called like one that is."""
        labeled = set(labeled)
        stems = {_key(stem(path.name)) for path in labeled}
        found = []
        for image in self.images:
            if image in labeled or not image.is_relative_to(root or self.root):
                continue
            if _key(stem(image.name)) in stems:
                self.report.count("images called like a labeled one, left out", self.name(image))
            else:
                found.append(image)
        return found

    def image_beside(self, label: Path) -> Path | None:
        """The image of the same stem in the folder of a label file."""
        return self._paths.get(_key(stem(str(label))))

    def _nearest(self, name: str, label: Path) -> Path | None:
        """Of images with a name (or stem) the one in the label's split that shares most of its folders."""
        found = self._names.get(_key(name)) or self._names.get(_key(stem(name))) or []
        split, parts = self.split_of(label), label.parent.parts

        def closeness(path: Path) -> tuple[bool, int]:
            return self.split_of(path) == split, len(os.path.commonprefix([path.parent.parts, parts]))

        ranked = sorted(found, key=closeness, reverse=True)
        if len(ranked) > 1 and closeness(ranked[0]) == closeness(ranked[1]):
            return None
        return ranked[0] if ranked else None

    def measure(self, paths: Iterable[Path]) -> None:
        """Look up the sizes of images by their headers; ``sizes`` has them from then on."""
        new = [path for path in dict.fromkeys(paths) if path not in self.sizes]
        for path, header in zip(new, read_headers(new, "image headers"), strict=True):
            self.sizes[path] = None if isinstance(header, OSError) else header.upright_size


def _walk(root: Path) -> tuple[list[Path], list[Path]]:
    """Files and folders below a folder, sorted; links are followed, but no folder is visited twice."""
    found, within, visited = [], [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        within += [Path(folder, name) for name in folders]
        found += [
            os.path.join(folder, name) for name in names if not name.startswith(".") and name.lower() not in _JUNK
        ]
    return [Path(path) for path in sorted(found)], within
