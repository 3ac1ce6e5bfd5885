"""Several processes that train together: how many there are, what they need, how those of torchrun find together."""

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

__all__ = ["by_torchrun", "check_processes", "joined", "number_of_processes"]

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def by_torchrun() -> bool:
    """Whether torchrun started this process, so that nothing is to be launched."""
    return all(name in os.environ for name in _TORCHRUN)


def number_of_processes(args: argparse.Namespace) -> int:
    """The processes of all machines together.

    Raises:
        ValueError: torchrun started this process, and Detectron2's launcher is asked for too.
    """
    if not by_torchrun():
        return args.num_gpus * args.num_machines
    if args.num_gpus > 1 or args.num_machines > 1:
        raise ValueError(
            "torchrun started this process already: leave out --num-gpus and --num-machines, which start others, and "
            "give torchrun --nproc-per-node and --nnodes"
        )
    return int(os.environ["WORLD_SIZE"])


def check_processes(cfg: CfgNode, processes: int) -> None:
    """Whether a training suits its number of processes.

    Raises:
        ValueError: it does not; the message says which key to change.
    """
    images, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference and cfg.SOLVER.REFERENCE_IMS_PER_BATCH:
        raise ValueError(
            "SOLVER.REFERENCE_WORLD_SIZE and SOLVER.REFERENCE_IMS_PER_BATCH both scale the learning rate: set one to 0"
        )
    if images < 1 or images % (reference or processes):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {images}, but must be a multiple of the {reference or processes} processes that "
            "share a batch" + (" (SOLVER.REFERENCE_WORLD_SIZE)" if reference else "")
        )
    synchronized = [key for key, value in flatten(cfg.MODEL, "MODEL.") if value == "SyncBN"]
    if processes > 1 and synchronized and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        raise ValueError(
            f"{', '.join(synchronized)}: SyncBN over {processes} processes needs GPUs; on the CPU use BN or FrozenBN"
        )


@contextmanager
def joined(device: str) -> Iterator[None]:
    """The process group of torchrun and Detectron2's own groups, in this context.

    Args:
        device: MODEL.DEVICE; with "cuda" every process of a machine has its own GPU.

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
    # After an error, the others may still wait for this process; torchrun ends them.
    distributed.destroy_process_group()
