"""The headers of many image files, remembered from one start to the next."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from ..imaging.reading import ImageHeader, max_pixels, read_header
from ..utils.files import cache_folder

__all__ = ["read_headers"]

_THREADS = 16
# Size and modification time of a file, and its header.
_Entry = tuple[int, int, ImageHeader]


def read_headers(paths: Sequence[str], title: str = "") -> list[ImageHeader | OSError]:
    """Read the headers of images in parallel; those of files that did not change come from the cache.

    A cache that cannot be read or written is not used.

    Args:
        paths: image files.
        title: of the progress bar.

    Returns:
        For each path its header, or the error that names it, see :func:`centernet_d2.imaging.reading.read_header`.
    """
    if not paths:
        return []
    files = [os.path.abspath(path) for path in paths]
    # The images of a folder share a file of the cache, whichever data sets use them.
    folder = os.path.commonpath([os.path.dirname(file) for file in files])
    cache = cache_folder() / f"headers-{hashlib.sha256(folder.encode('utf-8', 'replace')).hexdigest()[:16]}.json"
    known, limit = _load(cache), max_pixels()
    stamps = [_stamp(path) for path in paths]
    new = [
        index
        for index, (file, stamp) in enumerate(zip(files, stamps, strict=True))
        if stamp is None or file not in known or known[file][:2] != stamp or _pixels(known[file][2]) > limit
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(_read, [paths[index] for index in new])
        progress = tqdm(found, desc=title, total=len(new), unit=" images", leave=False, disable=len(new) < 500)
        fresh = dict(zip(new, progress, strict=True))
    entries = {
        files[index]: (*stamp, header)
        for index, header in fresh.items()
        if (stamp := stamps[index]) and isinstance(header, ImageHeader)
    }
    if entries:
        _save(cache, {**known, **entries})
    return [fresh[index] if index in fresh else known[file][2] for index, file in enumerate(files)]


def _stamp(path: str) -> tuple[int, int] | None:
    """Size and time of the last change; None for what is no local file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _pixels(header: ImageHeader) -> int:
    return header.width * header.height


def _read(path: str) -> ImageHeader | OSError:
    try:
        return read_header(path)
    except OSError as error:
        return error


def _load(cache: Path) -> dict[str, _Entry]:
    """Empty if there is no cache, or a broken one."""
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
        rows = [(file, tuple(int(value) for value in row)) for file, row in content.items()]
        return {file: (size, changed, ImageHeader(*header)) for file, (size, changed, *header) in rows}
    except (OSError, ArithmeticError, AttributeError, TypeError, ValueError, RecursionError):
        return {}


def _save(cache: Path, entries: Mapping[str, _Entry]) -> None:
    """Write next to the old file and put it in its place, so that nobody reads half of it."""
    rows = {file: [size, changed, *header] for file, (size, changed, header) in entries.items()}
    temporary = None
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=cache.parent, delete=False) as file:
            temporary = file.name
            json.dump(rows, file)
        os.replace(temporary, cache)
    except (OSError, ValueError):
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
