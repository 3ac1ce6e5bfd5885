"""Detection of damaged checkpoints: hash, checksums and declared sizes.

The SHA-256 hash of a checkpoint is its zip comment.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

__all__ = ["check_checksums", "check_hash", "check_sizes", "save_with_hash"]

_PREFIX = b"sha256:"
_COMMENT_SIZE = len(_PREFIX) + 2 * hashlib.sha256().digest_size
# The length of the comment precedes it.
_LENGTH_SIZE = 2

# Maximum ratio of the declared to the actual size of a file: torch.save does not compress, but shares storages.
MAX_RATIO = 4


def save_with_hash(data: object, file: BinaryIO) -> None:
    """Save data with ``torch.save``, with the hash of the file as zip comment.

    Args:
        data: data to save.
        file: empty file that is open for writing and reading.
    """
    torch.save(data, file)
    end = file.seek(0, os.SEEK_END) - _LENGTH_SIZE
    comment = _PREFIX + _hash(file, end).encode()
    file.seek(end)
    file.write(_COMMENT_SIZE.to_bytes(_LENGTH_SIZE, "little") + comment)


def check_hash(path: str | Path) -> bool:
    """Return True if a file contains the hash of :func:`save_with_hash`.

    Raises:
        ValueError: the content of the file does not match its hash.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _COMMENT_SIZE, 0))
        comment = file.read()
        if not comment.startswith(_PREFIX):
            return False
        if _hash(file, size - _COMMENT_SIZE - _LENGTH_SIZE).encode() != comment[len(_PREFIX) :]:
            raise ValueError(f"{path} is damaged: its content does not match the SHA-256 hash at its end")
    return True


def _hash(file: BinaryIO, size: int) -> str:
    """Return the SHA-256 hash of the first bytes of a file."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def check_checksums(path: str | Path) -> None:
    """Verify the CRC-32 checksums of a zip file.

    ``torch.load`` does not verify them.

    Raises:
        ValueError: the file is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # Damaged zip files raise many types.
        damaged = repr(error)
    if damaged:
        raise ValueError(f"{path} is damaged ({damaged})")


def check_sizes(path: str | Path, data: Any = None) -> None:
    """Check that a file does not declare much more data than it contains.

    Args:
        path: path of the file.
        data: tensors of the file; None for the entries of its zip directory, before they are read.

    Raises:
        ValueError: it does.
        zipfile.BadZipFile: the zip directory is damaged.
    """
    if data is not None:
        declared = sum(tensor.numel() * tensor.element_size() for tensor in data)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            declared = sum(entry.file_size for entry in archive.infolist())
    else:
        return
    size = Path(path).stat().st_size
    if declared > MAX_RATIO * size:
        raise ValueError(
            f"{path} declares {declared:,} bytes of data, but its size is {size:,} bytes: it is damaged or malicious"
        )
