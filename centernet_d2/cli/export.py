"""Command line of centernet-export."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..utils import cli
from .options import CONFIG_HELP, add_list_models, add_overrides, import_detectron2, new_parser

__all__ = ["main"]

SUMMARY = """Export a model to one file, from image to detections, that runs without torch.

The output folder contains model.onnx (or model.xml and model.bin), detect.py, which runs the
model, and the report export.json. The file is compared with the model before it is saved."""
USAGE = (
    "--model RUN --output FOLDER [options]",
    "--config-file CONFIG --weights FILE --output FOLDER [options]",
)
EXAMPLES = (
    "--model output/cells --output exported",
    "--model output/cells --output exported --precision int8",
    "--model dla34-coco --output exported --images photos/ --format openvino",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return cli.run(build_parser(), _export, argv, prepare=import_detectron2)


def _export(args: argparse.Namespace) -> None:
    from .exporting import export

    export(args)


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = new_parser(SUMMARY, USAGE, EXAMPLES)
    model = parser.add_argument_group("model")
    config = model.add_mutually_exclusive_group(required=True)
    config.add_argument("--config-file", metavar="CONFIG", help=CONFIG_HELP)
    config.add_argument("--model", metavar="MODEL", help="the folder of a run, a checkpoint, or the name of weights")
    model.add_argument("--weights", default="", metavar="FILE", help="a file or a name (default: MODEL.WEIGHTS)")
    add_list_models(model)
    add_overrides(model)
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="files are replaced after success")
    output.add_argument("--format", choices=("onnx", "openvino"), default="onnx", help="default: onnx")
    output.add_argument(
        "--form",
        choices=("image", "canvas"),
        default="image",
        help="image (default): from one image of any size to detections in its pixels; canvas: from batches of network "
        "inputs to detections in map pixels",
    )
    output.add_argument(
        "--precision", choices=("float32", "float16", "int8"), default="float32", help="default: float32"
    )
    output.add_argument(
        "--deform-conv",
        choices=("grid_sample", "onnx"),
        default="grid_sample",
        help="operator for deformable convolutions; onnx is faster, but needs onnxruntime 1.25.1 or later "
        "(default: grid_sample)",
    )
    check = parser.add_argument_group("verification")
    check.add_argument(
        "--images", nargs="+", metavar="PATH", help="images, folders or globs (default: the datasets of the config)"
    )
    check.add_argument("--no-verify", action="store_true", help="do not compare detections of the file and the model")
    check.add_argument(
        "--max-drop",
        type=_drop,
        default=1.0,
        metavar="AP",
        help="maximum loss of float16 and int8 on DATASETS.TEST, or none (default: 1.0)",
    )
    return parser


def _drop(text: str) -> float | None:
    return None if text == "none" else float(text)
