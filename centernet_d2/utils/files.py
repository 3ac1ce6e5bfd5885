"""Path validation, the cache location, atomic writes and the lock of an output folder."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

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


def write_whole(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside `path`, bring it to the disk, and let it take the place of what is there.

    A symbolic link is replaced, not followed.

    Args:
        path: of the file.
        write: fills the open file.

    Raises:
        OSError: it cannot be written; what was there is untouched.
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
    """The error of the system behind one: torch raises others of its own when it cannot write a file."""
    while isinstance(error, RuntimeError) and error.__context__ is not None:
        error = error.__context__
    return error if isinstance(error, OSError) else None


def _sync_folder(folder: Path) -> None:
    """Bring the new name of a file to the disk, where the system knows how."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | Path) -> None:
    """Remove what processes that were killed while they wrote left in a folder; nobody may be writing there."""
    for path in Path(folder).glob(".*.tmp"):
        if path.is_symlink() or path.is_file():
            path.unlink()


def is_inside(path: Path) -> bool:
    """Whether a path is that of a regular file which lies in its folder, and is no symbolic link out of it."""
    return path.is_file() and path.resolve().parent == path.parent.resolve()


try:
    import fcntl
except ImportError:  # Windows
    HAS_LOCKS = False
else:
    HAS_LOCKS = True


@contextmanager
def folder_locked(folder: str | Path) -> Iterator[None]:
    """Hold the lock of an output folder, which is made if need be; the kernel releases it whatever kills the process.

    The lock belongs to this process: those that it forks neither hold nor release it. It is no lock against another
    training of the same process, and there is none where the system or the file system has no locks.

    Raises:
        BlockingIOError: another process holds it.
        NotADirectoryError: the folder is a file.
        OSError: nothing can be written there.
    """
    folder = Path(folder)
    if folder.is_file():
        raise NotADirectoryError(f"OUTPUT_DIR {folder} is a file")
    folder.mkdir(parents=True, exist_ok=True)
    if not HAS_LOCKS:
        yield
        return
    # Nothing else may open this file here: closing any descriptor of it would release the lock.
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
            "it has ended, or choose another folder"
        ) from error
    except OSError as error:
        logging.getLogger(__name__).warning(f"OUTPUT_DIR {folder} cannot be locked ({error.strerror}); run one there")
        return
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def cache_folder() -> Path:
    """$CENTERNET_D2_CACHE, else $XDG_CACHE_HOME/centernet_d2, else ~/.cache/centernet_d2."""
    if own := os.environ.get("CENTERNET_D2_CACHE"):
        return Path(os.path.expanduser(own))
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "centernet_d2"


def check_local(path: str | Path, what: str) -> None:
    """Refuse a URL. Detectron2 would fetch some, of whatever a file or config names.

    Args:
        path: as a user, a config or a file gives it.
        what: it is, for the message.

    Raises:
        FileNotFoundError: it is a URL.
    """
    if _URL.match(str(path)):
        raise FileNotFoundError(f"{what} {path} is a URL, and nothing is downloaded: fetch the file, and give its path")


def leaves(name: str, folder: str | Path) -> bool:
    """Whether a relative name, read from a folder, leads out of the folder that this folder is in.

    ``../images/a.jpg`` does not, ``../../a.jpg`` does. Names alone are looked at; links may lead anywhere.
    """
    if os.path.isabs(name):
        return False
    folder = os.path.abspath(folder)
    root = os.path.dirname(folder)
    if root == os.path.dirname(root):  # The root of the file system holds everything.
        root = folder
    path = os.path.normpath(os.path.join(folder, name))
    return os.path.commonpath([root, path]) != root


def text_lines(path: str | Path) -> list[tuple[str, str]]:
    """Return the lines of a file that are not blank, each as (file and number for errors, line)."""
    # What is no text becomes a line that cannot be parsed, and so an error that names it.
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    return [(f"{path}, line {index}", line.strip()) for index, line in enumerate(lines, 1) if line.strip()]
