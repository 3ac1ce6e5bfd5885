"""Command line of centernet-convert."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..utils import cli
from .options import CONFIG_HELP, add_list_models, import_detectron2, new_parser

__all__ = ["build_parser", "main"]

SUMMARY = """Convert weights to or from the format of the reference implementation.

The direction depends on the input file. Only tensor names change, so the conversion is
lossless. Training, evaluation and detection read both formats; the conversion is intended for
other programs."""
EXAMPLES = (
    "ctdet_coco_hg.pth hg104.pth --config COCO-Detection/centernet_HG_104.yaml",
    "output/mine/model_final.pth reference.pth --config output/mine/config.yaml",
    "--list-models",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return cli.run(build_parser(), _convert, argv, prepare=import_detectron2)


def _convert(args: argparse.Namespace) -> None:
    from .conversion import convert_file

    convert_file(args)


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = new_parser(SUMMARY, ["INPUT.pth OUTPUT.pth --config CONFIG"], EXAMPLES)
    parser.add_argument("input", type=Path, metavar="INPUT.pth", help="weights file of either format")
    parser.add_argument("output", type=Path, metavar="OUTPUT.pth", help="new weights file of the other format")
    parser.add_argument("--config", required=True, help=f"config of the model: {CONFIG_HELP}")
    add_list_models(parser)
    return parser
