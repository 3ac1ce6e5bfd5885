"""How to train on found data with this machine: config keys, each with its reason."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn

from ..readers import LabeledImage
from .rotation import why_not_turned

__all__ = [
    "Choices",
    "Machine",
    "batch_size",
    "bytes_per_pixel",
    "choose_batch",
    "choose_input",
    "choose_network",
    "choose_sizes",
    "choose_turning",
    "evaluation_period",
    "input_size",
    "look_at_machine",
    "number_of_epochs",
    "reference_rate",
    "scaled_rate",
    "set_iterations",
]

# From so many images on, a network of more parameters learns from scratch.
LARGE = 2000
# The smaller objects are to be so large in the input: three cells of the heatmap.
OBJECT_SIDE = 12.0
# Least and most longer side of the input, by type of device.
SIDES = {"cpu": (320, 512), "cuda": (512, 1024)}
# Heads, gradients and working memory, relative to what a backbone keeps for its backward pass.
BESIDE = 2.0
# Images that a training sees if nothing says how long it is to be, in an epoch or in many.
IMAGES_SEEN = 20_000
# A class of so many objects has a size map of its own.
CLASS_OBJECTS = 100
# Rates, for a batch, and decays of optimizers that learn the small hourglass from scratch (docs/own_data.md).
RATES_BATCH = 8
RATES = {"Adam": (1e-3, 0.0), "AdamW": (2e-3, 0.05), "Muon": (6e-3, 0.05)}
# Share of the time for training that evaluations in between may take.
LOOKING = 0.05


@dataclass(frozen=True)
class Machine:
    """What matters of the machine.

    Attributes:
        device: as MODEL.DEVICE.
        memory: free bytes of the device.
        cores: of the CPU that this process may use.
        half_speed: how many times as fast as single precision a small network is in half precision.
    """

    device: str
    memory: float
    cores: int
    half_speed: float

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type != "cpu"


class Choices:
    """A config in the making. Keys that the command line names, stay as they are.

    Attributes:
        cfg: with the keys chosen so far.
        lines: what was chosen and why, for people.
    """

    def __init__(self, cfg: CfgNode, told: Collection[str]) -> None:
        self.cfg = cfg.clone()
        self.cfg.defrost()
        self.told = frozenset(told)
        self.lines: list[str] = []

    def set(self, keys: Mapping[str, object]) -> bool:
        """Set those keys that the command line does not; whether there were any."""
        free = {key: value for key, value in keys.items() if key not in self.told}
        self.cfg.merge_from_list([part for pair in free.items() for part in pair])
        return bool(free)

    def say(self, what: str, value: str, why: str) -> None:
        """One line: what was chosen, what for, and why or by which key."""
        self.lines.append(f"  {what:<15} {value:<34} {why}".rstrip())


def look_at_machine(device: str, *, measure: bool) -> Machine:
    """Look at memory and cores; `measure` for a second how fast half precision is on a CPU (else as fast as single)."""
    cores = len(os_cores())
    if torch.device(device).type == "cuda":
        # By index: before torch 2.5, "cuda" alone is refused here.
        return Machine(device, torch.cuda.mem_get_info(torch.device(device).index)[0], cores, 2.0)
    return Machine(device, _free_memory(), cores, half_speed() if measure else 1.0)


def os_cores() -> Collection[int]:
    """The cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _free_memory() -> float:
    """Of the machine, and of the control group of the process where that has less."""
    free = []
    if (table := _text("/proc/meminfo")) and "MemAvailable:" in table:
        free.append(1024.0 * int(table.split("MemAvailable:")[1].split()[0]))
    limit, used = _text("/sys/fs/cgroup/memory.max"), _text("/sys/fs/cgroup/memory.current")
    if limit.strip().isdigit() and used.strip().isdigit():
        free.append(float(int(limit) - int(used)))
    return max(min(free, default=4e9), 0.0)  # Not every system tells.


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def half_speed(seconds: float = 1.0) -> float:
    """How many times as fast a small convolution network trains on the CPU in bfloat16, measured in about `seconds`."""
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


def choose_network(images: int, *, on_gpu: bool, with_trunk: bool) -> tuple[str, str]:
    """Kind of network and the reason.

    Args:
        images: to train on.
        on_gpu: whether there is a GPU.
        with_trunk: whether weights of a classifier are at hand.
    """
    if with_trunk:
        return "trunk", "MODEL.TRUNK_WEIGHTS is given"
    if images < LARGE:
        return "small", f"{images} images and no weights to start from"
    return ("large", f"{images} images and a GPU") if on_gpu else ("large on a CPU", f"{images} images")


def input_size(
    images: Sequence[LabeledImage], divisibility: int, sides: tuple[int, int], *, by_width: bool = False
) -> tuple[int, int]:
    """Height and width of the input, multiples of what the backbone needs, that show every image whole.

    The longer side of an image fills the width. Its smaller objects (the fifth smallest of a hundred is meant by four
    fifths) are to have OBJECT_SIDE pixels; larger than most images the input is not.

    Args:
        images: to train on.
        divisibility: of the backbone.
        sides: least and most width.
        by_width: the width of an image fills the width, even if it is the shorter side.
    """
    shapes = np.array([(image.width, image.height) for image in images], dtype=float)
    shown = shapes[:, 0] if by_width else shapes.max(axis=1)
    objects = [
        math.sqrt((thing.box[2] - thing.box[0]) * (thing.box[3] - thing.box[1])) / side
        for image, side in zip(images, shown, strict=True)
        for thing in image.objects
    ]
    wanted = OBJECT_SIDE / max(float(np.quantile(objects, 0.2)), 1e-3) if objects else 0.0
    width = min(max(wanted, sides[0]), sides[1], max(float(np.median(shown)), divisibility))
    width = _multiple(width, divisibility)
    # Of a strip at the border of the tallest images, 2 percent may be cut; that spares a row of multiples.
    return _multiple(width * float((shapes[:, 1] / shown).max()) * 0.98, divisibility), width


def _multiple(value: float, divisor: int) -> int:
    return max(1, math.ceil(value / divisor)) * divisor


def bytes_per_pixel(backbone: nn.Module, divisibility: int) -> float:
    """Memory of a training per pixel of the input in single precision, from one pass of two small inputs."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    side = max(64, divisibility)
    device = next(backbone.parameters()).device
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = backbone(torch.zeros(2, 3, side, side, device=device))
    del outputs  # Until here it holds what was counted, so that no address was counted twice.
    return BESIDE * sum(kept.values()) / (2 * side * side)


def batch_size(images: int, size: Sequence[int], memory: float, per_pixel: float, *, on_gpu: bool) -> int:
    """Images per batch: a power of two, at most as many as there are, within half of the memory; 8 on a CPU.

    Args:
        images: to train on.
        size: height and width of the input.
        memory: free bytes.
        per_pixel: bytes that a pixel of the input takes.
        on_gpu: there, larger batches cost little time.
    """
    most = (32 if images >= LARGE else 16) if on_gpu else 8
    fitting = memory / 2 / (per_pixel * size[0] * size[1])
    return 2 ** int(math.log2(max(1, min(most, images, fitting))))


def number_of_epochs(images: int) -> int:
    """Epochs if nothing is said: more for fewer images."""
    return min(300, max(12, round(IMAGES_SEEN / images)))


def evaluation_period(iterations: int, step: float = 0.0, evaluation: float = 0.0) -> int:
    """Iterations between evaluations: at most four come before the last, in at most a twentieth of the time.

    Args:
        iterations: of the training.
        step, evaluation: seconds of an iteration and of an evaluation, if they are known.

    Returns:
        0 for the evaluation at the end alone.
    """
    count = 4 if iterations >= 500 else 0
    if evaluation > 0:
        count = min(count, int(LOOKING * iterations * step / evaluation))
    return math.ceil(iterations / (count + 1)) if count else 0


def scaled_rate(rate: float, reference: int, batch: int) -> float:
    """The learning rate for Adam at a batch, from that of another batch: it grows with the square root."""
    return float(f"{rate * math.sqrt(batch / reference):.2g}")


def choose_input(
    choices: Choices, images: Sequence[LabeledImage], machine: Machine, divisibility: int, *, by_width: bool
) -> None:
    """Precision, layout in memory and size of the input."""
    cfg = choices.cfg
    choices.set({"SOLVER.AMP.ENABLED": machine.half_speed > 1.1})
    if machine.on_gpu and cfg.SOLVER.AMP.ENABLED:
        # 1.15 to 1.29 times as fast on an H200 (docs/benchmarks.md).
        choices.set({"MODEL.CENTERNET.CHANNELS_LAST": True})
    measured = "as on any GPU" if machine.on_gpu else f"bfloat16 is {machine.half_speed:.1f} times as fast here"
    measured = "as told" if "SOLVER.AMP.ENABLED" in choices.told else measured
    key = "SOLVER.AMP.ENABLED" + (", MODEL.CENTERNET.CHANNELS_LAST" if cfg.MODEL.CENTERNET.CHANNELS_LAST else "")
    choices.say("half precision", "on" if cfg.SOLVER.AMP.ENABLED else "off", f"{key}; {measured}")
    sides = SIDES["cuda" if machine.on_gpu else "cpu"]
    choices.set({"INPUT.AFFINE.SIZE": list(input_size(images, divisibility, sides, by_width=by_width))})
    if not by_width:
        choices.set({"MODEL.CENTERNET.TEST_RESOLUTION": "fixed"})
    height, width = cfg.INPUT.AFFINE.SIZE
    why = "INPUT.AFFINE.SIZE; by sizes of images and objects"
    choices.say("input size", f"{height} x {width} (height x width)", why)


def choose_turning(choices: Choices, images: Sequence[LabeledImage]) -> None:
    """Whether training turns images."""
    against = why_not_turned(images)
    choices.set({"INPUT.AFFINE.TURN": 0 if against else 90})
    turn = choices.cfg.INPUT.AFFINE.TURN
    why = "as told" if "INPUT.AFFINE.TURN" in choices.told else against or "boxes say that objects lie any way"
    choices.say("turning", f"by multiples of {turn} degrees" if turn else "none", f"INPUT.AFFINE.TURN; {why}")


def choose_sizes(choices: Choices, images: Sequence[LabeledImage], classes: Sequence[str]) -> None:
    """Whether each class has a map of sizes of its own, learned from its objects alone."""
    counts = dict.fromkeys(classes, 0)
    for image in images:
        for thing in image.objects:
            counts[thing.label] += not thing.crowd
    name, least = min(counts.items(), key=lambda item: item[1])
    choices.set({"MODEL.CENTERNET.CLASS_SPECIFIC_SIZE": len(counts) > 1 and least >= CLASS_OBJECTS})
    own = choices.cfg.MODEL.CENTERNET.CLASS_SPECIFIC_SIZE
    why = f"{name} has {least} objects" if len(counts) > 1 else "there is one class"
    why = "as told" if "MODEL.CENTERNET.CLASS_SPECIFIC_SIZE" in choices.told else why
    choices.say("sizes", "a map per class" if own else "one map", f"MODEL.CENTERNET.CLASS_SPECIFIC_SIZE; {why}")


def reference_rate(choices: Choices, network: CfgNode) -> tuple[float, int]:
    """A learning rate, and the batch that it is for: the network's, or that of an optimizer that was asked for.

    Args:
        choices: what was told; gets the decay that goes with another optimizer.
        network: the config before that.

    Raises:
        ValueError: an optimizer was asked for whose rate nobody knows.
    """
    plain, optimizer = network.SOLVER, choices.cfg.SOLVER.OPTIMIZER
    if optimizer == plain.OPTIMIZER or "SOLVER.BASE_LR" in choices.told:
        return plain.BASE_LR, plain.REFERENCE_IMS_PER_BATCH or plain.IMS_PER_BATCH
    if optimizer not in RATES:
        raise ValueError(f"no rate is known for SOLVER.OPTIMIZER {optimizer}: name SOLVER.BASE_LR and WEIGHT_DECAY too")
    rate, decay = RATES[optimizer]
    choices.set({"SOLVER.WEIGHT_DECAY": decay})
    return rate, RATES_BATCH


def choose_batch(
    choices: Choices, images: int, machine: Machine, per_pixel: float, reference: tuple[float, int]
) -> None:
    """Batch, rate, schedule, workers and seed.

    Args:
        choices: with the size of the input.
        images: to train on.
        machine: that trains.
        per_pixel: bytes that a pixel of the input takes.
        reference: a learning rate for this network, and the batch that it is for.
    """
    cfg = choices.cfg
    batch = batch_size(images, cfg.INPUT.AFFINE.SIZE, machine.memory, per_pixel, on_gpu=machine.on_gpu)
    choices.set({"SOLVER.IMS_PER_BATCH": batch, "SOLVER.REFERENCE_IMS_PER_BATCH": 0})
    batch = cfg.SOLVER.IMS_PER_BATCH
    needed = per_pixel * math.prod(cfg.INPUT.AFFINE.SIZE) / 1e9
    why = f"SOLVER.IMS_PER_BATCH; about {needed:.2f} GB each, {machine.memory / 1e9:.0f} GB are free"
    choices.say("batch", f"{batch} images", why)
    choices.set({"SOLVER.BASE_LR": scaled_rate(*reference, batch), "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR"})
    choices.set({"SOLVER.BASE_LR_END": 0.0, "SOLVER.STEPS": (), "SOLVER.STEP_EPOCHS": ()})
    choices.set({"DATALOADER.NUM_WORKERS": min(8, machine.cores) if machine.on_gpu else 1, "SEED": 1})


def set_iterations(
    choices: Choices, iterations: int, images: int, why: str, pace: tuple[float, float] = (0.0, 0.0)
) -> None:
    """Length of the training, and what hangs on it: warm-up, checkpoints, evaluations.

    Args:
        choices: with a batch size.
        iterations: of the training.
        images: to train on.
        why: so many.
        pace: seconds of an iteration and of an evaluation, if they are known.
    """
    solver = choices.cfg.SOLVER
    # Also epochs that the model's file sets give way; those of the command line count.
    choices.set({"SOLVER.MAX_ITER": iterations, "SOLVER.EPOCHS": 0})
    if solver.EPOCHS > 0:
        choices.set({"SOLVER.MAX_ITER": math.ceil(solver.EPOCHS * images / solver.IMS_PER_BATCH)})
    iterations = solver.MAX_ITER
    period = evaluation_period(iterations, *pace)
    choices.set({"SOLVER.WARMUP_ITERS": min(500, iterations // 20), "SOLVER.MAX_TO_KEEP": 2})
    choices.set({"SOLVER.CHECKPOINT_PERIOD": max(100, math.ceil(iterations / 5)), "TEST.EVAL_PERIOD": period})
    epochs = iterations * solver.IMS_PER_BATCH / images
    told = {"SOLVER.MAX_ITER", "SOLVER.EPOCHS"} & choices.told
    choices.say(
        "length", f"{iterations} iterations, {epochs:.1f} epochs", f"SOLVER.MAX_ITER; {'as told' if told else why}"
    )
    choices.say(
        "rate",
        f"{solver.BASE_LR:g}, {solver.OPTIMIZER}, {solver.LR_SCHEDULER_NAME}",
        f"SOLVER.BASE_LR, SOLVER.OPTIMIZER; warm-up of {solver.WARMUP_ITERS}",
    )
    period = choices.cfg.TEST.EVAL_PERIOD
    tests = ", ".join(choices.cfg.DATASETS.TEST) or "nothing"
    choices.say("evaluation", f"every {period} iterations" if period else "at the end", f"TEST.EVAL_PERIOD; on {tests}")
