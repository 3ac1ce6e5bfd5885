"""Command line of demo.py and centernet-detect."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..utils import cli
from .options import CONFIG_HELP, add_list_models, add_overrides, import_detectron2, new_parser

__all__ = ["build_parser", "main"]

SUMMARY = """Detect objects in images, videos, streams or a camera; save visualizations and JSON results.

Exit codes: 0 on success; 1 if an image cannot be read or an option is invalid; 130 after Ctrl-C
(the files written so far are complete)."""
USAGE = (
    "INPUT [INPUT ...] --weights FILE [--config-file CONFIG] [options]",
    "INPUT [INPUT ...] --model MODEL [options]",
    "--camera [INDEX] --weights FILE [--config-file CONFIG] [options]",
)
EXAMPLES = (
    "--sample --model cells",
    "photos/ 'more/*.png' --model output/photos --json results.json",
    "video.mp4 --weights model.pth --output detections.mp4",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return cli.run(build_parser(), _start, argv, prepare=_prepare, extend=_add_head_options)


def _prepare(args: argparse.Namespace) -> None:
    if not args.help_all:
        _check(args)
    import_detectron2(args)


def _check(args: argparse.Namespace) -> None:
    """Check the options before slow imports.

    Raises:
        ValueError: the options specify no input or no model.
    """
    if not (args.inputs or args.sample or args.camera is not None):
        raise ValueError("no input is specified: add images, folders, globs or a video, or use --camera or --sample")
    if not args.config_file and not args.weights:
        raise ValueError("no model is specified: use --model MODEL or --weights FILE (see --help)")


def _start(args: argparse.Namespace) -> int:
    from .detection import start

    return start(args)


def _add_head_options(parser: argparse.ArgumentParser) -> None:
    from .detection import add_property_arguments

    add_property_arguments(parser)


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser, without the options of heads."""
    parser = new_parser(SUMMARY, USAGE, EXAMPLES)
    source = parser.add_argument_group("input")
    source.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="images, folders, globs, or one video or stream (rtsp://...)"
    )
    source.add_argument("--sample", action="store_true", help="use an image in this package, which shows blood cells")
    source.add_argument("--camera", type=int, nargs="?", const=0, metavar="INDEX", help="read a camera (default: 0)")
    source.add_argument("--max-frames", type=int, metavar="N", help="maximum number of images or frames to process")
    model = parser.add_argument_group("model")
    config = model.add_mutually_exclusive_group()
    config.add_argument("--config-file", metavar="CONFIG", help=CONFIG_HELP)
    config.add_argument(
        "--model",
        dest="config_file",
        metavar="MODEL",
        help="the folder of a run, a checkpoint, or a name such as 'cells' (see --list-models)",
    )
    model.add_argument(
        "--weights",
        default="",
        metavar="FILE",
        help="a file or a name; checkpoints of this project need no --config-file",
    )
    add_list_models(model)
    model.add_argument("--device", help="cpu, cuda, ... (default: MODEL.DEVICE of the config)")
    model.add_argument("--batch-size", type=int, default=1, metavar="N", help="images per batch (default: 1)")
    add_overrides(model)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="visualizations: a folder, an image file for a single image, or a video, .mp4 or .avi "
        "(default without --json: a new folder output/detections)",
    )
    output.add_argument("--json", type=Path, metavar="FILE", help="all detections, in COCO results format")
    output.add_argument("--overwrite", action="store_true", help="replace existing output files")
    output.add_argument(
        "--threshold",
        type=float,
        metavar="SCORE",
        help="minimum score of visualized detections, 0 to 1 (default: suggested by the weights, else 0.3); --json "
        "contains all detections",
    )
    output.add_argument("--heatmap", action="store_true", help="overlay the center heatmap on the visualizations")
    return parser
