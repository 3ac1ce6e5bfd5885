"""Files that are there whole or not at all, whatever kills the process that writes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["is_inside", "remove_leftovers", "write_whole"]


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
