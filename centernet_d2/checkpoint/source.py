"""Config of a trained model, from a run, a checkpoint or a name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode

from ..config.catalog import find_bundled
from ..config.loading import load_config, override
from ..config.portable import from_text
from .checkpointer import checkpoint_files
from .loading import check_exists, load_file

__all__ = ["is_checkpoint", "load_source", "read_metadata"]


def is_checkpoint(source: str | Path) -> bool:
    """Return True for folders of runs, weights files and models in the package.

    Weights files are recognized by their suffix.
    """
    return Path(source).suffix in (".pth", ".pt", ".pkl") or os.path.isdir(source) or find_bundled(source) is not None


def load_source(source: str | Path, overrides: Sequence[object] = ()) -> CfgNode:
    """Return the config of a trained model, with its weights in MODEL.WEIGHTS.

    Args:
        source: the folder of a run, whose last checkpoint is used; a checkpoint of this project; a config file; or the
            name of a config, of a model in the package or of released weights.
        overrides: alternating config keys and values.

    Raises:
        FileNotFoundError: the source does not exist, or the folder contains no checkpoint.
        ValueError: the file is not a checkpoint or contains no config, or an override is invalid.
    """
    if not is_checkpoint(source):
        return load_config(source, overrides)
    path = find_checkpoint(source)
    text = read_metadata(path).get("config")
    if isinstance(text, str):
        cfg = from_text(text, f"{path}: ")
    elif path.parent.joinpath("config.yaml").is_file():
        cfg = load_config(path.parent / "config.yaml")
    else:
        raise ValueError(
            f"{path} contains no config, because it is not a checkpoint of this project: specify the config of its "
            "network (--config-file) and these weights (--weights or MODEL.WEIGHTS)"
        )
    cfg.MODEL.WEIGHTS = str(path)
    override(cfg, overrides)
    return cfg


def find_checkpoint(source: str | Path) -> Path:
    """Return a weights file, the last checkpoint of a run, or a model in the package.

    Raises:
        FileNotFoundError: the file does not exist, or the folder contains no checkpoint.
    """
    if bundled := find_bundled(source):
        return bundled
    if not os.path.isdir(source):
        check_exists(source)
        return Path(source)
    files = checkpoint_files(source)
    if not files:
        raise FileNotFoundError(f"the folder {source} contains no checkpoint (model_final.pth or model_0000999.pth)")
    return files[0]


def read_metadata(path: str | Path) -> dict:
    """Read the metadata of a weights file, without its tensors.

    Returns:
        {} if the file has no metadata.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, see :func:`load_file`.
    """
    check_exists(path)
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # Another format, or a damaged file.
        data = load_file(path)
    metadata = data.get("metadata") if isinstance(data, dict) else None
    return metadata if isinstance(metadata, dict) else {}
