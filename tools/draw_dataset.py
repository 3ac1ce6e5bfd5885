#!/usr/bin/env python
"""Generate one of the small synthetic datasets.

    python tools/draw_dataset.py shapes datasets/shapes     colored shapes, COCO format: boxes
    python tools/draw_dataset.py kites datasets/kites       kites with four corners, COCO format: keypoints
    python tools/draw_dataset.py boxes datasets/boxes       boxes on the ground, KITTI format: 3-D boxes

configs/Shapes contains configs for these datasets.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from centernet_d2.utils import cli
from synthetic.boxes import OTHER_CAMERAS, write_boxes_on_ground
from synthetic.kites import write_kites
from synthetic.shapes import write_shapes


def write_kite_sets(folder: Path, *, train: int, val: int, seed: int) -> None:
    """Write the splits ``train`` and ``val``, each with images and annotations."""
    for index, (name, count) in enumerate((("train", train), ("val", val))):
        write_kites(folder / name, images=count, size=320, seed=2 * seed + index)


def write_box_sets(folder: Path, *, train: int, val: int, seed: int) -> None:
    """Write the splits ``train``, ``val`` and ``other``, which has other cameras."""
    write_boxes_on_ground(folder, {"train": train, "val": val}, seed=2 * seed)
    write_boxes_on_ground(folder, {"other": val}, cameras=OTHER_CAMERAS, seed=2 * seed + 1)


WRITERS = {"shapes": write_shapes, "kites": write_kite_sets, "boxes": write_box_sets}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=WRITERS)
    parser.add_argument("folder", type=Path, help="output folder; must not exist")
    parser.add_argument("--train", type=int, default=800, help="number of training images")
    parser.add_argument("--val", type=int, default=200, help="number of images in every other split")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    return cli.run(parser, draw, argv)


def draw(args: argparse.Namespace) -> None:
    """Generate the dataset.

    Raises:
        FileExistsError: the output folder exists.
    """
    if args.folder.exists():
        raise FileExistsError(f"{args.folder} already exists and is not overwritten; choose another folder")
    WRITERS[args.kind](args.folder, train=args.train, val=args.val, seed=args.seed)
    print(f"wrote {args.kind} to {args.folder}: {args.train} training images, {args.val} images in every other split")


if __name__ == "__main__":
    sys.exit(main())
