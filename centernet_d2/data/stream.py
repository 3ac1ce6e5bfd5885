"""Resumable infinite stream of training samples over all processes.

The image at a position of the stream and its augmentation depend only on the seed and the position. A training can
resume at any position with any number of workers or processes.
"""

from __future__ import annotations

import logging
import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ..structures.types import DatasetDict
from .fingerprint import fingerprint

__all__ = ["SampleStream", "StreamDataset", "seeded"]

# Position in the stream, and index of the image.
StreamItem = tuple[int, int]


class SampleStream(Sampler):
    """Sampler of the stream positions of one process: every world-size-th position.

    The stream is a sequence of epochs with different random orders. An epoch repeats an image according to its repeat
    factor; fractional factors are rounded up or down at random, as in Detectron2's ``RepeatFactorTrainingSampler``.

    Attributes:
        start: first position of all processes together; set it to resume training.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        *,
        repeat_factors: Tensor | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """
        Args:
            size: number of images.
            seed: random seed of the orders; the same in all processes.
            repeat_factors: (size,) mean repetitions of each image per epoch; None for 1.
            rank, world_size: of this process; by default from Detectron2.
        """
        if size < 1:
            raise ValueError("the training set has no images")
        self.size = size
        self.seed = seed
        self.repeat_factors = repeat_factors
        self.rank = comm.get_rank() if rank is None else rank
        self.world_size = comm.get_world_size() if world_size is None else world_size
        self.start = 0

    @property
    def epoch_length(self) -> float:
        """Mean number of images per epoch."""
        return self.size if self.repeat_factors is None else float(self.repeat_factors.sum())

    def __iter__(self) -> Iterator[StreamItem]:
        epoch, first = self._epoch_at(self.start)
        position = self.start + self.rank
        while True:
            order = self._order(epoch)
            while position < first + len(order):
                yield position, int(order[position - first])
                position += self.world_size
            epoch, first = epoch + 1, first + len(order)

    def _epoch_at(self, position: int) -> tuple[int, int]:
        """Return the epoch of a position and the first position of this epoch, without sampling orders."""
        factors = self.repeat_factors
        if factors is None:
            return position // self.size, position // self.size * self.size
        epoch, first = 0, 0
        while position >= first + (length := int(self._repeats(factors, self._generator(epoch)).sum())):
            epoch, first = epoch + 1, first + length
        return epoch, first

    def _order(self, epoch: int) -> Tensor:
        generator = self._generator(epoch)
        indices = torch.arange(self.size)
        if self.repeat_factors is not None:
            indices = indices.repeat_interleave(self._repeats(self.repeat_factors, generator))
        return indices[torch.randperm(len(indices), generator=generator)]

    def _repeats(self, factors: Tensor, generator: torch.Generator) -> Tensor:
        """Return the (size,) repetitions of each image in one epoch."""
        lower = factors.floor()
        random = torch.rand(self.size, generator=generator)
        return (lower + (random < factors - lower)).long()

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(_mix(self.seed, epoch))


class StreamDataset(Dataset):
    """Dataset of augmented images, indexed by items of a :class:`SampleStream`.

    The augmentation of a stream position is deterministic.
    """

    def __init__(
        self, dicts: Sequence[DatasetDict], mapper: Callable[[dict], dict], seed: int, *, max_bad_images: int = 0
    ) -> None:
        """
        Args:
            dicts: images in Detectron2's format; stored in shared memory.
            mapper: function that converts a copy of a dict to a sample.
            seed: random seed of the augmentations.
            max_bad_images: maximum number of unreadable images to skip, with a warning for each; the next readable
                image replaces a skipped image. 0: the first unreadable image raises an error.
        """
        self.records = DatasetFromList(list(dicts), copy=False)  # Every access unpickles a new copy.
        self.fingerprint = fingerprint(dicts)
        self.mapper = mapper
        self.seed = seed
        self.max_bad_images = max_bad_images
        # In shared memory, so that workers warn only once and the main process can count.
        self.bad = torch.zeros(len(dicts), dtype=torch.bool).share_memory_()
        self._lock = multiprocessing.Lock()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: StreamItem) -> dict:
        """
        Raises:
            OSError: too many images are unreadable; the message contains the path of the last one.
        """
        position, index = item
        for candidate in range(index, index + len(self)):
            candidate %= len(self)
            if self.bad[candidate]:
                continue
            try:
                with seeded(self.seed, position):
                    return self.mapper(self.records[candidate])
            except OSError as error:
                self._skip(candidate, error)
        raise OSError("all images of the training set are unreadable")

    def _skip(self, index: int, error: OSError) -> None:
        if self.max_bad_images == 0:
            raise error
        with self._lock:  # Several workers may read the image at the same time.
            if self.bad[index]:
                return
            self.bad[index] = True
            count = int(self.bad.sum())
        if count > self.max_bad_images:
            raise OSError(
                f"{count} images are unreadable, more than DATALOADER.MAX_BAD_IMAGES ({self.max_bad_images}); the "
                f"last one: {error}"
            ) from error
        logging.getLogger(__name__).warning(f"{error}; the image is skipped (DATALOADER.MAX_BAD_IMAGES)")

    def bad_files(self) -> list[str]:
        """Return the paths of the images skipped so far."""
        return [self.records[index]["file_name"] for index in self.bad.nonzero()[:, 0].tolist()]


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Set the seeds of Python, NumPy and torch, and restore their states on exit."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = _mix(*numbers)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _mix(*numbers: int) -> int:
    """Hash numbers to a 63-bit seed."""
    state = np.random.SeedSequence([number % 2**63 for number in numbers]).generate_state(1, np.uint64)
    return int(state[0]) >> 1  # Shift a Python int: NumPy 1 would convert the result to float.
