"""From a command line to a config, and the check that a run does not overwrite another."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import check_device, load_config
from ..data import register_from_config

__all__ = ["check_output_dir", "setup"]

# What --resume may change: iterations, devices and workers, how often something is looked at or written, and of course
# how the folder itself is spelled.
RESUMABLE = (
    "OUTPUT_DIR",
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
        ValueError: MODEL.DEVICE is a GPU, and there is none.
    """
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    check_device(cfg.MODEL.DEVICE)
    register_from_config(cfg)
    if comm.is_main_process() and not args.eval_only:
        check_output_dir(cfg, resume=args.resume)
    comm.synchronize()
    with _config_file_kept(cfg) if args.eval_only else nullcontext():
        default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="centernet_d2", abbrev_name="cn")
    return cfg


@contextmanager
def _config_file_kept(cfg: CfgNode) -> Iterator[None]:
    """The config in an output folder tells how its weights were trained: evaluations neither change nor make it."""
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    kept = path.read_text() if path.exists() else None
    yield
    if comm.is_main_process():
        if kept is None:
            path.unlink()
        else:
            path.write_text(kept)


def check_output_dir(cfg: CfgNode, *, resume: bool) -> None:
    """Refuse to train over another run.

    Raises:
        NotADirectoryError: OUTPUT_DIR is a file.
        FileExistsError: OUTPUT_DIR holds weights and `resume` is off, or a config that differs in more than iterations,
            devices and workers.
    """
    folder = Path(cfg.OUTPUT_DIR)
    config_file = folder / "config.yaml"
    if folder.is_file():
        raise NotADirectoryError(f"OUTPUT_DIR {folder} is a file")
    if not resume and any(folder.glob("*.pth")):
        raise FileExistsError(
            f"OUTPUT_DIR {folder} already holds trained weights: continue with --resume, or choose another folder"
        )
    if not config_file.exists():
        return
    allowed = RESUMABLE if resume else ("OUTPUT_DIR",)
    content = yaml.safe_load(config_file.read_text())
    if not isinstance(content, dict):
        raise FileExistsError(f"{config_file} is not a config; choose another OUTPUT_DIR")
    old, new = dict(_flatten(content)), dict(_flatten(yaml.safe_load(cfg.dump())))
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
