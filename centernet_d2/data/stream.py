"""The samples of a training as one endless stream over all processes, which can be entered anywhere.

What happens at a position of the stream depends on the seed and the position alone: which image it is, and how it is
augmented. So a resumed training reads on where it stopped, whatever the number of workers or processes.
"""

from __future__ import annotations

import logging
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

__all__ = ["SampleStream", "StreamDataset", "seeded"]

# Position in the stream, and index of the image.
Place = tuple[int, int]


class SampleStream(Sampler):
    """Places of one process: every world-size-th position of the stream, from where a training begins.

    The stream is one epoch after the other, each in an order of its own. In an epoch an image is there as often as its
    repeat factor says, which is rounded up or down by chance where it is no whole number, as in Detectron2's
    ``RepeatFactorTrainingSampler``.
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
            seed: of all orders; the same in all processes.
            repeat_factors: (size,) how often each image is there in an epoch on average; None: once.
            rank, world_size: of this process; by default as Detectron2 knows them.
        """
        if size < 1:
            raise ValueError("there are no images to train on")
        self.size = size
        self.seed = seed
        self.repeat_factors = repeat_factors
        self.rank = comm.get_rank() if rank is None else rank
        self.world_size = comm.get_world_size() if world_size is None else world_size
        # First position of all processes together.
        self.start = 0

    @property
    def epoch_length(self) -> float:
        """Images in an epoch, on average."""
        return self.size if self.repeat_factors is None else float(self.repeat_factors.sum())

    def __iter__(self) -> Iterator[Place]:
        epoch, first = self._epoch_at(self.start)
        position = self.start + self.rank
        while True:
            order = self._order(epoch)
            while position < first + len(order):
                yield position, int(order[position - first])
                position += self.world_size
            epoch, first = epoch + 1, first + len(order)

    def _epoch_at(self, position: int) -> tuple[int, int]:
        """The epoch that a position belongs to, and the first position of that epoch; no order is drawn for it."""
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
        """(size,) how often each image is there in one epoch."""
        whole = factors.floor()
        chance = torch.rand(self.size, generator=generator)
        return (whole + (chance < factors - whole)).long()

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(_mix(self.seed, epoch))


class StreamDataset(Dataset):
    """Images by their places in a stream; the augmentation of a place is always the same one."""

    def __init__(
        self, dicts: Sequence[DatasetDict], mapper: Callable[[dict], dict], seed: int, *, max_bad_images: int = 0
    ) -> None:
        """
        Args:
            dicts: images in Detectron2's format; kept in memory that workers share.
            mapper: makes a sample of a copy of one.
            seed: of the augmentations.
            max_bad_images: so many images that cannot be read are left out, each with a warning; the next one that can
                takes their place. 0: the first is an error.
        """
        self.records = DatasetFromList(list(dicts), copy=False)  # Every look at one unpacks a new copy.
        self.mapper = mapper
        self.seed = seed
        self.max_bad_images = max_bad_images
        # In memory that workers share, so that they warn once, and the main process can count.
        self.bad = torch.zeros(len(dicts), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: Place) -> dict:
        """
        Raises:
            OSError: an image cannot be read, or too many; the message names it.
        """
        position, index = place
        for candidate in range(index, index + len(self)):
            candidate %= len(self)
            if self.bad[candidate]:
                continue
            try:
                with seeded(self.seed, position):
                    return self.mapper(self.records[candidate])
            except OSError as error:
                self._leave_out(candidate, error)
        raise OSError("no image can be read")

    def _leave_out(self, index: int, error: OSError) -> None:
        if self.max_bad_images == 0:
            raise error
        self.bad[index] = True
        count = int(self.bad.sum())
        if count > self.max_bad_images:
            raise OSError(
                f"{count} images cannot be read, more than DATALOADER.MAX_BAD_IMAGES ({self.max_bad_images}); the "
                f"last one: {error}"
            ) from error
        logging.getLogger(__name__).warning(f"{error}; it is left out (DATALOADER.MAX_BAD_IMAGES)")

    def bad_files(self) -> list[str]:
        """The images that were left out until now."""
        return [self.records[index]["file_name"] for index in self.bad.nonzero()[:, 0].tolist()]


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Global random generators (Python's, NumPy's, torch's) start from these numbers, and later go on as before."""
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
    """One number of 63 bits that looks random, from some that do not."""
    state = np.random.SeedSequence([number % 2**63 for number in numbers]).generate_state(1, np.uint64)
    return int(state[0]) >> 1  # NumPy 1 would make a float of it.
