#!/usr/bin/env python
"""Draw the small synthetic data set: coloured shapes in PNG files with COCO annotations.

python tools/draw_shapes.py datasets/shapes [--train 800] [--val 200] [--size 128] [--seed 0]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from centernet_d2.data.datasets.shapes import write_shapes


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=800, help="number of training images")
    parser.add_argument("--val", type=int, default=200, help="number of validation images")
    parser.add_argument("--size", type=int, default=128, help="mean length of an image's sides")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.folder.exists():
        parser.error(f"{args.folder} exists already; nothing is overwritten")
    write_shapes(args.folder, train=args.train, val=args.val, size=args.size, seed=args.seed)
    print(f"drew {args.train} + {args.val} images into {args.folder}")


if __name__ == "__main__":
    main()
