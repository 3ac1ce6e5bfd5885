"""Command line of train_net.py and centernet-train."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from ..config.catalog import SMALL
from ..utils import cli
from .options import CONFIG_HELP, add_list_models, import_detectron2, new_parser

__all__ = ["build_parser", "main", "run"]

USAGE = (
    "--data PATH [--epochs N | --minutes N] [options] [KEY VALUE ...]",
    "--config-file CONFIG [--num-gpus N] [options] [KEY VALUE ...]",
    "{--resume | --eval-only} [options] OUTPUT_DIR FOLDER [KEY VALUE ...]",
)
EXAMPLES = (
    "--data photos/ --minutes 20",
    "--config-file COCO-Detection/centernet_R_18_1x.yaml --num-gpus 8",
    "--resume OUTPUT_DIR output/photos SOLVER.MAX_ITER 20000",
)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line: all processes of this machine, or one of torchrun.

    Returns:
        The exit code, see :func:`centernet_d2.utils.cli.run`.
    """
    return cli.run(build_parser(), _launch, argv, prepare=_prepare)


def main(args: argparse.Namespace) -> dict:
    """Train or evaluate in this process.

    Args:
        args: parsed by :func:`build_parser`, or by ``detectron2.engine.default_argument_parser``.

    Returns:
        Metrics of the last evaluation.
    """
    import_detectron2(args)
    from .training import build_run, execute

    cli.import_user_modules(getattr(args, "imports", ()))
    return execute(build_run(args))


def _prepare(args: argparse.Namespace) -> None:
    """Check the options before slow imports.

    Raises:
        ValueError: the options specify nothing to train or evaluate.
    """
    if not (args.config_file or args.data or args.resume or args.eval_only):
        raise ValueError("no data and no config is specified:\n" + build_parser().format_usage().rstrip())
    import_detectron2(args)


def _launch(args: argparse.Namespace) -> int:
    from .training import launch_processes

    return launch_processes(args)


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser: options of Detectron2, and options for custom data."""
    parser = new_parser("Train or evaluate a CenterNet.", USAGE, EXAMPLES)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides, such as SOLVER.IMS_PER_BATCH 8")
    data = parser.add_argument_group("own data")
    data.add_argument("--data", metavar="PATH", help="folder of labeled images, COCO .json, data.yaml or .csv")
    data.add_argument(
        "--val", metavar="PATH", help="validation data (default: validation split of the data, or a random split)"
    )
    length = data.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=float, metavar="N", help="number of training epochs")
    length.add_argument("--minutes", type=float, metavar="N", help="time limit for training and evaluation in minutes")
    data.add_argument(
        "--model",
        metavar="MODEL",
        help=f"the folder or a checkpoint of a run to fine-tune, '{SMALL}', timm:NAME (a network of timm as trunk), or "
        f"a config: {CONFIG_HELP} (default: selected from data, weights and device)",
    )
    add_list_models(data)
    config = parser.add_argument_group("instead of --data")
    config.add_argument("--config-file", default="", metavar="CONFIG", help=CONFIG_HELP)
    config.add_argument(
        "--resume", action="store_true", help="resume the training in OUTPUT_DIR from its last checkpoint"
    )
    config.add_argument("--eval-only", action="store_true", help="evaluate the weights of OUTPUT_DIR or MODEL.WEIGHTS")
    _add_process_options(parser)
    return parser


def _add_process_options(parser: argparse.ArgumentParser) -> None:
    """Add options with the names and defaults of ``detectron2.engine.default_argument_parser``."""
    group = parser.add_argument_group("several processes")
    group.add_argument("--num-gpus", type=int, default=1, metavar="N", help="GPUs per machine (default: 1)")
    group.add_argument("--num-machines", type=int, default=1, metavar="N", help="number of machines (default: 1)")
    group.add_argument(
        "--machine-rank", type=int, default=0, metavar="N", help="index of this machine, from 0 (default: 0)"
    )
    # One port per user, so that leftover processes of an earlier run, which occupy it, cause an error.
    port = 49152 + (os.getuid() if hasattr(os, "getuid") else 1) % 16384
    group.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        metavar="URL",
        help="address and port of the first machine, tcp://ADDRESS:PORT (default: a port of this machine)",
    )
