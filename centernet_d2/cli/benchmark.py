"""Command line of centernet-benchmark."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..utils import cli
from .options import CONFIG_HELP, add_list_models, import_detectron2, new_parser

__all__ = ["Benchmark", "add_benchmarks", "build_parser", "main", "run_benchmarks"]

SUMMARY = """Measure the speed of inference, training steps and process start on this machine.

COMMAND --help lists the options of each command."""
EXAMPLES = (
    "inference COCO-Detection/centernet_R_18_1x.yaml --size 512 512",
    "step COCO-Detection/centernet_R_18_1x.yaml --vs SOLVER.AMP.ENABLED True",
    "start --rounds 5 --json start.json",
)


class Benchmark(NamedTuple):
    """Command of a benchmark program."""

    summary: str
    """Summary on the help screen."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    """Function that adds the options."""
    run: Callable[[argparse.Namespace], dict[str, object]]
    """Function that prints the results, and returns them for --json."""


def add_benchmarks(parser: argparse.ArgumentParser, benchmarks: Mapping[str, Benchmark]) -> argparse.ArgumentParser:
    """Add one command per benchmark; return the parser."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, benchmark in benchmarks.items():
        command = commands.add_parser(name, help=benchmark.summary, description=benchmark.summary)
        benchmark.add_arguments(command)
        command.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    return parser


def run_benchmarks(
    parser: argparse.ArgumentParser, benchmarks: Mapping[str, Benchmark], argv: Sequence[str] | None
) -> int:
    """Run a program that has one command per benchmark; return the exit code."""
    return cli.run(parser, lambda args: _run(benchmarks[args.command], args), argv, prepare=_prepare)


def _prepare(args: argparse.Namespace) -> None:
    """Check --json before slow imports and the measurement.

    Raises:
        FileNotFoundError: the folder of --json does not exist.
    """
    if args.json and not args.json.parent.is_dir():
        raise FileNotFoundError(f"--json {args.json}: the folder {args.json.parent} does not exist; create it")
    import_detectron2(args)


def _run(benchmark: Benchmark, args: argparse.Namespace) -> None:
    """Print the environment, run a benchmark and write its results."""
    from .measure import environment

    machine = environment(getattr(args, "device", "cpu"))
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    results = {"command": args.command, "environment": machine, **benchmark.run(args)}
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help=CONFIG_HELP)
    parser.add_argument(
        "--size", nargs=2, type=int, default=(512, 512), metavar=("HEIGHT", "WIDTH"), help="size (default: 512 512)"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images per batch (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=7, metavar="N", help="timed runs of each variant (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument("--vs", nargs="+", metavar="KEY VALUE", help="also time the config with these changes")
    parser.add_argument("--others", action="store_true", help="also time detectors of torchvision")
    add_list_models(parser)


def _add_step_arguments(parser: argparse.ArgumentParser) -> None:
    _add_model_arguments(parser)
    parser.set_defaults(batch=2, rounds=5)
    parser.add_argument("--objects", type=int, default=10, metavar="N", help="objects per image (default: %(default)s)")


def _add_start_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="processes per variant (default: %(default)s)"
    )


def _inference(args: argparse.Namespace) -> dict[str, object]:
    from .benchmarking import inference

    return inference(args)


def _step(args: argparse.Namespace) -> dict[str, object]:
    from .benchmarking import step

    return step(args)


def _start(args: argparse.Namespace) -> dict[str, object]:
    from .benchmarking import start

    return start(args)


BENCHMARKS = {
    "inference": Benchmark("time detection, without reading images", _add_model_arguments, _inference),
    "step": Benchmark("time training steps, without data loading", _add_step_arguments, _step),
    "start": Benchmark("time new processes: imports, --help, first detection", _add_start_arguments, _start),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_benchmarks(build_parser(), BENCHMARKS, argv)


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    return add_benchmarks(new_parser(SUMMARY, ["COMMAND [options]"], EXAMPLES), BENCHMARKS)
