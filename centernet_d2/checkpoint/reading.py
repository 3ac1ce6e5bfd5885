"""Weights files, read without ever executing what they say."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..paths import check_local

__all__ = ["check_exists", "load_file"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_exists(path: str | Path) -> None:
    """Raise a FileNotFoundError unless there is a weights file; cheap, so do it before anything is built."""
    check_local(path, "the weights file")
    if Path(path).is_dir():
        raise FileNotFoundError(f"{path} is a folder, not a weights file; name the .pth file in it")
    if not Path(path).is_file():
        raise FileNotFoundError(f"the weights file {path} does not exist")


def load_file(path: str | Path) -> dict:
    """Read a ``.pth`` file of tensors and plain Python values, in today's format or in that of torch 0.4.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a pickle, or holds more than tensors and plain values, or is damaged; or its weights are not
            names with plain, finite tensors.
    """
    check_exists(path)
    if Path(path).suffix in (".pkl", ".pickle"):
        raise ValueError(f"{path} is a pickle, which can execute code when it is read; save it as a .pth state dict")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # The unpickler raises whatever it stumbles over, also an OSError that names no file.
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} is not a file of plain weights: it is damaged, or holds Python objects, which are never loaded. "
            f"Save its state dict alone. ({reason})"
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, not a dict of weights; save the model's state_dict()")
    _check_weights(data, path)
    return data


def _check_weights(data: dict, path: str | Path) -> None:
    """Raise a ValueError unless the weights in a file are names with plain, finite tensors."""
    key = next((key for key in ("model", "state_dict") if key in data), None)
    weights = data if key is None else data[key]
    where = str(path) if key is None else f"'{key}' in {path}"
    advice = "save the model's state_dict()"
    if not isinstance(weights, dict):
        raise ValueError(f"{where} is a {type(weights).__name__}, not a dict of weights; {advice}")
    if not weights:
        raise ValueError(f"{where} has no weights in it; {advice}")
    if unnamed := [name for name in weights if not isinstance(name, str)]:
        raise ValueError(
            f"{where} has {len(unnamed)} keys that are no names of tensors, such as {unnamed[0]!r}; {advice}"
        )
    problems = {name: reason for name, value in weights.items() if (reason := _problem(value))}
    if problems:
        rows = ", ".join(f"{name} ({reason})" for name, reason in list(problems.items())[:3])
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{where}: {len(problems)} of {len(weights)} entries cannot be weights: {rows}{more}. Take another "
            "checkpoint, or save the state_dict() of a model with plain, finite tensors"
        )


def _problem(value: object) -> str:
    """Why something cannot be a weight; "" if it can."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}, no tensor"
    if value.is_quantized or value.layout != torch.strided or value.is_meta:
        return "quantized" if value.is_quantized else "without values" if value.is_meta else "sparse"
    if value.is_complex() or (value.is_floating_point() and value.dtype not in FLOATS):
        return str(value.dtype).removeprefix("torch.")
    wrong = 0 if not value.is_floating_point() else value.numel() - int(value.float().isfinite().sum())
    return f"{wrong} of {value.numel()} values are NaN or infinite" if wrong else ""
