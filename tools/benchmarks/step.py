"""A step of training: forward, losses, backward and optimizer, on images that are there already."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from detectron2.structures import Instances

from centernet_d2 import load_config
from centernet_d2.engine.solver import build_optimizer
from centernet_d2.modeling import CenterNet
from count_flops import count

from . import others
from .measure import alternate, matmul_peak, peak_memory, summarize, table
from .targets import draw_objects

# Gradients of weights and of maps are as many products each as the way forward.
BOTH_WAYS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="of boxes: a file, or a name of the model zoo")
    parser.add_argument("--size", nargs=2, type=int, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=2, help="images")
    parser.add_argument("--objects", type=int, default=10, help="per image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vs", nargs="+", metavar="KEY VALUE", help="time the config with these changed, too")
    parser.add_argument("--others", action="store_true", help="time torchvision's detectors, too")


def run(args: argparse.Namespace) -> dict[str, object]:
    """Seconds per step, by variant; the share of the peak that the config itself reaches, and the memory of all."""
    size = (args.size[0], args.size[1])
    changes = {"as it is": [], **({" ".join(args.vs): args.vs} if args.vs else {})}
    variants = {}
    for name, options in changes.items():
        cfg = load_config(args.config, [*options, "MODEL.DEVICE", args.device])
        model = CenterNet(cfg).to(args.device).train()
        gt = [draw_objects(args.objects, size, model.num_classes, seed) for seed in range(args.batch)]
        batch = [{"image": torch.randint(256, (3, *size), dtype=torch.uint8), "instances": own} for own in gt]
        variants[name] = step(model, build_optimizer(cfg, model), (batch,))
    if args.others:
        images, wanted = [torch.rand(3, *size, device=args.device) for _ in gt], [as_dict(x, args.device) for x in gt]
        for name, model in others.build(size, args.device).items():
            variants[name] = step(model.train(), torch.optim.Adam(model.parameters(), lr=1e-5), (images, wanted))
    times = alternate(variants, args.rounds)
    print(f"\n{args.config}, {size[0]} x {size[1]}, batch of {args.batch}\n\n{table(times)}")
    results, memory = summarize(times), peak_memory(args.device)
    multiply_adds = BOTH_WAYS * args.batch * count(args.config, size)[2]
    share = multiply_adds / results["as it is"]["median"] / matmul_peak(args.device)
    print(
        f"\n{multiply_adds / 1e9:.1f} G multiply-adds: {share:.0%} of what a matrix product reaches here; "
        f"{memory / 1e9:.2f} GB at most"
    )
    return {"seconds": results, "multiply_adds": multiply_adds, "share_of_peak": share, "peak_memory_bytes": memory}


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: tuple) -> Callable[[], None]:
    """A function that does one step of training."""

    def once() -> None:
        optimizer.zero_grad()
        sum(model(*inputs).values()).backward()
        optimizer.step()

    return once


def as_dict(instances: Instances, device: str) -> dict[str, torch.Tensor]:
    """Objects as torchvision takes them; class 0 is the background there."""
    labels = instances.gt_classes % 80 + 1
    return {"boxes": instances.gt_boxes.tensor.to(device), "labels": labels.to(device)}
