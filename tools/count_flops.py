#!/usr/bin/env python
"""Parameters and multiply-adds of the model zoo's configs, as the table of MODEL_ZOO.md.

python tools/count_flops.py [CONFIG ...] [--size 512 512]
"""

from __future__ import annotations

import argparse
import sys

import torch
from tqdm import tqdm

from centernet_d2 import load_config, model_zoo
from centernet_d2.modeling import CenterNet
from centernet_d2.utils import cli
from centernet_d2.utils.logging import quiet_imports

with quiet_imports():
    from fvcore.nn import FlopCountAnalysis


class Network(torch.nn.Module):
    """From normalised images to the maps of the last stack."""

    def __init__(self, model: CenterNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.model.compute_test_maps(images)


def count(name: str, size: tuple[int, int]) -> tuple[int, int, int]:
    """Trainable parameters, stored parameters and multiply-adds of one image of the given height and width."""
    cfg = load_config(name, ["MODEL.DEVICE", "cpu", "MODEL.DEFORM_CONV", "grid_sample"])
    model = CenterNet(cfg).eval()
    parameters = list(model.parameters())
    # grid_sample and the matrix product behind it are counted like any operator; the cheap rest is not.
    analysis = FlopCountAnalysis(Network(model), torch.zeros(1, 3, *size))
    flops = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return trainable, sum(parameter.numel() for parameter in parameters), flops


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="names of the model zoo (default: all)")
    parser.add_argument("--size", nargs=2, type=int, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    return cli.run(parser, print_table, argv)


def print_table(args: argparse.Namespace) -> None:
    names = args.configs or model_zoo.available()
    rows = [(name, *count(name, tuple(args.size))) for name in tqdm(names, leave=False)]
    print(f"| config | trainable parameters | stored parameters | multiply-adds at {args.size[0]} x {args.size[1]} |")
    print("|---|---|---|---|")
    for name, trainable, stored, flops in rows:
        print(f"| `{name}` | {trainable:,} | {stored:,} | {flops / 1e9:.1f} G |")


if __name__ == "__main__":
    sys.exit(main())
