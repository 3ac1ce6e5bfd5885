"""Timing variants side by side, and saying on which machine."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median

import torch
from tabulate import tabulate
from tqdm import tqdm

__all__ = ["alternate", "environment", "matmul_peak", "peak_memory", "ratios", "summarize", "table"]

PACKAGES = ("torch", "torchvision", "sal-detectron2", "numpy", "opencv-python", "pillow")


def alternate(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Run all variants once to warm up, then in turn, so that a machine that slows down slows all of them alike.

    Args:
        variants: what to time, by name. A GPU that was used before is waited for before and after each.
        rounds: how often each one is timed.

    Returns:
        Seconds of wall time of every round, by name.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds, but at least 1 is needed")
    times: dict[str, list[float]] = {name: [] for name in variants}
    with tqdm(total=(rounds + 1) * len(variants), leave=False) as bar:
        for turn in range(rounds + 1):
            for name, variant in variants.items():
                seconds = _seconds(variant)
                if turn > 0:
                    times[name].append(seconds)
                bar.update()
    return times


def _seconds(function: Callable[[], object]) -> float:
    _synchronize()
    start = time.perf_counter()
    function()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def ratios(times: Mapping[str, Sequence[float]], reference: str | None = None) -> dict[str, float]:
    """How many times as fast as the reference each variant is: the median of the ratios within rounds, > 1 is faster.

    Args:
        times: of :func:`alternate`.
        reference: name of a variant; by default the first.
    """
    base = times[next(iter(times)) if reference is None else reference]
    return {name: median(b / s for b, s in zip(base, own, strict=True)) for name, own in times.items()}


def summarize(times: Mapping[str, Sequence[float]], reference: str | None = None) -> dict[str, dict[str, float]]:
    """By variant the median, smallest and largest seconds and the ratio to the reference, see :func:`ratios`."""
    speed = ratios(times, reference)
    return {
        name: {"median": median(own), "min": min(own), "max": max(own), "ratio": speed[name]}
        for name, own in times.items()
    }


def table(
    times: Mapping[str, Sequence[float]],
    reference: str | None = None,
    columns: Mapping[str, Mapping[str, object]] | None = None,
) -> str:
    """A Markdown table of milliseconds and ratios, a row per variant.

    Args:
        times: of :func:`alternate`.
        reference: see :func:`ratios`.
        columns: more columns, by title the values by variant; what is missing stays empty.
    """
    columns = columns or {}
    rows = [
        [
            name,
            *(f"{1000 * own[key]:.3f}" for key in ("median", "min", "max")),
            f"{own['ratio']:.2f}",
            *(values.get(name, "") for values in columns.values()),
        ]
        for name, own in summarize(times, reference).items()
    ]
    head = ["", "median ms", "min", "max", "times as fast", *columns]
    return tabulate(
        rows, head, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * (len(head) - 1))
    )


def environment(device: str = "cpu") -> dict[str, object]:
    """What results depend on: versions, threads and device."""
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else _processor()
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "threads": torch.get_num_threads(),
        "device": f"{device} ({name})",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The name of the CPU, as well as the system says it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def matmul_peak(device: str = "cpu", dtype: torch.dtype = torch.float32, size: int = 1024) -> float:
    """Multiply-adds per second of a square matrix product, the most that this machine was seen to do."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    repeats = 16 if torch.device(device).type == "cuda" else 1

    def multiply() -> None:
        for _ in range(repeats):
            left @ right

    return repeats * size**3 / min(alternate({"": multiply}, 5)[""])


def peak_memory(device: str = "cpu") -> int:
    """Bytes: what torch had on a GPU at most, or the most that the whole process has been in memory."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most  # Linux counts in KiB.
