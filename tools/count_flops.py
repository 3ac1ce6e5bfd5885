#!/usr/bin/env python
"""Parameters and multiply-adds of the configs of the model zoo.

    python tools/count_flops.py [CONFIG ...] [--size 512 512]

The output is the table of MODEL_ZOO.md.
"""

from __future__ import annotations

import argparse
import sys

from tqdm import tqdm

from centernet_d2 import model_zoo
from centernet_d2.cli.measure import model_cost
from centernet_d2.utils import cli


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="names of the model zoo (default: all)")
    parser.add_argument(
        "--size", nargs=2, type=int, default=(512, 512), metavar=("HEIGHT", "WIDTH"), help="size of the image"
    )
    return cli.run(parser, print_table, argv)


def print_table(args: argparse.Namespace) -> None:
    """Print one row per config."""
    height, width = args.size
    costs = {name: model_cost(name, (height, width)) for name in tqdm(args.configs or model_zoo.available())}
    print(f"| config | trainable parameters | stored parameters | multiply-adds at {height} x {width} |")
    print("|---|---|---|---|")
    for name, cost in costs.items():
        print(f"| `{name}` | {cost.trainable:,} | {cost.stored:,} | {cost.multiply_adds / 1e9:.1f} G |")


if __name__ == "__main__":
    sys.exit(main())
