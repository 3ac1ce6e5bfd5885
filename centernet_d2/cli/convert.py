"""Convert weights between the original's files and ours, either way, without loss.

    centernet-convert INPUT.pth OUTPUT.pth --config COCO-Detection/centernet_DLA_34_2x.yaml

The direction follows from the input. Everything but the names of the tensors stays as it is. Training, evaluation and
prediction read the original's files as they are; this is for other programs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import check_exists, load_file, original_names, original_state_dict
from ..config import load_config
from ..modeling import CenterNet
from ..utils import cli


def convert(data: dict, names: dict[str, str]) -> dict:
    """A file's content -> the same for the other side.

    Args:
        data: ``{"model": ...}`` of ours, or ``{"state_dict": ...}`` or a bare state dict of the original's.
        names: our name -> the original's, see :func:`centernet_d2.checkpoint.original_names`.

    Raises:
        ValueError: a tensor has no counterpart.
    """
    if "model" in data:
        rest = {key: value for key, value in data.items() if key != "model"}
        return {**rest, "state_dict": _rename(data["model"], names)}
    rest = {key: value for key, value in data.items() if key != "state_dict"} if "state_dict" in data else {}
    ours = {original: name for name, original in names.items()}
    return {**rest, "model": _rename(original_state_dict(data), ours)}


def _rename(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    if unknown := [name for name in state if name not in names]:
        raise ValueError(f"{len(unknown)} tensors have no place in this config's model: {', '.join(unknown[:5])}")
    return {names[name]: tensor for name, tensor in state.items()}


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--config", required=True, help="config of the model: a name of the model zoo, or a file")
    return cli.run(parser, convert_file, argv)


def convert_file(args: argparse.Namespace) -> None:
    """Convert the file that a command line names."""
    if args.output.exists():
        raise FileExistsError(f"{args.output} exists already; nothing is overwritten")
    if not args.output.parent.is_dir():
        raise FileNotFoundError(f"{args.output}: its folder does not exist")
    check_exists(args.input)
    cfg = load_config(args.config, ["MODEL.DEVICE", "cpu"])
    with torch.device("meta"):  # only names are needed
        names = original_names(CenterNet(cfg))
    data = load_file(args.input)
    torch.save(convert(data, names), args.output)
    print(f"{args.output}: {'the original' if 'model' in data else 'ours'} now")
