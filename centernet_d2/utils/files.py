"""Path validation, the cache location, atomic writes and the lock of an output folder."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

__all__ = [
    "cache_folder",
    "check_local",
    "folder_locked",
    "is_inside",
    "leaves",
    "remove_leftovers",
    "text_lines",
    "write_whole",
]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def write_whole(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically: to a temporary file next to `path`, synchronized to disk and renamed.

    A symbolic link is replaced, not followed.

    Args:
        path: of the file.
        write: writes the content to an open binary file.

    Raises:
        OSError: the file cannot be written; an existing file is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = _reason(error)
        if reason is None:
            raise
        raise OSError(f"{path} cannot be written ({reason.strerror or reason}); what was there is untouched") from error


def _reason(error: BaseException | None) -> OSError | None:
    """Return the OSError that caused an error; torch raises RuntimeError if it cannot write a file."""
    while isinstance(error, RuntimeError) and error.__context__ is not None:
        error = error.__context__
    return error if isinstance(error, OSError) else None


def _sync_folder(folder: Path) -> None:
    """Synchronize the directory entry of a new file to disk, where the system supports it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | Path) -> None:
    """Remove temporary files that killed processes left in a folder; no other process may be writing there."""
    for path in Path(folder).glob(".*.tmp"):
        if path.is_symlink() or path.is_file():
            path.unlink()


def is_inside(path: Path) -> bool:
    """Return True for a regular file that is not a symbolic link out of its folder."""
    return path.is_file() and path.resolve().parent == path.parent.resolve()


@contextmanager
def folder_locked(folder: str | Path) -> Iterator[None]:
    """Hold the lock of an output folder, which is created if needed; the kernel releases it if the process is killed.

    The lock belongs to this process: forked processes neither hold nor release it. It does not exclude another training
    of the same process, and there is no lock where the system or the file system does not support it.

    Raises:
        BlockingIOError: another process holds the lock.
        NotADirectoryError: the folder is a file.
        OSError: the folder cannot be written to.
    """
    folder = Path(folder)
    if folder.is_file():
        raise NotADirectoryError(f"OUTPUT_DIR {folder} is a file")
    folder.mkdir(parents=True, exist_ok=True)
    if not HAS_LOCKS:
        yield
        return
    # Nothing else in this process may open the file: closing any descriptor of it would release the lock.
    path = folder / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        owner = os.read(descriptor, 100).decode(errors="replace").strip()
        raise BlockingIOError(
            f"another training is running in OUTPUT_DIR {folder}" + (f" ({owner})" if owner else "") + "; wait until "
            "it ends, or choose another folder"
        ) from error
    except OSError as error:
        logging.getLogger(__name__).warning(
            f"OUTPUT_DIR {folder} cannot be locked ({error.strerror}); start only one training there"
        )
        return
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)


def cache_folder() -> Path:
    """Return $CENTERNET_D2_CACHE, else $XDG_CACHE_HOME/centernet_d2, else ~/.cache/centernet_d2."""
    if own := os.environ.get("CENTERNET_D2_CACHE"):
        return Path(os.path.expanduser(own))
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "centernet_d2"


def check_local(path: str | Path, what: str) -> None:
    """Refuse a URL, which Detectron2 might download.

    Args:
        path: as given by a user, a config or a file.
        what: description of the path for the message.

    Raises:
        FileNotFoundError: the path is a URL.
    """
    if _URL.match(str(path)):
        raise FileNotFoundError(
            f"{what} {path} is a URL, and URLs are not downloaded: download the file and give its path"
        )


def leaves(name: str, folder: str | Path) -> bool:
    """Return True if a relative name, starting at a folder, leads out of the parent of this folder.

    ``../images/a.jpg`` does not, ``../../a.jpg`` does. Only names are compared; symbolic links are not resolved.
    """
    if os.path.isabs(name):
        return False
    folder = os.path.abspath(folder)
    root = os.path.dirname(folder)
    if root == os.path.dirname(root):  # The root of the file system contains everything.
        root = folder
    path = os.path.normpath(os.path.join(folder, name))
    return os.path.commonpath([root, path]) != root


def text_lines(path: str | Path) -> list[tuple[str, str]]:
    """Return the lines of a file that are not blank, each as (file and number for errors, line)."""
    # What is no text becomes a line that cannot be parsed, and so an error that names it.
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    return [(f"{path}, line {index}", line.strip()) for index, line in enumerate(lines, 1) if line.strip()]
