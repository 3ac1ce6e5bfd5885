"""Data loader for training."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
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

__all__ = ["build_train_loader", "configure_workers", "find_stream"]

SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")


def build_train_loader(cfg: CfgNode, dicts: Sequence[DatasetDict], seed: int) -> DataLoader:
    """Build Detectron2's training loader on a resumable :class:`SampleStream`.

    Args:
        cfg: config of the training.
        dicts: images in Detectron2's format, with annotations.
        seed: random seed; the same in all processes.

    Raises:
        ValueError: DATALOADER.SAMPLER_TRAIN is unknown.
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
            "DATALOADER.ASPECT_RATIO_GROUPING buffers images, so that a resumed training does not reproduce the order "
            "of images of an uninterrupted one"
        )
    loader = build_detection_train_loader(
        StreamDataset(dicts, CenterNetDatasetMapper(cfg, True), seed, max_bad_images=node.MAX_BAD_IMAGES),
        mapper=None,
        sampler=SampleStream(len(dicts), seed, repeat_factors=repeat_factors),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=node.ASPECT_RATIO_GROUPING,
        num_workers=node.NUM_WORKERS,
        # With grouping, samples are transferred individually and grouped in the training process.
        collate_fn=None if node.ASPECT_RATIO_GROUPING else Batch,
    )
    configure_workers(loader)
    return loader


def configure_workers(loader: DataLoader) -> None:
    """Configure the start and the end of the workers of a loader.

    Workers are forked, and exit if this process is killed. They run in their own process groups. Otherwise, signals
    such as Ctrl-C or the SIGTERM of a scheduler would end them before the training process has finished.
    """
    inner: Any = loader  # With aspect ratio grouping, the loader is wrapped in another dataset.
    while not isinstance(inner, DataLoader):
        inner = inner.dataset
    inner.worker_init_fn = _start_worker
    # The default is spawn in spawned processes and forkserver in Python 3.14, which import everything again.
    if inner.num_workers > 0 and sys.platform == "linux":
        inner.multiprocessing_context = "fork"


def _start_worker(number: int) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        threading.Thread(target=_exit_if_orphaned, args=(parent.pid,), daemon=True).start()
    worker_init_reset_seed(number)
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def _exit_if_orphaned(parent: int) -> None:
    """Wait until the parent has been killed, then exit at once.

    torch has a similar check, but it fails if the parent is killed while the worker starts, and during the exit of the
    worker, which waits for its messages to be read.
    """
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def find_stream(loader: Any) -> tuple[SampleStream, StreamDataset] | tuple[None, None]:
    """Return the stream and dataset of a loader; (None, None) for other loaders."""
    while loader is not None and not isinstance(getattr(loader, "sampler", None), SampleStream):
        loader = getattr(loader, "dataset", None)
    return (None, None) if loader is None else (loader.sampler, loader.dataset)
