"""The command line of train_net.py: train or evaluate, in one process or several."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from .. import command_line
from ..checkpoint import CenterNetCheckpointer
from ..outside import import_outside
from ..quiet import errors_only
from .setup import read_config, setup
from .trainer import Trainer

__all__ = ["main", "run"]


def main(args: argparse.Namespace) -> dict:
    """One process of a training or an evaluation; returns the metrics of the last evaluation."""
    import_outside(getattr(args, "imports", ()))  # Again, for processes that were started anew.
    cfg = setup(args)
    if not args.eval_only:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    model = Trainer.build_model(cfg)
    Trainer.check_test_sets(cfg)
    CenterNetCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def run(argv: Sequence[str] | None = None) -> int:
    """All processes of this machine. Returns the exit code, see :func:`centernet_d2.command_line.run`."""
    parser = default_argument_parser()
    return command_line.run(parser, lambda args: _launch(parser, args), argv)


def _launch(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise ValueError(f"--num-gpus is {args.num_gpus}, but torch sees {torch.cuda.device_count()} GPUs")
    if args.num_gpus * args.num_machines <= 1:
        main(args)
        return 0
    read_config(args)  # A mistake in it shows at once, and once.
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    try:
        with errors_only("torch.multiprocessing.spawn"):  # It tells of every process that it ends after an error.
            launch(
                _process,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args, errors),
            )
    except (ProcessExitedException, ProcessRaisedException):
        if errors.empty():
            raise
        return command_line.fail(parser, errors.get())  # Processes mostly stumble over the same.
    return 0


def _process(args: argparse.Namespace, errors: multiprocessing.SimpleQueue) -> None:
    """One of several processes: an expected error goes to the parent as a sentence instead of a traceback."""
    try:
        main(args)
    except command_line.EXPECTED as error:
        if args.debug:
            raise
        errors.put(command_line.sentence(error))
        raise SystemExit(1) from error
