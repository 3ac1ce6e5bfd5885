"""Command line of train_net.py and centernet-train: train or evaluate, in one process or several."""

from __future__ import annotations

import argparse
import errno
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import takewhile
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ..autoconfig.plan import SMALL, Request, draft_plan, output_folders, plan_training
from ..checkpoint import CenterNetCheckpointer
from ..config.catalog import available
from ..config.loading import load_config, override
from ..engine.processes import launched_by_torchrun, number_of_processes, process_group
from ..engine.setup import Run, check_config, recorded_config, setup_run
from ..engine.trainer import Trainer
from ..layers.folding import fold_batch_norms
from ..readers import find_data
from ..utils import cli
from ..utils.cli import import_outside
from ..utils.files import folder_locked, remove_leftovers
from ..utils.logging import errors_only
from ..utils.signals import Stopped, signals_noted

__all__ = ["main", "run"]


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line with all processes of this machine, or as one of those started by torchrun.

    Returns the exit code, see :func:`centernet_d2.utils.cli.run`.
    """
    return cli.run(build_parser(), launch_processes, argv)


def main(args: argparse.Namespace) -> dict:
    """Train or evaluate in this process.

    Args:
        args: parsed by :func:`build_parser`, or by ``detectron2.engine.default_argument_parser``.

    Returns:
        The metrics of the last evaluation.
    """
    import_outside(getattr(args, "imports", ()))
    return execute(build_run(args))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser: options of Detectron2, and those for own data."""
    parser = default_argument_parser()
    group = parser.add_argument_group("your own data", "instead of --config-file")
    group.add_argument("--data", metavar="PATH", help="a folder of labeled images, a COCO .json, data.yaml or .csv")
    group.add_argument(
        "--val", metavar="PATH", help="other data to validate on (default: from the data, else at random)"
    )
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=float, metavar="N", help="train for N epochs")
    length.add_argument("--minutes", type=float, metavar="N", help="train and evaluate in N minutes")
    group.add_argument(
        "--model",
        metavar="NAME",
        help=f"'{SMALL}', a file, or a name: {', '.join(available(trained=True))}, which start from weights of the "
        f"reference authors, or {', '.join(available())} (default: chosen from data, weights and device)",
    )
    return parser


def build_run(args: argparse.Namespace) -> Run:
    """Build the config of a command line, once per process, and validate it.

    It comes from ``--config-file``, from a plan for ``--data``, or, with ``--resume`` or ``--eval-only`` and without
    ``--config-file``, from the config that the run recorded in OUTPUT_DIR; keys of the command line come last.

    Raises:
        FileExistsError: OUTPUT_DIR contains another run, or other data.
        FileNotFoundError: config, data or weights do not exist.
        ValueError: options contradict each other, or the config is wrong.
    """
    data = getattr(args, "data", None)
    for option in ("val", "epochs", "minutes", "model"):
        if getattr(args, option, None) is not None and (data is None or args.resume or args.eval_only):
            raise ValueError(f"--{option} is for a new training with --data; otherwise set config keys instead")
    if data is not None and args.config_file:
        raise ValueError("--data creates a config, and --config-file names one: give one of them")
    recorded = None
    if args.config_file:
        cfg = load_config(args.config_file, args.opts)
        if args.resume:
            recorded = recorded_config(Path(cfg.OUTPUT_DIR))
    elif args.resume or args.eval_only:
        recorded = _recorded_config(data, args.opts)
        cfg = recorded.clone()
        override(cfg, args.opts)
    elif data is not None:
        cfg = _plan(args)
    else:
        raise ValueError("there is no config: give --data a folder of labeled images, or --config-file a file or name")
    cfg.freeze()
    check_config(cfg, resume=args.resume, eval_only=args.eval_only, processes=number_of_processes(args))
    return Run(cfg, args.resume, args.eval_only, recorded, tuple(args.opts[::2]))


def _recorded_config(data: str | None, opts: Sequence[str]) -> CfgNode:
    """Return the config recorded in OUTPUT_DIR, or in the newest default folder of the data.

    Raises:
        FileNotFoundError: there is no run.
    """
    named = dict(zip(opts[::2], opts[1::2], strict=False)).get("OUTPUT_DIR")
    folders = list(takewhile(Path.exists, output_folders(data))) if data else []
    folder = Path(named) if named else next(iter(folders[::-1]), None)
    if folder is None:
        raise FileNotFoundError(
            "--resume and --eval-only need a run: name its folder with OUTPUT_DIR, or --config-file"
        )
    if (cfg := recorded_config(folder)) is None:
        raise FileNotFoundError(f"OUTPUT_DIR {folder} contains no run: it needs config.yaml and weights")
    cfg.OUTPUT_DIR = str(folder)
    return cfg


def _plan(args: argparse.Namespace) -> CfgNode:
    """Return the config of a training on own data, and print data and choices.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: see :func:`build_run`.
    """
    if launched_by_torchrun():
        raise ValueError(
            "--data chooses in one process; with torchrun use --config-file, for example config.yaml of a short run"
        )
    if args.minutes is not None and args.num_gpus * args.num_machines > 1:
        raise ValueError("--minutes measures one process; with several use --epochs")
    draft = draft_plan(Request(args.data, args.val, args.epochs, args.minutes, args.model, tuple(args.opts)))
    data = find_data(args.data, args.val)
    print("\n".join(data.lines()), flush=True)
    plan = plan_training(draft, data)
    print("\n".join(plan.lines()), flush=True)
    return plan.cfg


def execute(run: Run) -> dict:
    """Execute one process of a training or an evaluation; return the metrics of the last evaluation."""
    return _evaluate(run) if run.eval_only else _train(run)


def _evaluate(run: Run) -> dict:
    setup_run(run)
    cfg = run.cfg
    model = Trainer.build_model(cfg)
    Trainer.check_test_sets(cfg)
    CenterNetCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=run.resume)
    if cfg.TEST.FOLD_NORMS:
        model.backbone = fold_batch_norms(model.backbone)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def _train(run: Run) -> dict:
    folder = run.cfg.OUTPUT_DIR
    with folder_locked(folder) if comm.is_main_process() else nullcontext(), _disk_errors_named(folder):
        if comm.is_main_process():
            remove_leftovers(folder)
        setup_run(run)
        trainer = Trainer(run.cfg)
        trainer.resume_or_load(resume=run.resume)
        return trainer.train()


@contextmanager
def _disk_errors_named(folder: str) -> Iterator[None]:
    """Report a full or read-only disk with the name of the output folder, whichever file caused the error."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        raise OSError(
            f"OUTPUT_DIR {folder} cannot be written to ({error.strerror}); its checkpoints are complete. Continue with "
            "--resume when it can be written to"
        ) from error


def launch_processes(args: argparse.Namespace) -> int:
    """Execute a command line in as many processes as it asks for; return the exit code."""
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise ValueError(f"--num-gpus is {args.num_gpus}, but torch sees {torch.cuda.device_count()} GPUs")
    run = build_run(args)
    if launched_by_torchrun():
        with process_group(run.cfg.MODEL.DEVICE):
            execute(run)
        return 0
    if args.num_gpus * args.num_machines <= 1:
        execute(run)
        return 0
    return _spawn(run, args)


def _spawn(run: Run, args: argparse.Namespace) -> int:
    """Start the processes of this machine by Detectron2's launcher; return the exit code."""
    if torch.cuda.is_available() and torch.device(run.cfg.MODEL.DEVICE).type == "cpu":
        raise ValueError("--num-gpus with MODEL.DEVICE cpu on a machine with GPUs: start the processes with torchrun")
    ends = multiprocessing.get_context("spawn").SimpleQueue()
    noted = signals_noted(signal.SIGINT, signal.SIGTERM, tell=_pass_on)
    try:
        # The logger reports every process that ends after an error.
        with noted as signals, errors_only("torch.multiprocessing.spawn"):
            launch(
                _process,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(run, args.imports, args.debug, ends),
            )
    except (ProcessExitedException, ProcessRaisedException):
        if ends.empty() and not signals:
            raise
    message, code = ("stopped", 0) if ends.empty() else ends.get()  # Mostly, all processes report the same.
    if signals:
        code = 128 + signals.number
    if code:
        raise cli.Failure(message, code)
    return 0


def _pass_on(number: int) -> None:
    """Pass a signal on to all processes; some signals reach the parent alone."""
    for process in multiprocessing.active_children():
        process.terminate()


def _process(run: Run, imports: Sequence[str], debug: bool, ends: multiprocessing.SimpleQueue) -> None:
    """Execute one of several processes, and send an early end to the parent as a sentence instead of a traceback."""
    try:
        import_outside(imports)
        execute(run)
    except Stopped as stopped:
        ends.put((str(stopped), stopped.code))
    except Exception as error:
        if debug or not cli.is_expected(error):
            raise
        ends.put((cli.sentence(error), 1))
        raise SystemExit(1) from error
