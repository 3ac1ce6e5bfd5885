"""Config choices for a dataset and a machine, as pure functions with reasons."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn

from ..config.arguments import get_value
from ..readers import LabeledImage
from ..utils.text import plural
from .machine import Machine
from .rotation import rotation_veto

__all__ = [
    "Choice",
    "Overrides",
    "bytes_per_pixel",
    "choose_batch",
    "choose_class_sizes",
    "choose_detections",
    "choose_evaluation",
    "choose_input_size",
    "choose_length",
    "choose_network",
    "choose_pixels",
    "choose_precision",
    "choose_rate",
    "choose_rotation",
    "evaluation_period",
    "number_of_epochs",
]

# From this number of images on, a larger network can be trained from scratch.
LARGE_DATASET = 2000
# Target side length of the smaller objects in the input, in pixels: three cells of the heatmap.
OBJECT_SIDE = 12.0
# Smallest and largest longer side of the input, by type of device.
SIDES = {"cpu": (320, 512), "cuda": (512, 1024)}
# Training memory relative to the tensors that the backbone keeps for its backward pass.
MEMORY_FACTOR = 2.0
# Number of images in a training run of default length, over all epochs.
IMAGES_SEEN = 20_000
# Number of objects from which a class gets a size map of its own.
CLASS_OBJECTS = 100
# Learning rate (for a batch of RATES_BATCH) and weight decay per optimizer, for the small hourglass from scratch
# (docs/experiments.md).
RATES_BATCH = 8
RATES = {"Adam": (1e-3, 0.0), "AdamW": (2e-3, 0.05), "Muon": (6e-3, 0.05)}
# Smallest useful number of epochs.
MIN_EPOCHS = 5
# Largest share of the training time that evaluations before the last one may take.
EVALUATION_SHARE = 0.05


# Columns of the configuration summary.
NOTE_COLUMN, REASON_COLUMN = 18, 53


Value = TypeVar("Value")


@dataclass(frozen=True)
class Choice:
    """Config keys, and the line of the configuration summary that explains them.

    Attributes:
        topic, value, reason: columns of the summary.
        keys: config keys and their values, overrides of the user included.
        notes: further lines below it.
    """

    topic: str
    value: str
    reason: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def lines(self, width: int) -> list[str]:
        """Return the choice as lines of the configuration summary.

        Args:
            width: largest length of a line; longer reasons and notes are wrapped.
        """
        front = f"  {self.topic:<15} {self.value:<34} "
        own_line = len(front) > REASON_COLUMN or width < 100
        column = NOTE_COLUMN if own_line else REASON_COLUMN
        reason = [f"{'':{column}}{line}" for line in _wrap(self.reason, width - column)]
        if reason and not own_line:
            reason[0] = front + reason[0].lstrip()
        notes = [f"{'':{NOTE_COLUMN}}{line}" for note in self.notes for line in _wrap(note, width - NOTE_COLUMN)]
        return [*([front.rstrip()] if own_line or not reason else []), *reason, *notes]


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


@dataclass(frozen=True)
class Overrides:
    """Config keys set by the user, which no choice replaces.

    Attributes:
        values: key -> value, of the type of the key.
    """

    values: Mapping[str, object]

    @classmethod
    def from_config(cls, cfg: CfgNode, keys: Sequence[str]) -> Overrides:
        """Look up the values of keys in a config that has them."""
        return cls({key: get_value(cfg, key) for key in keys})

    def get(self, key: str, default: Value) -> Value:
        """Return the value set by the user, or else a default."""
        return cast(Value, self.values.get(key, default))

    def reason(self, key: str, default: str) -> str:
        """Return the reason for the value of a key."""
        return "set by you" if key in self.values else default


def choose_network(images: int, *, on_gpu: bool, with_trunk: bool) -> tuple[str, str]:
    """Return the kind of network and the reason.

    Args:
        images: number of training images.
        on_gpu: True if a GPU trains.
        with_trunk: True if weights of a classifier are available.
    """
    if with_trunk:
        return "trunk", "MODEL.TRUNK_WEIGHTS is given"
    if images < LARGE_DATASET:
        return "small", f"{images} images and no weights to start from"
    return ("large", f"{images} images and a GPU") if on_gpu else ("large on a CPU", f"{images} images")


def choose_pixels(cfg: CfgNode, user: Overrides) -> Choice:
    """Report color order and statistics of the images.

    They depend on the weights of the trunk.

    Args:
        cfg: config of a network with a trunk of timm, with overrides.
        user: overrides.
    """
    keys = {"INPUT.FORMAT": cfg.INPUT.FORMAT, "MODEL.PIXEL_MEAN": cfg.MODEL.PIXEL_MEAN}
    keys["MODEL.PIXEL_STD"] = cfg.MODEL.PIXEL_STD
    mean = " ".join(f"{value:.4g}" for value in cfg.MODEL.PIXEL_MEAN)
    reason = "set by you" if keys.keys() & user.values.keys() else f"from the weights of {cfg.MODEL.TIMM.NAME}"
    return Choice("pixels", f"{cfg.INPUT.FORMAT}, mean {mean}", f"{', '.join(keys)}; {reason}", keys)


def choose_precision(machine: Machine, user: Overrides) -> Choice:
    """Choose half precision if it is faster."""
    key = "SOLVER.AMP.ENABLED"
    enabled = user.get(key, machine.half_speed > 1.1)
    measured = (
        "default on a GPU" if machine.on_gpu else f"bfloat16 is {machine.half_speed:.1f}x as fast on this machine"
    )
    reason = f"{key}; {user.reason(key, measured)}"
    return Choice("half precision", "on" if enabled else "off", reason, {key: enabled})


def choose_input_size(
    images: Sequence[LabeledImage], machine: Machine, divisibility: int, user: Overrides, *, by_width: bool
) -> Choice:
    """Choose height and width of the network input, see :func:`input_size`.

    Args:
        images: training images.
        machine: machine that trains.
        divisibility: divisor of height and width required by the backbone.
        user: overrides.
        by_width: see :func:`input_size`.
    """
    key = "INPUT.AFFINE.SIZE"
    sides = SIDES["cuda" if machine.on_gpu else "cpu"]
    size = user.get(key, list(input_size(images, divisibility, sides, by_width=by_width)))
    height, width = size
    keys: dict[str, object] = {key: size} if by_width else {key: size, "MODEL.CENTERNET.TEST_RESOLUTION": "fixed"}
    reason = user.reason(key, "from the sizes of images and objects")
    return Choice("input size", f"{height} x {width} (height x width)", f"{key}; {reason}", keys)


def input_size(
    images: Sequence[LabeledImage], divisibility: int, sides: tuple[int, int], *, by_width: bool = False
) -> tuple[int, int]:
    """Return height and width of the network input.

    Both are multiples of `divisibility`, and the input contains every image completely. The longer side of an image
    fills the width. The 20th percentile of object sides becomes OBJECT_SIDE pixels; the input is not larger than most
    images.

    Args:
        images: training images.
        divisibility: divisor of height and width required by the backbone.
        sides: smallest and largest width.
        by_width: the width of an image fills the width of the input, even if it is the shorter side.
    """
    shapes = np.array([(image.width, image.height) for image in images], dtype=float)
    filling = shapes[:, 0] if by_width else shapes.max(axis=1)
    objects = [
        math.sqrt((obj.box[2] - obj.box[0]) * (obj.box[3] - obj.box[1])) / side
        for image, side in zip(images, filling, strict=True)
        for obj in image.objects
    ]
    target = OBJECT_SIDE / max(float(np.quantile(objects, 0.2)), 1e-3) if objects else 0.0
    width = min(max(target, sides[0]), sides[1], max(float(np.median(filling)), divisibility))
    width = _multiple(width, divisibility)
    # Cropping 2 % of the tallest images can reduce the height by one multiple.
    return _multiple(width * float((shapes[:, 1] / filling).max()) * 0.98, divisibility), width


def _multiple(value: float, divisor: int) -> int:
    return max(1, math.ceil(value / divisor)) * divisor


def choose_rotation(images: Sequence[LabeledImage], user: Overrides) -> Choice:
    """Choose 90-degree rotation as augmentation unless box statistics rule it out."""
    key = "INPUT.AFFINE.TURN"
    veto = rotation_veto(images)
    degrees = user.get(key, 0 if veto else 90)
    reason = user.reason(key, veto or "box statistics show no preferred orientation")
    return Choice(
        "rotation", f"multiples of {degrees} degrees" if degrees else "none", f"{key}; {reason}", {key: degrees}
    )


def choose_class_sizes(images: Sequence[LabeledImage], classes: Sequence[str], user: Overrides) -> Choice:
    """Choose one size map per class if every class has enough objects to learn it."""
    key = "MODEL.CENTERNET.CLASS_SPECIFIC_SIZE"
    counts = dict.fromkeys(classes, 0)
    for image in images:
        for obj in image.objects:
            counts[obj.label] += not obj.crowd
    name, least = min(counts.items(), key=lambda item: item[1])
    per_class = user.get(key, len(counts) > 1 and least >= CLASS_OBJECTS)
    reason = user.reason(key, f"{name} has {least} objects" if len(counts) > 1 else "there is only one class")
    return Choice("sizes", "one map per class" if per_class else "one map", f"{key}; {reason}", {key: per_class})


def bytes_per_pixel(backbone: nn.Module, divisibility: int) -> float:
    """Estimate the memory of float32 training in bytes per pixel of the input.

    The estimate is based on the tensors saved for the backward pass of two small inputs.
    """
    saved: dict[int, int] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    side = max(64, divisibility)
    device = next(backbone.parameters()).device
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        outputs = backbone(torch.zeros(2, 3, side, side, device=device))
    del outputs  # Kept the saved tensors alive, so that no address was used twice.
    return MEMORY_FACTOR * sum(saved.values()) / (2 * side * side)


def choose_batch(images: int, size: Sequence[int], machine: Machine, per_pixel: float, user: Overrides) -> Choice:
    """Choose batch size and number of loader workers, see :func:`batch_size`.

    Args:
        images: number of training images.
        size: height and width of the input.
        machine: machine that trains.
        per_pixel: bytes per pixel of the input, see :func:`bytes_per_pixel`.
        user: overrides.
    """
    key = "SOLVER.IMS_PER_BATCH"
    batch = user.get(key, batch_size(images, size, machine.memory, per_pixel, on_gpu=machine.on_gpu))
    needed = per_pixel * math.prod(size) / 1e9
    reason = user.reason(key, f"about {needed:.2f} GB each, {machine.memory / 1e9:.0f} GB free")
    keys = {
        key: batch,
        "SOLVER.REFERENCE_IMS_PER_BATCH": 0,
        "DATALOADER.NUM_WORKERS": min(8, machine.cores) if machine.on_gpu else 1,
    }
    return Choice("batch", f"{batch} images", f"{key}; {reason}", keys)


def batch_size(images: int, size: Sequence[int], memory: float, per_pixel: float, *, on_gpu: bool) -> int:
    """Return the batch size: the largest power of two within all limits.

    The limits are the number of images, half of the free memory, and 8 on a CPU, 16 on a GPU or 32 on a GPU for large
    datasets.

    Args:
        images: number of training images.
        size: height and width of the input.
        memory: free bytes.
        per_pixel: bytes per pixel of the input.
        on_gpu: True if a GPU trains.
    """
    limit = (32 if images >= LARGE_DATASET else 16) if on_gpu else 8
    fitting = memory / 2 / (per_pixel * size[0] * size[1])
    return 2 ** int(math.log2(max(1, min(limit, images, fitting))))


def choose_rate(network: CfgNode, batch: int, user: Overrides) -> Choice:
    """Choose optimizer, learning rate and schedule.

    The rate of the network's config applies to its optimizer; another optimizer set by the user has a rate of its own.

    Args:
        network: config of the network, before overrides.
        batch: images per batch.
        user: overrides.

    Raises:
        ValueError: no rate is known for the optimizer set by the user.
    """
    solver = network.SOLVER
    keys: dict[str, object] = {}
    optimizer = user.get("SOLVER.OPTIMIZER", str(solver.OPTIMIZER))
    reference, reference_batch = solver.BASE_LR, solver.REFERENCE_IMS_PER_BATCH or solver.IMS_PER_BATCH
    if optimizer != solver.OPTIMIZER and "SOLVER.BASE_LR" not in user.values:
        if optimizer not in RATES:
            raise ValueError(
                f"no learning rate is known for SOLVER.OPTIMIZER {optimizer}: set SOLVER.BASE_LR and "
                "SOLVER.WEIGHT_DECAY too"
            )
        reference, keys["SOLVER.WEIGHT_DECAY"] = RATES[optimizer]
        reference_batch = RATES_BATCH
    rate = user.get("SOLVER.BASE_LR", scaled_rate(reference, reference_batch, batch))
    schedule = user.get("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR")
    keys |= {
        "SOLVER.BASE_LR": rate,
        "SOLVER.LR_SCHEDULER_NAME": schedule,
        "SOLVER.BASE_LR_END": 0.0,
        "SOLVER.STEPS": (),
        "SOLVER.STEP_EPOCHS": (),
        "SEED": 1,
    }
    reason = user.reason("SOLVER.BASE_LR", "scaled to the batch")
    return Choice("learning rate", f"{rate:g}, {optimizer}, {schedule}", f"SOLVER.BASE_LR; {reason}", keys)


def scaled_rate(rate: float, reference: int, batch: int) -> float:
    """Scale a learning rate by the square root of the batch size ratio.

    Args:
        rate: learning rate for the reference batch size.
        reference: reference batch size.
        batch: batch size.
    """
    return float(f"{rate * math.sqrt(batch / reference):.2g}")


def number_of_epochs(images: int) -> int:
    """Return the default number of epochs: more for fewer images."""
    return min(300, max(12, round(IMAGES_SEEN / images)))


def choose_length(iterations: int, images: int, batch: int, reason: str, user: Overrides) -> Choice:
    """Choose the number of iterations with warm-up and checkpoints.

    Args:
        iterations: length without overrides.
        images: number of training images.
        batch: images per batch.
        reason: origin of that length, for the summary.
        user: overrides; SOLVER.EPOCHS takes precedence over SOLVER.MAX_ITER, as in the trainer.
    """
    iterations = user.get("SOLVER.MAX_ITER", iterations)
    epochs = user.get("SOLVER.EPOCHS", 0)
    if epochs > 0:
        iterations = math.ceil(epochs * images / batch)
    keys = {
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.EPOCHS": 0,  # Replaces a value of the model's config; an override is kept.
        "SOLVER.WARMUP_ITERS": min(500, iterations // 20),
        "SOLVER.MAX_TO_KEEP": 2,
        "SOLVER.CHECKPOINT_PERIOD": max(100, math.ceil(iterations / 5)),
    }
    if {"SOLVER.MAX_ITER", "SOLVER.EPOCHS"} & user.values.keys():
        reason = "set by you"
    done = iterations * batch / images
    value = f"{iterations} iterations, {done:.1f} epochs"
    notes = (f"warning: less than {MIN_EPOCHS} epochs, so detections will be poor",) if done < MIN_EPOCHS else ()
    return Choice("length", value, f"SOLVER.MAX_ITER; {reason}", keys, notes)


def choose_detections(images: Sequence[LabeledImage], user: Overrides) -> Choice:
    """Choose the limit of detections per image from the largest number of objects.

    Args:
        images: images of all splits.
        user: overrides.
    """
    key = "TEST.DETECTIONS_PER_IMAGE"
    most = max(len(image.objects) for image in images)
    limit = user.get(key, max(100, math.ceil(most / 100) * 100))
    reason = user.reason(key, f"an image has up to {plural(most, 'object')}")
    notes = () if limit >= most else (f"an image has {most} objects, so that AP cannot reach 100",)
    return Choice("detections", f"at most {limit} per image", f"{key}; {reason}", {key: limit}, notes)


def choose_evaluation(
    iterations: int,
    tests: Sequence[str],
    user: Overrides,
    step: float = 0.0,
    evaluation: float = 0.0,
    *,
    final: Sequence[str] = (),
) -> Choice:
    """Choose the period of evaluations.

    Args:
        iterations: length of the training.
        tests: names of the datasets to evaluate on.
        user: overrides.
        step, evaluation: seconds of an iteration and of an evaluation, if known.
        final: names of the datasets to evaluate on once, at the end.
    """
    key = "TEST.EVAL_PERIOD"
    period = user.get(key, evaluation_period(iterations, step, evaluation))
    value = f"every {period} iterations" if period else "at the end"
    once = f"; at the end, also on {', '.join(final)}" if final else ""
    return Choice("evaluation", value, f"{key}; on {', '.join(tests) or 'nothing'}{once}", {key: period})


def evaluation_period(iterations: int, step: float = 0.0, evaluation: float = 0.0) -> int:
    """Return the number of iterations between evaluations.

    There are at most four evaluations before the last one, and they take at most 5 % of the training time.

    Args:
        iterations: length of the training.
        step, evaluation: seconds of an iteration and of an evaluation, if known.

    Returns:
        0 for a single evaluation at the end.
    """
    count = 4 if iterations >= 500 else 0
    if evaluation > 0:
        count = min(count, int(EVALUATION_SHARE * iterations * step / evaluation))
    return math.ceil(iterations / (count + 1)) if count else 0
