"""Speed of inference, training steps and process start on this machine."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from detectron2.structures import Boxes, Instances
from torchvision.models import detection

from ..config import load_config
from ..engine.solver import build_optimizer
from ..layers.folding import fold_batch_norms
from ..modeling import CenterNet
from .measure import alternate, clock_of, matmul_peak, model_cost, peak_memory, summarize, table

__all__ = ["inference", "random_objects", "start", "step"]

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
    "import torch": "import torch, torchvision",
    "import torch and Detectron2": "import torch, torchvision, detectron2.engine, detectron2.evaluation",
    "import centernet_d2.engine": "import centernet_d2.engine",
    "centernet-train --help": "from centernet_d2.cli.train import run; run(['--help'])",
    "first detection (small hourglass)": "import torch; from centernet_d2 import model_zoo; "
    "model_zoo.get('Shapes/centernet_HG_shapes.yaml', device='cpu')([{'image': torch.zeros(3, 240, 320)}])",
}

Variants = dict[str, Callable[[], object]]


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
        if cfg.TEST.FOLD_NORMS is True:
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
        variants[name] = _training_step(model, build_optimizer(cfg, model), batch)
    images = [torch.rand(3, *size, device=args.device) for _ in range(args.batch)]
    for name, other in _others(args).items():
        targets = [
            _torchvision_targets(random_objects(args.objects, size, 80, seed), args.device)
            for seed in range(args.batch)
        ]
        variants[name] = _training_step(other.train(), torch.optim.Adam(other.parameters(), lr=1e-5), images, targets)
    results = _time(args, variants, factor=FORWARD_AND_BACKWARD)
    memory = peak_memory(args.device)
    print(f"peak memory of all variants: {memory / 1e9:.2f} GB")
    return {**results, "peak_memory_bytes": memory}


def start(args: argparse.Namespace) -> dict[str, object]:
    """Time new processes: imports, a help screen and detection in one image."""
    times = alternate(
        {
            name: partial(
                subprocess.run, [sys.executable, "-W", "ignore", "-c", code], check=True, stdout=subprocess.DEVNULL
            )
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
    times = alternate(variants, args.rounds, clock_of(args.device))
    print(f"\n{args.config}, {height} x {width}, batch of {args.batch}\n\n{table(times)}")
    results = summarize(times)
    multiply_adds = factor * args.batch * model_cost(args.config, (height, width)).multiply_adds
    share = multiply_adds / results[UNCHANGED]["median"] / matmul_peak(args.device)
    print(f"\n{multiply_adds / 1e9:.2f} G multiply-adds: {share:.0%} of the speed of a float32 matrix product")
    return {"seconds": results, "multiply_adds": multiply_adds, "share_of_peak": share}


def _detect(model: CenterNet, images: torch.Tensor) -> dict[str, torch.Tensor]:
    return model.decode(model.compute_test_maps(images))


def _training_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, *inputs: object) -> Callable[[], None]:
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
