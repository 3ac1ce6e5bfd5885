"""Interleaved timing, cost of a model, and description of the machine."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import NamedTuple

import torch
from tabulate import tabulate
from tqdm import tqdm

from ..config import load_config
from ..modeling import CenterNet
from ..utils.logging import quiet_imports

with quiet_imports():
    from fvcore.nn import FlopCountAnalysis

__all__ = [
    "alternate",
    "clock_of",
    "environment",
    "matmul_peak",
    "model_cost",
    "peak_memory",
    "ratios",
    "summarize",
    "table",
]

PACKAGES = ("torch", "torchvision", "sal-detectron2", "numpy", "opencv-python", "pillow")


def clock_of(device: str) -> Callable[[], float]:
    """Return the clock for timings on a device.

    It is process time for one CPU thread, and otherwise wall time. Process time does not include the time of other
    processes on the same core.
    """
    one_thread = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if one_thread else time.perf_counter


def alternate(
    variants: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time all variants in turn, after one round of warm-up.

    With interleaving, changes in machine speed affect all variants alike. A GPU in use is synchronized before and after
    each call.

    Args:
        variants: functions to time, by name.
        rounds: number of timed calls of each function.
        clock: function that returns seconds.

    Returns:
        Seconds of every round, by name.

    Raises:
        ValueError: `rounds` is less than 1.
    """
    if rounds < 1:
        raise ValueError(f"--rounds is {rounds}, but must be at least 1")
    times: dict[str, list[float]] = {name: [] for name in variants}
    with tqdm(total=(rounds + 1) * len(variants), leave=False) as bar:
        for index in range(rounds + 1):
            for name, variant in variants.items():
                seconds = _seconds(variant, clock)
                if index > 0:
                    times[name].append(seconds)
                bar.update()
    return times


def _seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    _synchronize()
    start = clock()
    function()
    _synchronize()
    return clock() - start


def _synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def ratios(times: Mapping[str, Sequence[float]], reference: str | None = None) -> dict[str, float]:
    """Return the speed of each variant relative to a reference; > 1 is faster.

    This is the median over rounds of the ratio of times.

    Args:
        times: result of :func:`alternate`.
        reference: name of a variant; by default the first.
    """
    base = times[next(iter(times)) if reference is None else reference]
    return {name: median(b / s for b, s in zip(base, own, strict=True)) for name, own in times.items()}


def summarize(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Return statistics of the seconds of each variant.

    Keys are median, min, max and ratio, the speed relative to the first variant (:func:`ratios`).
    """
    speed = ratios(times)
    return {
        name: {"median": median(own), "min": min(own), "max": max(own), "ratio": speed[name]}
        for name, own in times.items()
    }


def table(times: Mapping[str, Sequence[float]]) -> str:
    """Format milliseconds and ratios as a Markdown table with one row per variant."""
    rows = [
        [name, *(f"{1000 * own[key]:.3f}" for key in ("median", "min", "max")), f"{own['ratio']:.2f}"]
        for name, own in summarize(times).items()
    ]
    head = ["", "median ms", "min", "max", "relative speed"]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * 4))


class Cost(NamedTuple):
    """Size of a model and work for one image."""

    trainable: int
    """Number of trainable parameters."""
    stored: int
    """Number of parameters in a weights file."""
    multiply_adds: int
    """Multiply-adds of the forward pass of one image."""


def model_cost(config: str, size: tuple[int, int]) -> Cost:
    """Count parameters and multiply-adds of a model.

    Args:
        config: a file, or a name of the model zoo.
        size: height and width of the image.
    """
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", "MODEL.DEFORM_CONV", "grid_sample"])
    model = CenterNet(cfg).eval()
    parameters = list(model.parameters())
    # FlopCountAnalysis counts grid_sample and matrix products; operators without a handler are ignored.
    analysis = FlopCountAnalysis(_Network(model), torch.zeros(1, 3, *size))
    flops = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return Cost(trainable, sum(parameter.numel() for parameter in parameters), int(flops))


class _Network(torch.nn.Module):
    """Module from normalized images to the maps of the last stack."""

    def __init__(self, model: CenterNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.model.compute_test_maps(images)


def environment(device: str = "cpu") -> dict[str, object]:
    """Return package versions, number of threads and device."""
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
    """Return the name of the CPU."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def matmul_peak(device: str = "cpu", size: int = 1024) -> float:
    """Estimate the peak speed of a device in multiply-adds per second.

    The estimate is the speed of a square float32 matrix product.
    """
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    repeats = 16 if torch.device(device).type == "cuda" else 1

    def multiply() -> None:
        for _ in range(repeats):
            left @ right

    return repeats * size**3 / min(alternate({"": multiply}, 5, clock_of(device))[""])


def peak_memory(device: str = "cpu") -> int:
    """Return the peak memory in bytes.

    For a GPU, this is memory allocated by torch; otherwise, the resident size of the process.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most  # Linux counts in KiB.
