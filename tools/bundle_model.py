#!/usr/bin/env python
"""Write a small checkpoint with weights in half precision.

python tools/bundle_model.py output/bccd centernet_d2/assets/cells.pth
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch import Tensor

from centernet_d2.checkpoint import load_file, load_source
from centernet_d2.checkpoint.integrity import save_with_hash
from centernet_d2.utils import cli
from centernet_d2.utils.files import write_atomically


def bundle(source: str, target: Path) -> None:
    """Write a small checkpoint.

    Args:
        source: the folder of a run, or a checkpoint of this project.
        target: new file.

    Raises:
        FileExistsError: the file exists.
    """
    if target.exists():
        raise FileExistsError(f"{target} already exists and is not overwritten; remove it first")
    data = load_file(load_source(source).MODEL.WEIGHTS, verify=True)
    weights = {name: shrink(value) for name, value in data["model"].items()}
    write_atomically(target, lambda file: save_with_hash({"model": weights, "metadata": data["metadata"]}, file))


def shrink(value: Tensor) -> Tensor:
    """Convert weights of layers to half precision.

    Vectors, such as statistics of batch norms, are kept.
    """
    return value.half() if value.is_floating_point() and value.ndim > 1 else value


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="the folder of a run, or a checkpoint")
    parser.add_argument("target", type=Path, help="new file")
    return cli.run(parser, lambda args: bundle(args.source, args.target), argv)


if __name__ == "__main__":
    sys.exit(main())
