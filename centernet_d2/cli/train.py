"""The command line of train_net.py: train or evaluate, in one process or several."""

from __future__ import annotations

import argparse
import errno
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ..autoconfig.plan import add_data_options, config_for_data
from ..checkpoint import CenterNetCheckpointer, remove_leftovers
from ..engine.processes import by_torchrun, joined
from ..engine.setup import read_config, setup
from ..engine.trainer import Trainer
from ..layers.folding import fold_batch_norms
from ..utils import cli
from ..utils.cli import import_outside
from ..utils.files import folder_locked
from ..utils.logging import errors_only
from ..utils.signals import Stopped, signals_noted

__all__ = ["main", "run"]


def main(args: argparse.Namespace) -> dict:
    """One process of a training or an evaluation; returns the metrics of the last evaluation."""
    import_outside(getattr(args, "imports", ()))  # Again, for processes that were started anew.
    if not args.eval_only:
        return _train(args)
    cfg = setup(args)
    model = Trainer.build_model(cfg)
    Trainer.check_test_sets(cfg)
    CenterNetCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    if cfg.TEST.FOLD_NORMS:
        model.backbone = fold_batch_norms(model.backbone)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def _train(args: argparse.Namespace) -> dict:
    folder = read_config(args).OUTPUT_DIR
    with folder_locked(folder) if comm.is_main_process() else nullcontext(), _disk_named(folder):
        if comm.is_main_process():
            remove_leftovers(folder)
        cfg = setup(args)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()


@contextmanager
def _disk_named(folder: str) -> Iterator[None]:
    """An error says that it is the disk of a folder which is full or read-only; whatever file it was that showed it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        raise OSError(
            f"OUTPUT_DIR {folder} cannot be written to ({error.strerror}); checkpoints there are whole, go on with "
            "--resume when it can"
        ) from error


def run(argv: Sequence[str] | None = None) -> int:
    """All processes of this machine, or one of those that torchrun started.

    Returns the exit code, see :func:`centernet_d2.utils.cli.run`.
    """
    parser = build_parser()
    return cli.run(parser, lambda args: _launch(parser, args), argv)


def build_parser() -> argparse.ArgumentParser:
    """The options of ``train_net.py``: Detectron2's, and those for own data."""
    parser = default_argument_parser()
    add_data_options(parser)
    return parser


def _launch(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    if args.data is not None:
        args.config_file = str(config_for_data(args))
    elif any(getattr(args, name) is not None for name in ("val", "epochs", "minutes", "model")):
        raise ValueError("--val, --epochs, --minutes and --model go with --data; a config has keys for them")
    if by_torchrun():
        with joined(read_config(args).MODEL.DEVICE):
            main(args)
        return 0
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise ValueError(f"--num-gpus is {args.num_gpus}, but torch sees {torch.cuda.device_count()} GPUs")
    if args.num_gpus * args.num_machines <= 1:
        main(args)
        return 0
    cfg = read_config(args)  # A mistake in it shows at once, and once.
    if torch.cuda.is_available() and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        raise ValueError("--num-gpus with MODEL.DEVICE cpu on a machine with GPUs: start the processes with torchrun")
    ends = multiprocessing.get_context("spawn").SimpleQueue()
    noted = signals_noted(signal.SIGINT, signal.SIGTERM, tell=_pass_on)
    try:
        # The other one tells of every process that it ends after an error.
        with noted as signals, errors_only("torch.multiprocessing.spawn"):
            launch(
                _process,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args, ends),
            )
    except (ProcessExitedException, ProcessRaisedException):
        if ends.empty() and not signals:
            raise
    message, code = ("stopped", 0) if ends.empty() else ends.get()  # Processes mostly stumble over the same.
    if signals:
        code = 128 + signals.number
    return cli.fail(parser, message, code) if code else 0


def _pass_on(number: int) -> None:
    """Tell all processes to end; some signals come to the parent alone."""
    for process in multiprocessing.active_children():
        process.terminate()


def _process(args: argparse.Namespace, ends: multiprocessing.SimpleQueue) -> None:
    """One of several processes: how it ended before its time goes to the parent as a sentence, not as a traceback."""
    try:
        main(args)
    except Stopped as stopped:
        ends.put((str(stopped), stopped.code))
    except Exception as error:
        if args.debug or not cli.is_expected(error):
            raise
        ends.put((cli.sentence(error), 1))
        raise SystemExit(1) from error
