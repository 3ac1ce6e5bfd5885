"""Command line of centernet-visualize."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..utils import cli
from .options import CONFIG_HELP, add_list_models, add_overrides, import_detectron2, new_parser

__all__ = ["build_parser", "main"]

SUMMARY = """Draw labeled images and augmented training samples.

DATA is a folder of labeled images, a COCO .json, a data.yaml or a .csv: images.jpg shows images
with their annotations, augmented.jpg shows augmented samples.
With CONFIG, each figure shows the network input with its ground truth, followed by the target of
every heatmap."""
EXAMPLES = (
    "photos/",
    "output/mine/config.yaml --output figures/",
    "Shapes/centernet_R_18_shapes.yaml --output figures/ --opts SEED 1",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return cli.run(build_parser(), _visualize, argv, prepare=import_detectron2)


def _visualize(args: argparse.Namespace) -> None:
    from .visualization import visualize

    visualize(args)


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = new_parser(SUMMARY, ["DATA [options]", "CONFIG --output FOLDER [options]"], EXAMPLES)
    parser.add_argument("source", metavar="DATA_OR_CONFIG", help=f"labeled images; or a config: {CONFIG_HELP}")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="folder for the figures (default for DATA: output/NAME-sheets)"
    )
    parser.add_argument(
        "--count", type=int, metavar="N", help="number of images in a sheet (default: 12), or of figures (default: 16)"
    )
    add_overrides(parser)
    add_list_models(parser)
    return parser
