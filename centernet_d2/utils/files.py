"""Path validation, cache location, atomic writes and locks of output folders."""

from __future__ import annotations

import logging
import os
import re
import stat
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
    "is_inside",
    "leaves_folder",
    "lock_folder",
    "open_regular",
    "read_regular",
    "remove_leftovers",
    "text_lines",
    "unused_folder",
    "write_atomically",
]

# Sparse files can declare any size. Annotations of the largest public datasets have about 10 GB.
_LARGEST_FILE = 16 << 30

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically.

    The content is written to a temporary file next to `path`, which is synchronized to disk and renamed. A symbolic
    link is replaced, not followed.

    Args:
        path: path of the file.
        write: function that writes the content to a binary file, which is open for writing and reading.

    Raises:
        OSError: the file cannot be written; an existing file is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "x+b") as file:
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
        raise OSError(
            f"{path} cannot be written ({reason.strerror or reason}); an existing file is unchanged"
        ) from error


def _reason(error: BaseException | None) -> OSError | None:
    """Return the OSError that caused an error, because torch raises RuntimeError if it cannot write a file."""
    while isinstance(error, RuntimeError) and error.__context__ is not None:
        error = error.__context__
    return error if isinstance(error, OSError) else None


def _sync_folder(folder: Path) -> None:
    """Synchronize the directory entry of a new file to disk, if the system supports it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files of killed processes.

    No other process may be writing to the folder.
    """
    for path in Path(folder).glob(".*.tmp"):
        if path.is_symlink() or path.is_file():
            path.unlink()


def unused_folder(preferred: Path) -> Path:
    """Return the first of folder, folder-2, folder-3, ... that does not exist."""
    folder, number = preferred, 2
    while folder.exists():
        folder, number = preferred.with_name(f"{preferred.name}-{number}"), number + 1
    return folder


def is_inside(path: Path) -> bool:
    """Return True for a file that is not a symbolic link to another folder."""
    return path.is_file() and path.resolve().parent == path.parent.resolve()


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Hold the lock of an output folder, which is created if needed.

    The lock belongs to this process: the kernel releases it if the process is killed, and forked processes do not share
    it. It does not prevent another run in the same process. Nothing is locked if the system or the file system
    does not support locks.

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
    # No other code in this process may open the file, because closing any of its descriptors releases the lock.
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
            f"another run is using OUTPUT_DIR {folder}" + (f" ({owner})" if owner else "") + "; wait until "
            "it ends, or choose another folder"
        ) from error
    except OSError as error:
        logging.getLogger(__name__).warning(
            f"OUTPUT_DIR {folder} cannot be locked ({error.strerror}); start only one run there"
        )
        return
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)


def cache_folder() -> Path:
    """Return the cache folder.

    It is $CENTERNET_D2_CACHE, else $XDG_CACHE_HOME/centernet_d2, else ~/.cache/centernet_d2.
    """
    if own := os.environ.get("CENTERNET_D2_CACHE"):
        return Path(os.path.expanduser(own))
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "centernet_d2"


def check_local(path: str | Path, what: str) -> None:
    """Reject a URL, because Detectron2 might download it.

    Args:
        path: path from a user, a config or a file.
        what: description of the path for the error message.

    Raises:
        FileNotFoundError: the path is a URL.
    """
    if _URL.match(str(path)):
        raise FileNotFoundError(
            f"{what} {path} is a URL, but URLs are not supported: download the file and specify its path"
        )


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; reading a pipe or a device may never end.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the path is not a regular file, or the file is larger than 16 GiB.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is not a regular file")
    if status.st_size > _LARGEST_FILE:
        raise OSError(f"{path} is larger than {_LARGEST_FILE >> 30} GiB")
    return open(path, "rb")


def read_regular(path: str | Path) -> bytes:
    """Read a regular file; see :func:`open_regular`."""
    with open_regular(path) as file:
        return file.read()


def leaves_folder(name: str, folder: str | Path) -> bool:
    """Return True if a relative name leads out of the parent of a folder.

    The name is relative to the folder. The result is False for ``../images/a.jpg`` and True for ``../../a.jpg``.
    Symbolic links are not resolved.
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
    """Return the nonblank lines of a file as (location for error messages, line)."""
    # Invalid UTF-8 is replaced, so that parsing fails with an error that names the line.
    lines = read_regular(path).decode(errors="replace").splitlines()
    return [(f"{path}, line {index}", line.strip()) for index, line in enumerate(lines, 1) if line.strip()]
