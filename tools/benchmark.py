#!/usr/bin/env python
"""Benchmarks of data loading, targets, evaluation and exported files.

    python tools/benchmark.py data|targets|evaluation|export [--json FILE]

The reference is the reference implementation, or pycocotools for the evaluation.
``python tools/benchmark.py COMMAND --help`` lists the options of each command. ``centernet-benchmark`` measures
inference, training steps and process start.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import data, evaluation, export, targets
from centernet_d2.cli.benchmark import Benchmark, add_benchmarks, run_benchmarks

BENCHMARKS = {
    "data": Benchmark("time data loading on one core", data.add_arguments, data.run),
    "targets": Benchmark("time the training targets of a batch", targets.add_arguments, targets.run),
    "evaluation": Benchmark("time COCO metrics of random detections", evaluation.add_arguments, evaluation.run),
    "export": Benchmark("time exported files", export.add_arguments, export.run),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    return run_benchmarks(add_benchmarks(parser, BENCHMARKS), BENCHMARKS, argv)


if __name__ == "__main__":
    sys.exit(main())
