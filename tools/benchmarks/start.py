"""What a new process takes until it has imported this project, beside what the imports of others take of it."""

from __future__ import annotations

import argparse
import subprocess
import sys

from .measure import alternate, summarize, table

STATEMENTS = {
    "torch": "import torch, torchvision",
    "torch and Detectron2": "import torch, torchvision, detectron2.engine, detectron2.evaluation",
    "centernet_d2": "import centernet_d2.engine",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3)


def run(args: argparse.Namespace) -> dict[str, object]:
    """Seconds of a process of its own per variant: what is imported twice costs nothing the second time."""
    variants = {
        name: lambda code=code: subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
        for name, code in STATEMENTS.items()
    }
    times = alternate(variants, args.rounds)
    print(f"\n{table(times)}")
    return {"seconds": summarize(times)}
