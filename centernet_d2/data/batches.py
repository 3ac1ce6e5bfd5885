"""Transfer of batches from worker processes to the training process."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import Tensor

__all__ = ["Batch"]

# Minimum size in bytes of tensors that are sent through shared memory, such as images.
LARGE = 1 << 16


class Batch(list):
    """List of samples with faster transfer to another process.

    torch sends every tensor through a separate file in shared memory. A sample has about ten tensors, most of them
    with a few numbers, and opening their files takes longer than processing an image on a GPU. This class sends small
    tensors in the message itself.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        message = io.BytesIO()
        packer = _Packer(message, protocol=5)
        packer.dump(list(self))
        return _unpack, (message.getvalue(), packer.large)


class _Packer(pickle.Pickler):
    """Pickler that collects large tensors, and tensors unsupported by NumPy, in `large`."""

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
    except (TypeError, RuntimeError):  # NumPy does not support the type, or the tensor requires gradients.
        return False
    return True


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, large: list[Tensor]) -> None:
        super().__init__(file)
        self.large = large

    def persistent_load(self, pid: int) -> Tensor:
        return self.large[pid]


def _unpack(message: bytes, large: list[Tensor]) -> list:
    """Unpickle a batch. Messages come from worker processes of the same run, so they are trusted."""
    return _Unpacker(io.BytesIO(message), large).load()
