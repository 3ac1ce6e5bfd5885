"""The loader of a training."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from multiprocessing.util import Finalize
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.data.build import worker_init_reset_seed
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch.utils.data import DataLoader

from ..structures.types import DatasetDict
from ..utils.validation import check_choice
from .batches import Batch
from .mapper import CenterNetDatasetMapper
from .stream import SampleStream, StreamDataset

__all__ = ["build_train_loader", "keep_signals_from_workers", "stream_of"]

SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")


def build_train_loader(cfg: CfgNode, dicts: Sequence[DatasetDict], seed: int) -> DataLoader:
    """Detectron2's loader on a stream of samples that can be entered anywhere, see :class:`SampleStream`.

    Args:
        cfg: of the training.
        dicts: images in Detectron2's format, with annotations.
        seed: of everything random; the same in all processes.

    Raises:
        ValueError: an unknown DATALOADER.SAMPLER_TRAIN.
    """
    node = cfg.DATALOADER
    check_choice("DATALOADER.SAMPLER_TRAIN", node.SAMPLER_TRAIN, SAMPLERS)
    repeat_factors = None
    if node.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        repeat_factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dicts, node.REPEAT_THRESHOLD, sqrt=node.REPEAT_SQRT
        )
    if node.ASPECT_RATIO_GROUPING:
        logging.getLogger(__name__).warning(
            "DATALOADER.ASPECT_RATIO_GROUPING holds images back, so that a resumed training reads others first"
        )
    loader = build_detection_train_loader(
        StreamDataset(dicts, CenterNetDatasetMapper(cfg, True), seed, max_bad_images=node.MAX_BAD_IMAGES),
        mapper=None,
        sampler=SampleStream(len(dicts), seed, repeat_factors=repeat_factors),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=node.ASPECT_RATIO_GROUPING,
        num_workers=node.NUM_WORKERS,
        # Groups are made here, of samples that come one by one.
        collate_fn=None if node.ASPECT_RATIO_GROUPING else Batch,
    )
    keep_signals_from_workers(loader)
    return loader


def keep_signals_from_workers(loader: DataLoader) -> None:
    """Workers get no signals that are meant for a whole group of processes (Ctrl-C, a scheduler's SIGTERM).

    Else they would be gone before the process that they work for has come to an end. Without it they end by themselves.
    """
    inner: Any = loader  # With aspect ratio grouping, it is inside another data set.
    while not isinstance(inner, DataLoader):
        inner = inner.dataset
    inner.worker_init_fn = _start_worker


def _start_worker(number: int) -> None:
    worker_init_reset_seed(number)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    Finalize(None, _leave_if_orphaned, args=(os.getppid(),), exitpriority=10)


def _leave_if_orphaned(parent: int) -> None:
    """At the end of a worker: if its process was killed, nobody will read what it has sent, for which it would wait."""
    if os.getppid() != parent:
        os._exit(1)


def stream_of(loader: Any) -> tuple[SampleStream, StreamDataset] | tuple[None, None]:
    """The stream that a loader reads, and its images; None and None for a loader of another kind."""
    while loader is not None and not isinstance(getattr(loader, "sampler", None), SampleStream):
        loader = getattr(loader, "dataset", None)
    return (None, None) if loader is None else (loader.sampler, loader.dataset)
