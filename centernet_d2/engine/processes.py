"""Distributed training: number of processes, config checks and torchrun."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import distributed

from ..config.loading import flatten

__all__ = ["check_processes", "launched_by_torchrun", "number_of_processes", "process_group"]

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def launched_by_torchrun() -> bool:
    """Return True if torchrun started this process."""
    return all(name in os.environ for name in _TORCHRUN)


def number_of_processes(args: argparse.Namespace) -> int:
    """Return the number of processes on all machines.

    Raises:
        ValueError: torchrun started this process, but --num-gpus or --num-machines is set, too.
    """
    if not launched_by_torchrun():
        return args.num_gpus * args.num_machines
    if args.num_gpus > 1 or args.num_machines > 1:
        raise ValueError(
            "torchrun started this process, so --num-gpus and --num-machines cannot be used: set --nproc-per-node and "
            "--nnodes of torchrun instead"
        )
    return int(os.environ["WORLD_SIZE"])


def check_processes(cfg: CfgNode, processes: int) -> None:
    """Check that a training config is compatible with the number of processes.

    Raises:
        ValueError: it is not; the message names the key to change.
    """
    images, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference and cfg.SOLVER.REFERENCE_IMS_PER_BATCH:
        raise ValueError(
            "SOLVER.REFERENCE_WORLD_SIZE and SOLVER.REFERENCE_IMS_PER_BATCH both scale the learning rate: set one of "
            "them to 0"
        )
    if images < 1 or images % (reference or processes):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {images}, but must be a positive multiple of the number of processes, "
            f"{reference or processes}" + (" (SOLVER.REFERENCE_WORLD_SIZE)" if reference else "")
        )
    synchronized = [key for key, value in flatten(cfg.MODEL, "MODEL.") if value == "SyncBN"]
    if processes > 1 and synchronized and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        raise ValueError(
            f"{', '.join(synchronized)} is SyncBN, which needs GPUs for {processes} processes: use BN or FrozenBN on a "
            "CPU"
        )


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Create the process group of torchrun and Detectron2's local group.

    This is a context manager; both groups exist within the context.

    Args:
        device: value of MODEL.DEVICE; with "cuda", each process of a machine uses its own GPU.

    Raises:
        ValueError: the machine has fewer GPUs than processes.
    """
    rank, processes = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        if processes > torch.cuda.device_count():
            raise ValueError(
                f"torchrun started {processes} processes on this machine, but torch sees {torch.cuda.device_count()} "
                "GPUs: lower --nproc-per-node, or set MODEL.DEVICE cpu"
            )
        torch.cuda.set_device(rank)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    comm.create_local_process_group(processes)
    comm.synchronize()
    yield
    # Not in a finally block: after an error, other processes may wait for this one, and torchrun terminates them.
    distributed.destroy_process_group()
