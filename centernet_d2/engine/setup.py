"""From a command line to a config, and the check that a run does not overwrite another."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import load_config
from ..data import register_datasets

__all__ = ["check_output_dir", "setup"]

# What --resume may change: iterations, devices and workers, and how often something is looked at or written.
RESUMABLE = (
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "VIS_PERIOD",
)


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config of a command line, register its data sets, check its output folder, start logging.

    Args:
        args: as parsed by ``detectron2.engine.default_argument_parser``.

    Raises:
        FileExistsError: the output folder holds another run.
    """
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    register_datasets(cfg.DATASETS.REGISTER)
    config_file = Path(cfg.OUTPUT_DIR) / "config.yaml"
    kept = None
    if comm.is_main_process():
        if args.eval_only:
            kept = config_file.read_text() if config_file.exists() else None
        else:
            check_output_dir(cfg, resume=args.resume)
    comm.synchronize()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="centernet_d2", abbrev_name="cn")
    if kept is not None:  # The folder's config tells how its weights were trained; an evaluation leaves it alone.
        config_file.write_text(kept)
    return cfg


def check_output_dir(cfg: CfgNode, *, resume: bool) -> None:
    """Refuse to train over another run.

    Raises:
        FileExistsError: OUTPUT_DIR holds weights and `resume` is off, or a config that differs in more than iterations,
            devices and workers.
    """
    folder = Path(cfg.OUTPUT_DIR)
    config_file = folder / "config.yaml"
    if not resume and any(folder.glob("*.pth")):
        raise FileExistsError(
            f"OUTPUT_DIR {folder} already holds trained weights: continue with --resume, or choose another folder"
        )
    if not config_file.exists():
        return
    allowed = RESUMABLE if resume else ()
    old, new = (dict(_flatten(yaml.safe_load(text))) for text in (config_file.read_text(), cfg.dump()))
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key) and key not in allowed]
    if changed:
        lines = "\n".join(f"  {key}: {old.get(key)} -> {new.get(key)}" for key in changed[:10])
        raise FileExistsError(
            f"OUTPUT_DIR {folder} belongs to a run with another config; choose another folder"
            + (" (--resume may change iterations, devices and workers only)" if resume else "")
            + f". Changed:\n{lines}"
        )


def _flatten(node: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested dicts -> dotted keys and values."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
