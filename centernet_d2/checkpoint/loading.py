"""Weights files: found or downloaded by name, and read without executing anything in them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torchvision
from iopath.common.file_io import file_lock
from torch import Tensor

from ..config.catalog import find_released
from ..utils.files import cache_folder, check_local

__all__ = ["check_exists", "fetch_from_drive", "fetch_once", "find_trunk", "find_weights", "load_file"]

# torchvision's names of the classifiers whose trunks the backbones have.
TRUNKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def find_weights(name: str | Path) -> Path:
    """The file that MODEL.WEIGHTS means: the one of this path or, if there is none, of this short name.

    Raises:
        FileNotFoundError: there is no such file, or it cannot be fetched.
    """
    trained = find_released(name)
    if trained is None:
        check_exists(name)
        return Path(name)
    return fetch_once(trained.url, cache_folder() / trained.file, fetch=fetch_from_drive, page=trained.page)


def find_trunk(name: str | Path) -> Path:
    """The file that MODEL.TRUNK_WEIGHTS means: the one of this path or, if there is none, torchvision's of this name.

    The latter is where torchvision itself would keep it.

    Raises:
        FileNotFoundError: there is no such file, or it cannot be fetched.
    """
    if str(name) not in TRUNKS or Path(name).is_file():
        check_exists(name)
        return Path(name)
    url = torchvision.models.get_model_weights(str(name)).IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    # torchvision's names of files end in the first digits of their sum.
    digits = re.search(r"-([0-9a-f]{8,})\.", path.name)
    fetch = partial(torch.hub.download_url_to_file, hash_prefix=digits and digits[1])
    return fetch_once(url, path, fetch=fetch)


def fetch_once(url: str, path: Path, *, fetch: Callable[[str, str], object], page: str = "") -> Path:
    """The weights file of a path, fetched if it is not there.

    It is fetched into a folder of its own, checked, and moved to its place: nobody sees a part of it. Another process
    that wants it too waits for the first one.

    Args:
        url: where it is.
        path: where it goes.
        fetch: takes URL and path, and writes the file.
        page: that people find it on, by default the URL.

    Raises:
        FileNotFoundError: it cannot be fetched, or what came is no weights; says what to do by hand.
    """
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(path)):
            if not path.is_file():
                _fetch(url, path, fetch)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{path.name} is not here and could not be fetched ({error}): get it from {page or url} "
            f"and save it as {path}"
        ) from error
    return path


def _fetch(url: str, path: Path, fetch: Callable[[str, str], object]) -> None:
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        part = Path(folder, path.name)
        try:
            fetch(url, str(part))
        except Exception as error:  # Of a library that has errors of its own, or of the system.
            raise OSError(textwrap.shorten(str(error), 300) or type(error).__name__) from error
        _check(part)
        part.replace(path)


def _check(part: Path) -> None:
    """Raise a ValueError unless a file has weights."""
    try:
        load_file(part)
    except ValueError as error:
        with open(part, "rb") as file:
            is_page = file.read(512).lstrip().startswith(b"<")
        what = "a web page" if is_page else "no weights, or a part of them"
        raise ValueError(f"what came is {what}, and was deleted") from error


def fetch_from_drive(url: str, path: str) -> None:
    """Write a file of Google Drive to a path, past the page that asks whether a large file is really wanted.

    Raises:
        ModuleNotFoundError: gdown is not installed.
        Exception: of gdown, or of the network.
    """
    try:
        import gdown
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("gdown, which knows Google Drive, is not installed: pip install gdown") from error
    # Nothing is read from or written to a file of cookies.
    gdown.download(url, path, use_cookies=False, timeout=60)


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
