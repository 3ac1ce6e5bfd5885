"""The way of a batch from a worker to the process that trains."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import Tensor

__all__ = ["Batch"]

# Bytes from which a tensor goes through shared memory, as an image does.
LARGE = 1 << 16


class Batch(list):
    """Samples; a list like any other, but sent to another process faster.

    torch sends every tensor by a file of its own in shared memory. A sample has about ten, most of them a few numbers,
    and opening all those files would take the receiving process longer than a GPU takes for an image. So small tensors
    travel in the message itself.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        message = io.BytesIO()
        packer = _Packer(message, protocol=5)
        packer.dump(list(self))
        return _unpack, (message.getvalue(), packer.large)


class _Packer(pickle.Pickler):
    """Leaves out large tensors, and those that NumPy does not know, which are then in `large`."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.large: list[Tensor] = []

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, Tensor) or (_is_plain(obj) and obj.nbytes < LARGE):
            return None
        self.large.append(obj)
        return len(self.large) - 1

    def reducer_override(self, obj: Any) -> Any:
        return (torch.from_numpy, (obj.numpy(),)) if isinstance(obj, Tensor) else NotImplemented


def _is_plain(tensor: Tensor) -> bool:
    if type(tensor) is not Tensor or tensor.layout is not torch.strided:
        return False
    try:
        tensor.numpy()
    except (TypeError, RuntimeError):  # NumPy has no such type, or it is part of a graph.
        return False
    return True


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, large: list[Tensor]) -> None:
        super().__init__(file)
        self.large = large

    def persistent_load(self, pid: int) -> Tensor:
        return self.large[pid]


def _unpack(message: bytes, large: list[Tensor]) -> list:
    """A batch out of a message of a worker of this very training: nothing that a user could write."""
    return _Unpacker(io.BytesIO(message), large).load()
