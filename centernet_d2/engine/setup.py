"""From a command line to a config, and the check that a run does not overwrite another."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..checkpoint import find_trunk, find_weights, has_checkpoint
from ..config.catalog import find_config
from ..config.loading import check_device, flatten, load_config
from ..data import register_from_config
from ..utils.logging import drop_mapping_notice, is_for_the_screen, quiet_imports
from .processes import check_processes, number_of_processes

__all__ = ["check_output_dir", "check_weights", "read_config", "setup", "start_logging"]

# What --resume may change: iterations, devices and workers, and how often something is looked at or written.
RESUMABLE = (
    "SOLVER.MAX_ITER",
    "SOLVER.EPOCHS",
    "SOLVER.PATIENCE",
    "SOLVER.MAX_TO_KEEP",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "VIS_PERIOD",
)

# The learning rate and its schedule, which it may change if the command line says so: a config file that was edited in
# between must not change them in silence.
LEARNING_RATE = (
    "SOLVER.BASE_LR",
    "SOLVER.BASE_LR_END",
    "SOLVER.LR_SCHEDULER_NAME",
    "SOLVER.STEPS",
    "SOLVER.STEP_EPOCHS",
    "SOLVER.GAMMA",
    "SOLVER.NUM_DECAYS",
    "SOLVER.RESCALE_INTERVAL",
    "SOLVER.WARMUP_FACTOR",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.WARMUP_METHOD",
)


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config of a command line, check what it names, register its data sets, start logging.

    Environment, config and model go to OUTPUT_DIR/log.txt only.

    Args:
        args: as parsed by ``detectron2.engine.default_argument_parser``.

    Raises:
        FileExistsError: the output folder holds another run.
        FileNotFoundError: a weights file does not exist.
        ValueError: the config is wrong, there are no weights to evaluate, or MODEL.DEVICE is a GPU, and there is none.
    """
    cfg = read_config(args)
    drop_mapping_notice()
    register_from_config(cfg)
    if comm.is_main_process():
        _restore_config_file(cfg)
    changed = {}
    if comm.is_main_process() and not args.eval_only:
        changed = check_output_dir(cfg, resume=args.resume, told=args.opts[::2])
    comm.synchronize()
    start_logging(cfg)
    # Detectron2 shows the file of the command line, which may be a name of the model zoo, or be about to be replaced.
    found = argparse.Namespace(**{**vars(args), "config_file": _file_to_show(cfg, find_config(args.config_file))})
    with _config_file_safe(cfg, keep=args.eval_only), quiet_imports():
        default_setup(cfg, found)
    logger = logging.getLogger(__name__)
    logger.info(f"output folder: {cfg.OUTPUT_DIR} (environment, config and model: log.txt)")
    logger.info(f"device: {cfg.MODEL.DEVICE}")
    for key, (old, new) in changed.items():
        logger.info(f"--resume changes {key}: {old} -> {new}")
    return cfg


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config of a command line, with a device and weights that exist, and that suits its number of processes.

    Raises:
        FileNotFoundError, ValueError: see :func:`setup`.
    """
    if not args.config_file:
        raise ValueError("there is no config: give --config-file a file, or a name such as COCO-Detection/...")
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    check_device(cfg.MODEL.DEVICE)
    check_classes(cfg.MODEL.CENTERNET)
    check_weights(cfg, resume=args.resume, eval_only=args.eval_only)
    processes = number_of_processes(args)
    if not args.eval_only:
        check_processes(cfg, processes)
    return cfg


def check_classes(node: CfgNode) -> None:
    """Whether MODEL.CENTERNET.CLASS_NAMES, if there are any, suit the rest of the node.

    Raises:
        ValueError: they do not.
    """
    names = node.CLASS_NAMES
    if not names:
        return
    if len(names) != node.NUM_CLASSES or len(set(names)) != len(names):
        raise ValueError(
            f"MODEL.CENTERNET.CLASS_NAMES has {len(names)} names ({len(set(names))} different ones), but "
            f"MODEL.CENTERNET.NUM_CLASSES is {node.NUM_CLASSES}"
        )
    if node.QUIRKS.IGNORE_REGIONS != "mask":
        raise ValueError("MODEL.CENTERNET.CLASS_NAMES needs MODEL.CENTERNET.QUIRKS.IGNORE_REGIONS 'mask'")


def check_weights(cfg: CfgNode, *, resume: bool, eval_only: bool) -> None:
    """Whether there are the weights to start from, before anything is built; those with a name are fetched.

    Raises:
        ValueError: there are none to evaluate.
        FileNotFoundError: a file does not exist, or cannot be fetched.
    """
    if resume and has_checkpoint(cfg.OUTPUT_DIR):
        return
    if eval_only and not cfg.MODEL.WEIGHTS:
        raise ValueError("--eval-only needs weights: set MODEL.WEIGHTS, or --resume for the last ones in OUTPUT_DIR")
    if cfg.MODEL.WEIGHTS:
        find_weights(cfg.MODEL.WEIGHTS)
    if cfg.MODEL.TRUNK_WEIGHTS and not eval_only:
        find_trunk(cfg.MODEL.TRUNK_WEIGHTS)


def start_logging(cfg: CfgNode) -> None:
    """Log to OUTPUT_DIR/log.txt, and what is for users to the screen as well."""
    rank = comm.get_rank()
    # Called as default_setup does: the handlers are made once, and have their filter when it logs.
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="centernet_d2", abbrev_name="cn")
    for name in ("fvcore", "detectron2", "centernet_d2"):
        for handler in logging.getLogger(name).handlers:
            if getattr(handler, "stream", None) is sys.stdout:
                handler.addFilter(is_for_the_screen)
            elif isinstance(handler, logging.StreamHandler):
                handler.handleError = partial(_give_up, handler)  # type: ignore[method-assign]  # Of log.txt alone.


def _give_up(handler: logging.StreamHandler, record: logging.LogRecord) -> None:
    """Write no more to a log file whose disk is full. That ends the training by itself, and needs no traceback here."""
    with suppress(OSError):
        handler.stream.close()


def _config_files(cfg: CfgNode) -> tuple[Path, Path]:
    """The config in an output folder, and where it is while Detectron2 writes another."""
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    return path, path.with_suffix(".yaml.before")


def _restore_config_file(cfg: CfgNode) -> None:
    """Bring the config back that a process was about to replace when it was killed."""
    path, before = _config_files(cfg)
    if before.exists():
        before.replace(path)


def _file_to_show(cfg: CfgNode, path: Path) -> str:
    """The file of the command line, or "" for that of OUTPUT_DIR, which is moved away while another is written."""
    return "" if path.resolve() == _config_files(cfg)[0].resolve() else str(path)


@contextmanager
def _config_file_safe(cfg: CfgNode, *, keep: bool) -> Iterator[None]:
    """Detectron2 writes the config of a run in place in this context; whatever kills the process, the old one is safe.

    Args:
        cfg: of the run.
        keep: bring the old one back, or none: it tells how the weights in the folder were trained, and evaluations
            neither change nor make it.
    """
    path, before = _config_files(cfg)
    if comm.is_main_process() and path.exists():
        path.replace(before)
    yield
    if not comm.is_main_process():
        return
    if keep:
        path.unlink()
        _restore_config_file(cfg)
    else:
        before.unlink(missing_ok=True)


def check_output_dir(cfg: CfgNode, *, resume: bool, told: Collection[str] = ()) -> dict[str, tuple[object, object]]:
    """Refuse to train over another run. A folder without weights is none, whatever else a failed start left there.

    Args:
        cfg: of the run to start.
        resume: whether the run in the folder is to be continued.
        told: keys that the command line names.

    Returns:
        The keys that a resumed run changes, with their values before and now.

    Raises:
        NotADirectoryError: OUTPUT_DIR is a file.
        FileExistsError: OUTPUT_DIR holds weights and `resume` is off, or a config that differs in more than may change.
    """
    folder = Path(cfg.OUTPUT_DIR)
    config_file = folder / "config.yaml"
    if folder.is_file():
        raise NotADirectoryError(f"OUTPUT_DIR {folder} is a file")
    if not any(folder.glob("*.pth")):
        return {}
    if not resume:
        raise FileExistsError(
            f"OUTPUT_DIR {folder} already holds trained weights: continue with --resume, or choose another folder"
        )
    if not config_file.exists():
        return {}
    old, new = (dict(flatten(yaml.safe_load(one.dump()))) for one in (_read_old_config(config_file), cfg))
    changed = {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key != "OUTPUT_DIR"
    }
    refused = [key for key in changed if key not in RESUMABLE and not (key in LEARNING_RATE and key in told)]
    if refused:
        lines = "\n".join(f"  {key}: {changed[key][0]} -> {changed[key][1]}" for key in refused[:10])
        raise FileExistsError(
            f"OUTPUT_DIR {folder} belongs to a run with another config; choose another folder (--resume may change "
            "iterations, devices and workers, and, by keys on the command line, the learning rate and its schedule). "
            f"Changed:\n{lines}"
        )
    return changed


def _read_old_config(path: Path) -> CfgNode:
    """The config of a run, perhaps of an earlier version: what it does not have, has its default."""
    try:
        return load_config(path)
    except ValueError as error:
        raise FileExistsError(f"{path} is not a config of this project, choose another OUTPUT_DIR: {error}") from error
