"""Training plan for a labeled dataset: a config with a reason for each choice."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_backbone

from ..checkpoint import is_checkpoint, load_source
from ..config.catalog import SMALL, find_config, get_base_file
from ..config.loading import check_device, default_config, load_config, override
from ..engine.setup import check_output_dir, check_weights, start_logging
from ..readers import DiscoveredDataset, write_coco
from .budget import Pace, iterations_within, measure_pace, minutes_for, readable_duration, training_seconds
from .choices import (
    MIN_EPOCHS,
    Choice,
    Overrides,
    bytes_per_pixel,
    choose_batch,
    choose_class_sizes,
    choose_detections,
    choose_evaluation,
    choose_input_size,
    choose_length,
    choose_network,
    choose_pixels,
    choose_precision,
    choose_rate,
    choose_rotation,
    number_of_epochs,
)
from .machine import Machine, inspect_machine
from .task import Task, task_of

__all__ = ["Draft", "Plan", "Request", "draft_plan", "output_folders", "plan_training"]

# Fraction of --minutes that is spent on timing.
TIMING = 0.02


@dataclass(frozen=True)
class Request:
    """Request of the command line to train on a dataset.

    Attributes:
        data, val: paths of the training data and, optionally, of separate validation data.
        epochs, minutes: length of training; at most one of them.
        model: SMALL, a config file, a name in the model zoo, ``timm:NAME``, or the folder or checkpoint of a run to
            start from; by default, chosen from dataset, weights and device.
        overrides: alternating config keys and values.
        timed: time a few iterations, to choose the evaluation period and to report the expected duration.
    """

    data: str
    val: str | None = None
    epochs: float | None = None
    minutes: float | None = None
    model: str | None = None
    overrides: tuple[str, ...] = ()
    timed: bool = True


@dataclass(frozen=True)
class Draft:
    """Validated request, before the dataset is read.

    Attributes:
        request: the request.
        folder: OUTPUT_DIR.
        user: config keys set by the user.
        device: value of MODEL.DEVICE.
        network: config of the requested model, before overrides; None if it is chosen later.
        start: time when the request was received, in seconds of ``time.perf_counter``.
    """

    request: Request
    folder: Path
    user: Overrides
    device: str
    network: CfgNode | None
    start: float


@dataclass(frozen=True)
class Plan:
    """Config and the choices that it results from.

    Attributes:
        cfg: complete training config.
        choices: choices, in the order of the summary.
    """

    cfg: CfgNode
    choices: tuple[Choice, ...]

    def lines(self, width: int) -> list[str]:
        """Return the configuration summary, in lines of at most `width` columns."""
        title = "configuration (append KEY VALUE to the command to override):"
        return [title, *(line for choice in self.choices for line in choice.lines(width))]


def draft_plan(request: Request) -> Draft:
    """Validate a request without reading the dataset.

    Raises:
        FileExistsError: OUTPUT_DIR contains another run.
        FileNotFoundError: config or weights do not exist.
        ValueError: options conflict, a config key or its value is invalid, or the device does not exist.
    """
    start = time.perf_counter()
    for option in ("epochs", "minutes"):
        value = getattr(request, option)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{option} is {value:g}, but must be greater than 0")
    if "MODEL.WEIGHTS" in request.overrides[::2] and not request.model:
        raise ValueError("MODEL.WEIGHTS requires the network that matches the weights: set --model")
    network = load_source(request.model) if request.model and request.model != SMALL else None
    typed = default_config() if network is None else network.clone()
    override(typed, request.overrides)
    user = Overrides.from_config(typed, request.overrides[::2])
    check_device(typed.MODEL.DEVICE)
    folder = Path(str(user.get("OUTPUT_DIR", next(f for f in output_folders(request.data) if not f.exists()))))
    check_output_dir(folder, resume=False)
    check_weights(typed, resume=False, eval_only=False)
    return Draft(request, folder, user, typed.MODEL.DEVICE, network, start)


def output_folders(data: str) -> Iterator[Path]:
    """Generate the default output folders: output/NAME, output/NAME-2, ..."""
    name, number = _name_of(data), 2
    yield Path("output", name)
    while True:
        yield Path("output", f"{name}-{number}")
        number += 1


def _name_of(data: str) -> str:
    """Return the name of a dataset: the name of its folder, or of its file unless that is generic."""
    path = Path(os.path.expanduser(data)).absolute()
    if path.suffix.lower() in (".json", ".yaml", ".yml", ".csv"):
        path = path.parent if path.stem in ("data", "annotations", "_annotations.coco") else path.with_suffix("")
    return path.name or "data"


def plan_training(draft: Draft, data: DiscoveredDataset) -> Plan:
    """Choose a config for a dataset, and convert the dataset.

    COCO files (for KITTI, image lists) are written to OUTPUT_DIR/data. With ``Request.minutes``, a few iterations are
    timed.

    Raises:
        FileExistsError: OUTPUT_DIR/data contains other data.
        ValueError: the dataset and the overrides conflict.
    """
    request, user = draft.request, draft.user
    task = task_of(data, write_coco(data, draft.folder / "data"), _name_of(request.data))
    machine = inspect_machine(draft.device, measure="SOLVER.AMP.ENABLED" not in user.values)
    images = data.splits["train"].images
    choice, network = _choose_network(draft, task, machine, len(images))
    cfg = network.clone()
    override(cfg, request.overrides)
    keys = dict(task.keys)
    if "DATASETS.TEST" in user.values:
        del keys["DATASETS.VAL"]  # Refers to the default of DATASETS.TEST.
    choices = [Choice("task", task.name, "MODEL.CENTERNET.HEADS", keys, task.notes), choice]
    if cfg.MODEL.BACKBONE.NAME == "build_timm_upconv_backbone":
        choices.append(choose_pixels(cfg, user))
    choices += _choose_training(cfg, network, task, data, machine, user)
    choices.append(Choice("output folder", str(draft.folder), "OUTPUT_DIR", {"OUTPUT_DIR": str(draft.folder)}))
    cfg = _merge(cfg, choices, user)
    choices += _choose_duration(cfg, draft, len(images))
    choices += _other_keys(choices, user)
    return Plan(_merge(cfg, choices, user), tuple(choices))


def _choose_network(draft: Draft, task: Task, machine: Machine, images: int) -> tuple[Choice, CfgNode]:
    """Return the choice of the network, and its config before overrides."""
    if draft.network is not None:
        model = str(draft.request.model)
        if is_checkpoint(model):
            return Choice("network", model, f"--model; starts from {draft.network.MODEL.WEIGHTS}"), draft.network
        return Choice("network", Path(model).with_suffix("").name, "--model; set by you"), draft.network
    kind, reason = SMALL, "set by you"
    if draft.request.model is None:
        with_trunk = "MODEL.TRUNK_WEIGHTS" in draft.user.values
        kind, reason = choose_network(images, on_gpu=machine.on_gpu, with_trunk=with_trunk)
    name = task.networks[kind]
    file = get_base_file(name) if name.startswith("Base-") else find_config(name)
    return Choice("network", Path(name).stem, f"--model; {reason}"), load_config(file)


def _choose_training(
    cfg: CfgNode, network: CfgNode, task: Task, data: DiscoveredDataset, machine: Machine, user: Overrides
) -> list[Choice]:
    """Return the choices that depend on dataset, network and machine.

    Args:
        cfg: config of the network with overrides.
        network: config of the network without overrides.
        task: task of the dataset.
        data: dataset.
        machine: machine to train on.
        user: overrides.
    """
    images = data.splits["train"].images
    backbone = build_backbone(cfg)
    divisibility = backbone.size_divisibility
    device = Choice("device", machine.device, "MODEL.DEVICE", {"MODEL.DEVICE": machine.device})
    precision = choose_precision(machine, user)
    size = choose_input_size(images, machine, divisibility, user, by_width=task.by_width)
    choices = [device, precision, size]
    if not task.focal:  # 3-D boxes are upright.
        choices.append(choose_rotation(images, user))
    if task.name == "boxes" and not cfg.MODEL.WEIGHTS:  # Pretrained weights keep their size maps.
        choices.append(choose_class_sizes(images, data.class_names, user))
    height, width = size.keys["INPUT.AFFINE.SIZE"]
    batch = choose_batch(len(images), (height, width), machine, bytes_per_pixel(backbone, divisibility), user)
    rate = choose_rate(network, batch.keys["SOLVER.IMS_PER_BATCH"], user)
    median_width = sorted(image.width for image in images)[len(images) // 2]
    if focal := task.keys_for_width(width / median_width):
        choices.append(Choice("focal length", f"{task.focal:g} pixels", ", ".join(focal), focal))
    every = [image for split in data.splits.values() for image in split.images]
    return [*choices, batch, rate, choose_detections(every, user)]


def _choose_duration(cfg: CfgNode, draft: Draft, images: int) -> list[Choice]:
    """Choose length and evaluation period, and estimate the duration from timed iterations.

    Raises:
        ValueError: ``Request.minutes`` is too short.
    """
    request, user = draft.request, draft.user
    pace: Pace | None = None
    if request.timed:
        print("timing a few iterations", flush=True)
        start_logging(cfg)
        pace = measure_pace(cfg, min(30.0, TIMING * (request.minutes or 0.0) * 60))
    if request.minutes is not None and pace is not None:
        iterations, reason = _iterations_of_minutes(cfg, draft, images, pace), f"--minutes {request.minutes:g}"
    else:
        epochs = number_of_epochs(images) if request.epochs is None else request.epochs
        iterations = math.ceil(epochs * images / cfg.SOLVER.IMS_PER_BATCH)
        reason = "--epochs or --minutes override it" if request.epochs is None else "--epochs"
    length = choose_length(iterations, images, cfg.SOLVER.IMS_PER_BATCH, reason, user)
    iterations = length.keys["SOLVER.MAX_ITER"]
    tests = cfg.DATASETS.VAL or cfg.DATASETS.TEST
    final = [name for name in cfg.DATASETS.TEST if name not in tests]
    if pace is None:
        return [length, choose_evaluation(iterations, tests, user, final=final)]
    evaluation = choose_evaluation(iterations, tests, user, pace.step, pace.evaluation, final=final)
    seconds = training_seconds(iterations, evaluation.keys["TEST.EVAL_PERIOD"], pace)
    measured = f"{pace.step:.2g} s per iteration, {pace.evaluation:.2g} s per evaluation"
    return [length, evaluation, Choice("duration", f"about {readable_duration(seconds)}", measured)]


def _iterations_of_minutes(cfg: CfgNode, draft: Draft, images: int, pace: Pace) -> int:
    """Return the number of iterations within ``Request.minutes``.

    Raises:
        ValueError: they are fewer than MIN_EPOCHS, and no key sets the length.
    """
    minutes, batch = draft.request.minutes or 0.0, cfg.SOLVER.IMS_PER_BATCH
    elapsed = time.perf_counter() - draft.start
    iterations = iterations_within(minutes * 60 - elapsed, pace)
    needed = math.ceil(MIN_EPOCHS * images / batch)
    if iterations < needed and not {"SOLVER.MAX_ITER", "SOLVER.EPOCHS"} & draft.user.values.keys():
        raise ValueError(
            f"--minutes {minutes:g} is enough for {iterations * batch / images:.1f} epochs, but a training needs at "
            f"least {MIN_EPOCHS}: use --minutes {minutes_for(needed, elapsed, pace):g} or more, or set the length with "
            "--epochs"
        )
    return iterations


def _other_keys(choices: Sequence[Choice], user: Overrides) -> list[Choice]:
    """Return a choice with the overrides that no other choice shows."""
    shown = {key for choice in choices for key in choice.keys}
    rest = {key: value for key, value in user.values.items() if key not in shown}
    text = ", ".join(f"{key} {value}" for key, value in rest.items())
    return [Choice("other keys", "set by you", text, rest)] if rest else []


def _merge(cfg: CfgNode, choices: list[Choice], user: Overrides) -> CfgNode:
    """Return a copy of the config with the keys of all choices except those set by the user."""
    merged = cfg.clone()
    keys: Mapping[str, object] = {key: value for choice in choices for key, value in choice.keys.items()}
    merged.merge_from_list([part for key, value in keys.items() if key not in user.values for part in (key, value)])
    return merged
