"""Speed of inference, training steps and process start on this machine.

    centernet-benchmark inference|step|start [CONFIG] [--json FILE]

``centernet-benchmark COMMAND --help`` lists the options of each command.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torchvision.models import detection

from ..config import load_config
from ..engine.solver import build_optimizer
from ..layers.folding import fold_batch_norms
from ..modeling import CenterNet
from ..utils import cli
from .measure import alternate, environment, matmul_peak, model_cost, peak_memory, summarize, table

__all__ = ["Benchmark", "main", "random_objects", "run_benchmarks"]

# The backward pass has two products of the size of each product of the forward pass: for weights and for inputs.
FORWARD_AND_BACKWARD = 3
UNCHANGED = "config"
# Detectors of torchvision for --others.
OTHERS = {
    "torchvision SSDLite (MobileNetV3)": detection.ssdlite320_mobilenet_v3_large,
    "torchvision FCOS (R-50)": detection.fcos_resnet50_fpn,
    "torchvision RetinaNet (R-50)": detection.retinanet_resnet50_fpn,
}
STATEMENTS = {
    "torch": "import torch, torchvision",
    "torch and Detectron2": "import torch, torchvision, detectron2.engine, detectron2.evaluation",
    "centernet_d2": "import centernet_d2.engine",
}

Variants = dict[str, Callable[[], object]]


class Benchmark(NamedTuple):
    """Command of a benchmark program."""

    summary: str
    """Summary on the help screen."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    """Function that adds the options."""
    run: Callable[[argparse.Namespace], dict[str, object]]
    """Function that prints the results, and returns them for --json."""


def run_benchmarks(description: str | None, benchmarks: Mapping[str, Benchmark], argv: list[str] | None) -> int:
    """Run a program with one command per benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, benchmark in benchmarks.items():
        command = commands.add_parser(name, help=benchmark.summary, description=benchmark.summary)
        benchmark.add_arguments(command)
        command.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    return cli.run(parser, lambda args: _run(benchmarks[args.command], args), argv)


def _run(benchmark: Benchmark, args: argparse.Namespace) -> None:
    """Print the environment, run a benchmark and write its results.

    Raises:
        FileNotFoundError: the folder of --json does not exist. This is checked before the measurement.
    """
    if args.json and not args.json.parent.is_dir():
        raise FileNotFoundError(f"--json {args.json}: the folder {args.json.parent} does not exist; create it")
    machine = environment(getattr(args, "device", "cpu"))
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    results = {"command": args.command, "environment": machine, **benchmark.run(args)}
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a file, or a name of the model zoo")
    parser.add_argument("--size", nargs=2, type=int, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=1, help="images per batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each variant (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vs", nargs="+", metavar="KEY VALUE", help="also time the config with these changes")
    parser.add_argument("--others", action="store_true", help="also time detectors of torchvision")


def _add_step_arguments(parser: argparse.ArgumentParser) -> None:
    _add_model_arguments(parser)
    parser.set_defaults(batch=2, rounds=5)
    parser.add_argument("--objects", type=int, default=10, help="objects per image (default: %(default)s)")


def _add_start_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="processes per variant (default: %(default)s)")


@torch.no_grad()
def inference(args: argparse.Namespace) -> dict[str, object]:
    """Time inference of untrained networks.

    Ours are timed from normalized images to decoded detections, detectors of torchvision from unnormalized images.
    """
    images = torch.rand(args.batch, 3, *args.size, device=args.device)
    variants: Variants = {}
    for name, options in _changes(args).items():
        cfg = load_config(args.config, [*options, "MODEL.DEVICE", args.device])
        model = CenterNet(cfg).eval().to(args.device)
        if cfg.TEST.FOLD_NORMS:
            model.backbone = fold_batch_norms(model.backbone)
        variants[name] = partial(_detect, model, images)
    for name, other in _others(args).items():
        variants[name] = partial(other.eval(), list(images))
    return _time(args, variants, factor=1)


def step(args: argparse.Namespace) -> dict[str, object]:
    """Time training steps (forward, losses, backward, optimizer) on images in memory."""
    variants: Variants = {}
    size = (args.size[0], args.size[1])
    for name, options in _changes(args).items():
        cfg = load_config(args.config, [*options, "MODEL.DEVICE", args.device])
        model = CenterNet(cfg).to(args.device).train()
        truth = [random_objects(args.objects, size, model.num_classes, seed) for seed in range(args.batch)]
        batch = [{"image": torch.randint(256, (3, *size), dtype=torch.uint8), "instances": own} for own in truth]
        variants[name] = _step(model, build_optimizer(cfg, model), batch)
    images = [torch.rand(3, *size, device=args.device) for _ in range(args.batch)]
    for name, other in _others(args).items():
        targets = [
            _torchvision_targets(random_objects(args.objects, size, 80, seed), args.device)
            for seed in range(args.batch)
        ]
        variants[name] = _step(other.train(), torch.optim.Adam(other.parameters(), lr=1e-5), images, targets)
    results = _time(args, variants, factor=FORWARD_AND_BACKWARD)
    memory = peak_memory(args.device)
    print(f"peak memory of all variants: {memory / 1e9:.2f} GB")
    return {**results, "peak_memory_bytes": memory}


def start(args: argparse.Namespace) -> dict[str, object]:
    """Time new processes until they have imported a package."""
    times = alternate(
        {
            name: partial(subprocess.run, [sys.executable, "-W", "ignore", "-c", code], check=True)
            for name, code in STATEMENTS.items()
        },
        args.rounds,
    )
    print(f"\n{table(times)}")
    return {"seconds": summarize(times)}


def _changes(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return config options by name of a variant."""
    return {UNCHANGED: [], **({" ".join(args.vs): args.vs} if args.vs else {})}


def _others(args: argparse.Namespace) -> dict[str, torch.nn.Module]:
    """Build the untrained detectors of --others."""
    models = {}
    for name, build in OTHERS.items() if args.others else ():
        model = build(weights=None, weights_backbone=None, num_classes=81)
        # The same input size for all detectors.
        model.transform.fixed_size = (args.size[1], args.size[0])
        models[name] = model.to(args.device)
    return models


def _time(args: argparse.Namespace, variants: Variants, factor: int) -> dict[str, object]:
    """Time variants, and print a table and the utilization of the unchanged config.

    Utilization is the share of the peak speed of the device.

    Args:
        args: options of the command.
        variants: functions that process one batch, by name.
        factor: work of a batch relative to the forward pass.
    """
    height, width = args.size
    times = alternate(variants, args.rounds)
    print(f"\n{args.config}, {height} x {width}, batch of {args.batch}\n\n{table(times)}")
    results = summarize(times)
    multiply_adds = factor * args.batch * model_cost(args.config, (height, width)).multiply_adds
    share = multiply_adds / results[UNCHANGED]["median"] / matmul_peak(args.device)
    print(f"\n{multiply_adds / 1e9:.2f} G multiply-adds: {share:.0%} of the speed of a float32 matrix product")
    return {"seconds": results, "multiply_adds": multiply_adds, "share_of_peak": share}


def _detect(model: CenterNet, images: torch.Tensor) -> dict[str, torch.Tensor]:
    return model.decode(model.compute_test_maps(images))


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, *inputs: object) -> Callable[[], None]:
    """Return a function that runs one training step."""

    def once() -> None:
        optimizer.zero_grad()
        sum(model(*inputs).values()).backward()
        optimizer.step()

    return once


def random_objects(count: int, size: tuple[int, int], classes: int, seed: int) -> Instances:
    """Return random boxes and classes.

    Side lengths are from 8 pixels to a third of the image, with more short sides.
    """
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor(size).flip(0)
    extent = 8 + torch.rand(count, 2, generator=generator) ** 2 * limit / 3
    corner = torch.rand(count, 2, generator=generator) * (limit - extent).clamp(min=0)
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.cat([corner, corner + extent], dim=1))
    instances.gt_classes = torch.randint(classes, (count,), generator=generator)
    return instances


def _torchvision_targets(instances: Instances, device: str) -> dict[str, torch.Tensor]:
    """Convert objects to the format of torchvision, where class 0 is the background."""
    return {"boxes": instances.gt_boxes.tensor.to(device), "labels": instances.gt_classes.to(device) + 1}


BENCHMARKS = {
    "inference": Benchmark("time detection, without reading images", _add_model_arguments, inference),
    "step": Benchmark("time training steps, without data loading", _add_step_arguments, step),
    "start": Benchmark("time the start of a process and its imports", _add_start_arguments, start),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_benchmarks(__doc__, BENCHMARKS, argv)
