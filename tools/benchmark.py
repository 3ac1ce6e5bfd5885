#!/usr/bin/env python
"""What this project and others take on this machine, timed in turn.

    python tools/benchmark.py data|targets|step|inference|evaluation|start [CONFIG] [--json FILE]

``python tools/benchmark.py COMMAND --help`` names the options of each.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import data, evaluation, inference, start, step, targets
from benchmarks.measure import environment
from centernet_d2.utils import cli

MODULES = (data, targets, step, inference, evaluation, start)
COMMANDS = {module.__name__.rpartition(".")[2]: module for module in MODULES}


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        own = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.add_arguments(own)
        own.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Say on which machine, run the benchmark, and write what it found.

    Raises:
        FileNotFoundError: the folder of the file is not there; found out before anything is timed.
    """
    if args.json and not args.json.parent.is_dir():
        raise FileNotFoundError(f"{args.json.parent} is no folder, so --json cannot write there")
    machine = environment(getattr(args, "device", "cpu"))
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    results = {"command": args.command, "environment": machine, **COMMANDS[args.command].run(args)}
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
