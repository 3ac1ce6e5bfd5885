#!/usr/bin/env python
"""Seconds per image of the network with decoding: medians, and ratios between variants timed in turn.

    python tools/benchmark.py CONFIG [--size 512 512] [--runs 7] [--device cpu] [--vs KEY VALUE]

Times the config as it is against the same with KEY VALUE, for instance --vs MODEL.DEFORM_CONV torchvision.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median

import torch
from tqdm import tqdm

from centernet_d2 import command_line, load_config
from centernet_d2.modeling import CenterNet


def seconds(model: CenterNet, images: torch.Tensor) -> float:
    """Wall time from normalised images to decoded fields."""
    start = time.perf_counter()
    model.decode(model.compute_test_maps(images))
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a file, or a name of the model zoo")
    parser.add_argument("--size", nargs=2, type=int, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vs", nargs=2, metavar=("KEY", "VALUE"))
    return command_line.run(parser, compare, argv)


def compare(args: argparse.Namespace) -> None:
    """Time the config, and its variant if there is one."""
    variants = {"as it is": [], **({" ".join(args.vs): args.vs} if args.vs else {})}
    models = {
        name: CenterNet(load_config(args.config, options)).eval().to(args.device) for name, options in variants.items()
    }
    images = torch.randn(1, 3, *args.size, device=args.device)
    times = {name: [] for name in models}
    with torch.no_grad():
        for run in tqdm(range(args.runs + 1), leave=False):
            for name, model in models.items():  # in turn, so that a slower machine slows all alike
                elapsed = seconds(model, images)
                if run > 0:  # the first warms up
                    times[name].append(elapsed)
    print(f"{args.config}, {args.size[0]} x {args.size[1]}, {args.device}, {torch.get_num_threads()} threads")
    for name, values in times.items():
        print(
            f"  {median(values) * 1000:9.1f} ms  (min {min(values) * 1000:.1f}, max {max(values) * 1000:.1f})  {name}"
        )
    if args.vs:
        first, second = times.values()
        print(f"  ratio {median(b / a for a, b in zip(first, second, strict=True)):.2f}")


if __name__ == "__main__":
    sys.exit(main())
