"""One folder, one run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

__all__ = ["folder_locked"]


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
