"""Start of a run: config and output folder checks, logging and seeds."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from ..checkpoint import HUB, find_trunk, find_weights, has_checkpoint
from ..config.loading import check_device, flatten, load_config
from ..data import register_from_config
from ..utils.files import write_atomically
from ..utils.logging import drop_mapping_notice, is_user_message, quiet_imports
from ..utils.screen import ScreenHandler
from ..utils.text import escape_record
from .processes import check_processes

__all__ = ["Run", "check_config", "check_output_dir", "check_weights", "recorded_config", "setup_run", "start_logging"]

# Keys that --resume may change: length, devices and workers, and periods of evaluations and checkpoints.
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

# Learning rate and schedule, which --resume may change if the command line contains the key: an edited config file
# must not change them silently.
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


@dataclass(frozen=True)
class Run:
    """Training or evaluation run, which is passed to every process.

    Attributes:
        cfg: complete, frozen config.
        resume: continue the run in OUTPUT_DIR.
        eval_only: evaluate instead of training.
        recorded: config of the run in OUTPUT_DIR, if it is to be resumed.
        overrides: config keys on the command line.
        notes: messages of the reader of the dataset, for the report.
        sheets: write sheets of training images and predictions to OUTPUT_DIR.
    """

    cfg: CfgNode
    resume: bool = False
    eval_only: bool = False
    recorded: CfgNode | None = None
    overrides: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sheets: bool = False


def setup_run(run: Run) -> None:
    """Set up datasets, OUTPUT_DIR, logging and seeds of a run.

    Training also saves the config as OUTPUT_DIR/config.yaml. Environment, config and model are logged to
    OUTPUT_DIR/log.txt only.

    Raises:
        FileExistsError: OUTPUT_DIR contains another run.
        NotADirectoryError: OUTPUT_DIR is a file.
        FileNotFoundError, ValueError: a dataset cannot be registered.
    """
    cfg = run.cfg
    drop_mapping_notice()
    register_from_config(cfg)
    changed = {}
    if comm.is_main_process() and not run.eval_only:
        check_output_dir(Path(cfg.OUTPUT_DIR), resume=run.resume)
        if run.recorded is not None:
            changed = check_changes(run.recorded, cfg, run.overrides)
    comm.synchronize()
    start_logging(cfg)
    # Equivalent to Detectron2's default_setup, which also writes config.yaml non-atomically and for evaluations.
    logger = logging.getLogger("detectron2")
    logger.info(f"Rank of current process: {comm.get_rank()}. World size: {comm.get_world_size()}")
    with quiet_imports():
        logger.info(f"Environment info:\n{collect_env_info()}")
    logger.info(f"Command line arguments: {' '.join(sys.argv[1:])}")
    logger.info(f"Running with full config:\n{cfg.dump()}")
    if comm.is_main_process() and not run.eval_only:
        write_atomically(Path(cfg.OUTPUT_DIR, "config.yaml"), lambda file: file.write(cfg.dump().encode()))
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    if not run.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    logger = logging.getLogger(__name__)
    logger.info(f"output folder: {cfg.OUTPUT_DIR} (environment, config and model: log.txt)")
    logger.info(f"device: {cfg.MODEL.DEVICE}")
    for key, (old, new) in changed.items():
        logger.info(f"--resume changes {key}: {old} -> {new}")


def check_config(cfg: CfgNode, *, resume: bool, eval_only: bool, processes: int) -> None:
    """Validate the device, class names, weights and number of processes of a config.

    Raises:
        FileNotFoundError: a weights file does not exist, or cannot be downloaded.
        ValueError: the config is invalid, or --eval-only has no weights.
    """
    check_device(cfg.MODEL.DEVICE)
    check_classes(cfg.MODEL.CENTERNET)
    check_weights(cfg, resume=resume, eval_only=eval_only)
    if not eval_only:
        check_processes(cfg, processes)


def check_classes(node: CfgNode) -> None:
    """Check that CLASS_NAMES is compatible with the other keys of MODEL.CENTERNET.

    Raises:
        ValueError: CLASS_NAMES is not empty and incompatible.
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
    """Check that the initial weights exist; download weights given by name.

    Raises:
        ValueError: --eval-only has no weights.
        FileNotFoundError: a file does not exist, or cannot be downloaded.
    """
    if resume and has_checkpoint(cfg.OUTPUT_DIR):
        return
    if eval_only and not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "--eval-only needs weights: set MODEL.WEIGHTS, or add --resume for the last checkpoint in OUTPUT_DIR"
        )
    if cfg.MODEL.WEIGHTS:
        find_weights(cfg.MODEL.WEIGHTS)
    if cfg.MODEL.TRUNK_WEIGHTS not in ("", HUB) and not eval_only:
        find_trunk(cfg.MODEL.TRUNK_WEIGHTS)


def start_logging(cfg: CfgNode) -> None:
    """Log to OUTPUT_DIR/log.txt, and user-facing messages to the screen as well."""
    rank = comm.get_rank()
    for name in ("fvcore", "detectron2", "centernet_d2"):
        logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name=name, configure_stdout=False)
        if rank == 0 and not any(isinstance(handler, ScreenHandler) for handler in logger.handlers):
            logger.addHandler(screen := ScreenHandler(sys.stdout))
            screen.addFilter(is_user_message)
        for handler in logger.handlers:
            handler.addFilter(escape_record)
            if isinstance(handler, logging.StreamHandler):
                handler.handleError = partial(_close, handler)  # type: ignore[method-assign]  # Only for log.txt.


def _close(handler: logging.StreamHandler, record: logging.LogRecord) -> None:
    """Close a log file that cannot be written; the training loop reports a full disk."""
    with suppress(OSError):
        handler.stream.close()


def check_output_dir(folder: Path, *, resume: bool) -> None:
    """Refuse to overwrite another run.

    A folder without weights, for example after a failed start, does not count as a run.

    Raises:
        NotADirectoryError: the folder is a file.
        FileExistsError: the folder contains weights, and `resume` is False.
    """
    if folder.is_file():
        raise NotADirectoryError(f"OUTPUT_DIR {folder} is a file: choose another folder")
    if not resume and any(folder.glob("*.pth")):
        raise FileExistsError(
            f"OUTPUT_DIR {folder} already contains trained weights: continue with --resume, or choose another folder"
        )


def recorded_config(folder: Path) -> CfgNode | None:
    """Load the config of the run in an output folder.

    Returns:
        None if the folder contains no weights or no config.

    Raises:
        FileExistsError: the file is not a config of this project.
    """
    path = folder / "config.yaml"
    if not path.exists() or not any(folder.glob("*.pth")):
        return None
    try:
        return load_config(path)
    except ValueError as error:
        raise FileExistsError(f"{path} is not a config of this project: choose another OUTPUT_DIR ({error})") from error


def check_changes(recorded: CfgNode, cfg: CfgNode, overrides: Collection[str]) -> dict[str, tuple[object, object]]:
    """Return the keys that a resumed run changes, with old and new values.

    Args:
        recorded: config of the existing run.
        cfg: new config.
        overrides: keys on the command line.

    Raises:
        FileExistsError: a key differs that --resume must not change.
    """
    old, new = (dict(flatten(yaml.safe_load(one.dump()))) for one in (recorded, cfg))
    changed = {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key != "OUTPUT_DIR"
    }
    refused = [key for key in changed if key not in RESUMABLE and not (key in LEARNING_RATE and key in overrides)]
    if refused:
        lines = "\n".join(f"  {key}: {changed[key][0]} -> {changed[key][1]}" for key in refused[:10])
        raise FileExistsError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} contains a run with another config; choose another folder. --resume can "
            "change iterations, devices and workers, and, by keys on the command line, the learning rate and its "
            f"schedule. Changed keys:\n{lines}"
        )
    return changed
