"""The machine that trains: memory, cores and the speed of half precision."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

__all__ = ["Machine", "inspect_machine"]


@dataclass(frozen=True)
class Machine:
    """Properties of the machine that matter for training.

    Attributes:
        device: value of MODEL.DEVICE.
        memory: free bytes of the device.
        cores: CPU cores available to this process.
        half_speed: speed of half precision relative to single precision, 1 or more if it is faster.
    """

    device: str
    memory: float
    cores: int
    half_speed: float

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type != "cpu"


def inspect_machine(device: str, *, measure: bool) -> Machine:
    """Determine memory, CPU cores and speed of half precision.

    Args:
        device: value of MODEL.DEVICE.
        measure: time half precision on a CPU for a second; otherwise, its speed is 1.
    """
    cores = len(available_cores())
    if torch.device(device).type == "cuda":
        # By index: before torch 2.5, mem_get_info does not accept "cuda" without an index.
        return Machine(device, torch.cuda.mem_get_info(torch.device(device).index)[0], cores, 2.0)
    return Machine(device, _free_memory(), cores, half_speed() if measure else 1.0)


def available_cores() -> Collection[int]:
    """Return the CPU cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _free_memory() -> float:
    """Return the free bytes of the machine, or of the control group of this process if that has less."""
    free = []
    if (table := _text("/proc/meminfo")) and "MemAvailable:" in table:
        free.append(1024.0 * int(table.split("MemAvailable:")[1].split()[0]))
    limit, used = _text("/sys/fs/cgroup/memory.max"), _text("/sys/fs/cgroup/memory.current")
    if limit.strip().isdigit() and used.strip().isdigit():
        free.append(float(int(limit) - int(used)))
    return max(min(free, default=4e9), 0.0)  # Some systems report neither.


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def half_speed(seconds: float = 1.0) -> float:
    """Measure the speed of bfloat16 training on the CPU relative to float32.

    Args:
        seconds: approximate duration of the measurement with a small network.
    """
    layers = [nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()) for _ in range(3)]
    network, images = nn.Sequential(*layers), torch.ones(2, 64, 48, 48)
    times: dict[bool, list[float]] = {False: [], True: []}
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times[True]) < 2:
        for half, spent in times.items():
            before = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                loss = network(images).sum()
            loss.backward()
            spent.append(time.perf_counter() - before)
    return min(times[False]) / min(times[True])
