"""Training and evaluation from a command line, in one or several processes."""

from __future__ import annotations

import argparse
import errno
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import takewhile
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ..autoconfig.plan import Request, draft_plan, output_folders, plan_training
from ..checkpoint import CenterNetCheckpointer
from ..config.loading import check_overrides, load_config, override
from ..data.loaded import load_dataset
from ..engine.processes import launched_by_torchrun, number_of_processes, process_group
from ..engine.setup import Run, check_config, recorded_config, setup_run
from ..engine.trainer import Trainer
from ..evaluation.summary import summarize
from ..layers.folding import fold_batch_norms
from ..readers import discover_dataset
from ..utils import cli
from ..utils.cli import import_user_modules
from ..utils.files import lock_folder, remove_leftovers
from ..utils.logging import errors_only
from ..utils.screen import columns
from ..utils.signals import Stopped, defer_signals, end_signals
from ..utils.text import printable
from .reporting import finish_report, report_evaluation, start_report
from .sheets import training_sheets

__all__ = ["build_run", "execute", "launch_processes"]


def build_run(args: argparse.Namespace) -> Run:
    """Build and validate the config of a command line.

    The config is read from ``--config-file``, planned for ``--data``, or read from OUTPUT_DIR if ``--resume`` or
    ``--eval-only`` is used without ``--config-file``. Overrides of the command line are applied last. In the last case,
    ``--eval-only`` evaluates the last weights of the run, unless MODEL.WEIGHTS is set.

    Raises:
        FileExistsError: OUTPUT_DIR contains another run, or other data.
        FileNotFoundError: the config, the data or the weights do not exist.
        ValueError: options contradict each other, or the config is invalid.
    """
    check_overrides(args.opts)
    data = getattr(args, "data", None)
    for option in ("val", "epochs", "minutes", "model"):
        if getattr(args, option, None) is not None and (data is None or args.resume or args.eval_only):
            raise ValueError(f"--{option} requires --data and a new training; otherwise set config keys")
    if data is not None and args.config_file:
        raise ValueError("--data and --config-file are mutually exclusive: use one of them")
    recorded: CfgNode | None = None
    notes: tuple[str, ...] = ()
    if args.config_file:
        cfg = load_config(args.config_file, args.opts)
        if args.resume:
            recorded = recorded_config(Path(cfg.OUTPUT_DIR))
    elif args.resume or args.eval_only:
        recorded = _recorded_config(data, args.opts)
        cfg = recorded.clone()
        override(cfg, args.opts)
    elif data is not None:
        cfg, notes = _plan(args)
    else:
        raise ValueError("no config is specified: use --data FOLDER (labeled images) or --config-file CONFIG")
    cfg.freeze()
    resume = args.resume or (recorded is not None and "MODEL.WEIGHTS" not in args.opts[::2])
    check_config(cfg, resume=resume, eval_only=args.eval_only, processes=number_of_processes(args))
    keys = tuple(args.opts[::2])
    return Run(cfg, resume, args.eval_only, recorded, keys, notes, sheets=data is not None)


def _recorded_config(data: str | None, opts: Sequence[str]) -> CfgNode:
    """Return the config recorded in OUTPUT_DIR, or in the newest default output folder of the data.

    Raises:
        FileNotFoundError: no run exists.
    """
    named = dict(zip(opts[::2], opts[1::2], strict=False)).get("OUTPUT_DIR")
    folders = list(takewhile(Path.exists, output_folders(data))) if data else []
    folder = Path(named) if named else next(iter(folders[::-1]), None)
    if folder is None:
        raise FileNotFoundError(
            "--resume and --eval-only require a run: set OUTPUT_DIR to its folder, or use --config-file"
        )
    if (cfg := recorded_config(folder)) is None:
        if (folder / "config.yaml").exists():
            raise FileNotFoundError(
                f"OUTPUT_DIR {folder} contains no weights: the run ended before its first checkpoint. Start it again "
                "without --resume"
            )
        raise FileNotFoundError(f"OUTPUT_DIR {folder} contains no run: config.yaml is missing")
    cfg.OUTPUT_DIR = str(folder)
    return cfg


def _plan(args: argparse.Namespace) -> tuple[CfgNode, tuple[str, ...]]:
    """Return the config for training on custom data, and messages of the reader; print dataset and configuration.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: see :func:`build_run`.
    """
    if launched_by_torchrun():
        raise ValueError(
            "--data does not support torchrun: use --config-file, for example config.yaml of a short run with --data"
        )
    is_single = args.num_gpus * args.num_machines <= 1
    if args.minutes is not None and not is_single:
        raise ValueError("--minutes does not support several processes: use --epochs")
    request = Request(args.data, args.val, args.epochs, args.minutes, args.model, tuple(args.opts), timed=is_single)
    draft = draft_plan(request)
    data = discover_dataset(args.data, args.val)
    print("\n".join(data.lines()), flush=True)
    plan = plan_training(draft, data)
    print(printable("\n".join(plan.lines(columns())), lines=True), flush=True)
    return plan.cfg, tuple(data.report.lines())


def execute(run: Run) -> dict:
    """Train or evaluate in this process; return the metrics of the last evaluation."""
    return _evaluate(run) if run.eval_only else _train(run)


def _evaluate(run: Run) -> dict:
    setup_run(run)
    cfg = run.cfg
    model = Trainer.build_model(cfg)
    Trainer.check_test_sets(cfg)
    CenterNetCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=run.resume)
    if cfg.TEST.FOLD_NORMS is True:
        model.backbone = fold_batch_norms(model.backbone)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        report_evaluation(cfg, model)
        logging.getLogger(__name__).info("\n".join(summarize(results, columns())))
        verify_results(cfg, results)
    return results


def _train(run: Run) -> dict:
    folder, is_main = run.cfg.OUTPUT_DIR, comm.is_main_process()
    with lock_folder(folder) if is_main else nullcontext(), _report_disk_errors(folder):
        if is_main:
            remove_leftovers(folder)
        setup_run(run)
        trainer = Trainer(run.cfg)
        trainer.resume_or_load(resume=run.resume)
        model, resumed = trainer.checkpointer.model, trainer.start_iter > 0
        report = start_report(run) if is_main else None
        with training_sheets(run.cfg, model, resumed=resumed) if run.sheets and is_main else nullcontext():
            results = trainer.train()
        if is_main:
            if report is not None:
                finish_report(report, run.cfg, model)
            print("\n".join(_ending(run.cfg)), flush=True)
        return results


def _ending(cfg: CfgNode) -> list[str]:
    """Return the paths of the results of a training, and a command that uses them."""
    folder = Path(cfg.OUTPUT_DIR)
    best = " (best evaluation: model_best.pth)" if (folder / "model_best.pth").exists() else ""
    figures = [path.name for path in sorted(folder.glob("*.jpg"))]
    command = "python demo.py" if Path(sys.argv[0]).name == "train_net.py" else "centernet-detect"
    names = cfg.DATASETS.TEST or cfg.DATASETS.TRAIN
    image = load_dataset(names[0])[0]["file_name"]
    return [
        "",
        f"weights   {folder / 'model_final.pth'}{best}",
        f"config    {folder / 'config.yaml'}",
        *([f"report    {folder / 'report.html'}"] if (folder / "report.html").exists() else []),
        *([f"figures   {', '.join(figures)} in {folder}"] if figures else []),
        f"next      {command} {shlex.quote(image)} --model {shlex.quote(str(folder))}",
    ]


@contextmanager
def _report_disk_errors(folder: str) -> Iterator[None]:
    """Convert errors about a full or read-only disk to errors that name the output folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        raise OSError(
            f"OUTPUT_DIR {folder} cannot be written to ({error.strerror}); its checkpoints are complete. Continue with "
            "--resume when it is writable"
        ) from error


def launch_processes(args: argparse.Namespace) -> int:
    """Run a command line in the requested number of processes; return the exit code."""
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise ValueError(f"--num-gpus is {args.num_gpus}, but only {torch.cuda.device_count()} GPUs are visible")
    if args.num_gpus > 1 and not torch.cuda.is_available() and "MODEL.DEVICE" not in args.opts[::2]:
        raise ValueError(
            f"--num-gpus is {args.num_gpus}, but no GPU is available. To train in {args.num_gpus} processes on the "
            "CPU, add MODEL.DEVICE cpu"
        )
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
    """Start the processes of this machine with Detectron2's launcher; return the exit code."""
    if torch.cuda.is_available() and torch.device(run.cfg.MODEL.DEVICE).type == "cpu":
        raise ValueError("--num-gpus does not support MODEL.DEVICE cpu on a machine with GPUs: use torchrun")
    outcomes = multiprocessing.get_context("spawn").SimpleQueue()
    deferred = defer_signals(*end_signals(), callback=_terminate_children)
    try:
        # The logger reports every process that fails.
        with deferred as signals, errors_only("torch.multiprocessing.spawn"):
            launch(
                _process,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(run, args.imports, args.debug, outcomes),
            )
    except (ProcessExitedException, ProcessRaisedException) as error:
        if isinstance(error, ProcessExitedException) and error.signal_name and not signals:
            raise cli.Failure(_describe_kill(error), 1) from error
        if outcomes.empty() and not signals:
            raise
    # Usually, all processes report the same error.
    message, code = ("interrupted", 0) if outcomes.empty() else outcomes.get()
    if signals:
        code = 128 + signals.number
    if code:
        raise cli.Failure(message, code)
    return 0


def _describe_kill(error: ProcessExitedException) -> str:
    advice = " Usually, memory ran out: lower SOLVER.IMS_PER_BATCH or DATALOADER.NUM_WORKERS."
    return (
        f"process {error.error_index} of the training was ended by {error.signal_name}."
        f"{advice if error.signal_name == 'SIGKILL' else ''} Continue with --resume"
    )


def _terminate_children(number: int) -> None:
    """Terminate all child processes, because some signals reach only the parent."""
    for process in multiprocessing.active_children():
        process.terminate()


def _process(run: Run, imports: Sequence[str], debug: bool, outcomes: multiprocessing.SimpleQueue) -> None:
    """Execute one of several processes; report an interruption or an expected error to the parent."""
    try:
        import_user_modules(imports)
        execute(run)
    except Stopped as stopped:
        outcomes.put((str(stopped), stopped.code))
    except Exception as error:
        if debug or not cli.is_expected(error):
            raise
        outcomes.put((cli.error_message(error), 1))
        raise SystemExit(1) from error
