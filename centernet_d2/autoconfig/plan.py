"""From a folder of labelled images to a config that trains on it."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_backbone

from ..config.catalog import available, find_config, get_base_file
from ..config.loading import check_device, load_config
from ..engine.processes import by_torchrun
from ..engine.setup import check_output_dir, check_weights, start_logging
from ..readers import FoundData, find_data, write_coco
from .budget import iterations_within, measure_pace
from .choices import (
    Choices,
    bytes_per_pixel,
    choose_batch,
    choose_input,
    choose_network,
    choose_sizes,
    choose_turning,
    look_at_machine,
    number_of_epochs,
    reference_rate,
    set_iterations,
)
from .task import Task, task_of

__all__ = ["add_data_options", "config_for_data"]

SMALL = "small"
# Share of --minutes for timing.
TIMING = 0.02


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The options beside ``--config-file``."""
    group = parser.add_argument_group("your own data", "instead of --config-file")
    group.add_argument("--data", metavar="PATH", help="a folder of labelled images, a COCO .json, data.yaml or .csv")
    group.add_argument("--val", metavar="PATH", help="other data to validate on (default: as the data say, else drawn)")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=float, metavar="N", help="train for so many epochs")
    length.add_argument("--minutes", type=float, metavar="N", help="train and evaluate in so many minutes")
    group.add_argument(
        "--model",
        metavar="NAME",
        help=f"'{SMALL}', a file, or a name: {', '.join(available(trained=True))}, which start from weights of the "
        f"original's authors, or {', '.join(available())} (default: by data, weights and device)",
    )


def config_for_data(args: argparse.Namespace) -> Path:
    """Find the data of a command line, choose how to train on them, say so, and write it all down.

    OUTPUT_DIR/data gets the annotations and the config.

    Args:
        args: with the options of :func:`add_data_options` and of Detectron2.

    Returns:
        The config file.

    Raises:
        FileExistsError: OUTPUT_DIR holds another run, or other data.
        FileNotFoundError: data, config or weights do not exist.
        ValueError: options that do not go together, data that cannot be read, a wrong config.
    """
    begin = time.perf_counter()
    _check_options(args)
    told = dict(zip(args.opts[::2], args.opts[1::2], strict=False))
    folder = Path(told["OUTPUT_DIR"]) if "OUTPUT_DIR" in told else _fresh_folder(Path("output"), _name_of(args.data))
    # Mistakes in what was typed show before the data are read.
    model = args.model if args.model and args.model != SMALL else None
    typed = _base_config(model or get_base_file("Base-CenterNet.yaml"), args.opts, folder)
    check_output_dir(typed, resume=False)
    check_weights(typed, resume=False, eval_only=False)
    found = find_data(args.data, args.val)
    print("\n".join(found.lines()), flush=True)
    task = task_of(found, write_coco(found, folder / "data"), folder.name)
    choices = _choose(found, task, model, args, folder)
    images = len(found.splits["train"].images)
    if args.minutes is None:
        epochs = args.epochs if args.epochs is not None else number_of_epochs(images)
        batch = choices.cfg.SOLVER.IMS_PER_BATCH
        why = "--epochs" if args.epochs is not None else "--epochs or --minutes say otherwise"
        set_iterations(choices, math.ceil(epochs * images / batch), images, why)
    else:
        _set_minutes(choices, args.minutes, images, begin)
    print("\n".join(["chosen (any key behind the command says otherwise):", *choices.lines]), flush=True)
    path = folder / "data" / "config.yaml"
    path.write_text(choices.cfg.dump(), encoding="utf-8")
    return path


def _check_options(args: argparse.Namespace) -> None:
    if args.config_file:
        raise ValueError("--data works out a config of its own, and --config-file names one: give one of them")
    if args.resume or args.eval_only:
        option = "--resume" if args.resume else "--eval-only"
        raise ValueError(f"{option} goes with --config-file: OUTPUT_DIR/config.yaml of the run, in place of --data")
    if by_torchrun():
        raise ValueError(
            "--data chooses in one process; under torchrun give --config-file, such as the config.yaml of a short run"
        )
    for option in ("epochs", "minutes"):
        value = getattr(args, option)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{option} is {value:g}, but must be above 0")
    if args.minutes is not None and args.num_gpus * args.num_machines > 1:
        raise ValueError("--minutes measures one process; with several give --epochs")
    if len(args.opts) % 2:
        raise ValueError(f"config overrides are pairs of KEY and VALUE, but '{args.opts[-1]}' has no value")
    if "MODEL.WEIGHTS" in args.opts[::2] and not args.model:
        raise ValueError("MODEL.WEIGHTS are those of one network: name it with --model")


def _name_of(data: str) -> str:
    """What the data are called: by their folder, unless that is called as any."""
    path = Path(data).expanduser().absolute()
    if path.suffix.lower() in (".json", ".yaml", ".yml", ".csv"):
        path = path.parent if path.stem in ("data", "annotations", "_annotations.coco") else path.with_suffix("")
    return path.name or "data"


def _fresh_folder(parent: Path, name: str) -> Path:
    """The first of its numbered names that does not exist."""
    return next(folder for folder in _numbered(parent, name) if not folder.exists())


def _numbered(parent: Path, name: str) -> Iterator[Path]:
    yield parent / name
    number = 2
    while True:
        yield parent / f"{name}-{number}"
        number += 1


def _base_config(path: str | Path, opts: list[str], folder: Path) -> CfgNode:
    cfg = load_config(path, [*opts, "OUTPUT_DIR", str(folder)])
    check_device(cfg.MODEL.DEVICE)
    return cfg


def _choose(found: FoundData, task: Task, model: str | Path | None, args: argparse.Namespace, folder: Path) -> Choices:
    told = set(args.opts[::2])
    images = found.splits["train"].images
    device = _base_config(get_base_file("Base-CenterNet.yaml"), args.opts, folder).MODEL.DEVICE
    machine = look_at_machine(device, measure="SOLVER.AMP.ENABLED" not in told)
    if model is None:
        kind, why = SMALL, "--model"
        if not args.model:
            kind, why = choose_network(
                len(images), on_gpu=machine.on_gpu, with_trunk="MODEL.TRUNK_WEIGHTS" in args.opts[::2]
            )
        name = task.networks[kind]
        model = get_base_file(name) if name.startswith("Base-") else find_config(name)
    else:
        name, why = args.model, "--model"
    choices = Choices(_base_config(model, args.opts, folder), told)
    choices.set(task.keys)
    node = choices.cfg.MODEL.CENTERNET
    choices.say("task", task.name, f"MODEL.CENTERNET.HEADS, NUM_CLASSES {node.NUM_CLASSES}")
    choices.lines.extend(f"  {'':<15} {note}" for note in task.notes)
    choices.say("network", Path(name).with_suffix("").name, f"--model; {why}")
    choices.say("device", device, "MODEL.DEVICE")
    backbone = build_backbone(choices.cfg)
    divisibility = backbone.size_divisibility
    choose_input(choices, images, machine, divisibility, by_width=task.by_width)
    if not task.focal:  # Boxes in space stand upright.
        choose_turning(choices, images)
    if task.name == "boxes" and not choices.cfg.MODEL.WEIGHTS:  # Whose sizes may be worth more.
        choose_sizes(choices, images, found.class_names)
    width = sorted(image.width for image in images)[len(images) // 2]
    choices.set(task.keys_for_width(choices.cfg.INPUT.AFFINE.SIZE[1] / width))
    reference = reference_rate(choices, load_config(model))
    choose_batch(choices, len(images), machine, bytes_per_pixel(backbone, divisibility), reference)
    choices.say("output folder", str(folder), "OUTPUT_DIR")
    return choices


def _set_minutes(choices: Choices, minutes: float, images: int, begin: float) -> None:
    """Time a few real iterations, and train as long as fits."""
    print("timing some iterations", flush=True)
    start_logging(choices.cfg)
    pace = measure_pace(choices.cfg, min(30.0, TIMING * minutes * 60))
    left = minutes * 60 - (time.perf_counter() - begin)
    iterations = iterations_within(left, pace)
    why = f"--minutes {minutes:g}: {pace.step:.3f} s each, {pace.evaluation:.0f} s for the evaluation"
    set_iterations(choices, iterations, images, why, (pace.step, pace.evaluation))
