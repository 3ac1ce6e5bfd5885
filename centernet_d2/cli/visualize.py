"""Command line of centernet-visualize."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..utils import cli
from .options import CONFIG_HELP, add_list_models, add_overrides, import_detectron2, new_parser

__all__ = ["main"]

SUMMARY = """Draw augmented training images with their ground truth and target heatmaps.

Each figure shows the network input with its ground truth, followed by the target of every
heatmap."""
EXAMPLES = (
    "output/mine/config.yaml --output figures/",
    "Shapes/centernet_R_18_shapes.yaml --output figures/ --count 4",
    "Shapes/centernet_R_18_shapes.yaml --output figures/ --opts SEED 1",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = new_parser(SUMMARY, ["CONFIG --output FOLDER [options]"], EXAMPLES)
    parser.add_argument("config", metavar="CONFIG", help=CONFIG_HELP)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder for the figures")
    parser.add_argument("--count", type=int, default=16, metavar="N", help="number of figures (default: 16)")
    add_overrides(parser)
    add_list_models(parser)
    return cli.run(parser, _visualize, argv, prepare=import_detectron2)


def _visualize(args: argparse.Namespace) -> None:
    from .visualization import visualize

    visualize(args)
