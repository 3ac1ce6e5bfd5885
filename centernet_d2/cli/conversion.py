"""Conversion of weights to and from the format of the reference implementation."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from ..checkpoint import check_exists, load_file, original_names, original_state_dict
from ..config import load_config
from ..modeling import CenterNet


def convert(data: dict, names: dict[str, str]) -> dict:
    """Convert the content of a weights file.

    Args:
        data: ``{"model": ...}`` of this project, or ``{"state_dict": ...}`` or a plain state dict of the reference.
        names: tensor name -> name in the reference implementation, see
            :func:`centernet_d2.checkpoint.original_names`.

    Raises:
        ValueError: a tensor has no counterpart.
    """
    if "model" in data:
        rest = {key: value for key, value in data.items() if key != "model"}
        return {**rest, "state_dict": _rename(data["model"], names)}
    rest = {key: value for key, value in data.items() if key != "state_dict"} if "state_dict" in data else {}
    own_names = {original: name for name, original in names.items()}
    return {**rest, "model": _rename(original_state_dict(data), own_names)}


def _rename(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    if unknown := [name for name in state if name not in names]:
        raise ValueError(f"{len(unknown)} tensors do not exist in the model of this config: {', '.join(unknown[:5])}")
    return {names[name]: tensor for name, tensor in state.items()}


def convert_file(args: argparse.Namespace) -> None:
    """Convert the file specified on the command line."""
    if args.output.exists():
        raise FileExistsError(f"{args.output} already exists and is not overwritten; choose another name")
    if not args.output.parent.is_dir():
        raise FileNotFoundError(f"{args.output}: the output folder does not exist")
    check_exists(args.input)
    cfg = load_config(args.config, ["MODEL.DEVICE", "cpu"])
    with torch.device("meta"):  # Only the names are used.
        names = original_names(CenterNet(cfg))
    data = load_file(args.input)
    torch.save(convert(data, names), args.output)
    print(f"saved {args.output} for {'the reference implementation' if 'model' in data else 'this project'}")
