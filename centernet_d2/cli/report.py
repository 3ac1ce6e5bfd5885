"""Command line of centernet-report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..utils import cli
from .options import add_overrides, import_detectron2, new_parser

__all__ = ["build_parser", "main"]

SUMMARY = """Write report.html and report.json: inspect a dataset, or a trained model.

A folder of labeled images or a config is inspected. The folder of a run is reported from its
recorded detections and metrics. Several runs are compared."""
EXAMPLES = (
    "photos/ --output report/",
    "output/photos",
    "output/photos output/photos-2 --output comparison/",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return cli.run(build_parser(), _report, argv, prepare=import_detectron2)


def _report(args: argparse.Namespace) -> None:
    from .reporting import write_report

    write_report(args)


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = new_parser(SUMMARY, ["{RUN | CONFIG | DATA} [--output FOLDER]", "RUN RUN ... [--output FOLDER]"], EXAMPLES)
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="folder of a run, config, or dataset: a folder, COCO .json, data.yaml or .csv",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder of the report (default: the folder of the run, else output/report-NAME)",
    )
    add_overrides(parser)
    return parser
