"""Location, download and safe reading of weights files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import torch
import torchvision
from iopath.common.file_io import file_lock
from torch import Tensor

from ..config.catalog import find_bundled, find_released
from ..utils.cli import MissingPackage
from ..utils.files import cache_folder, check_local
from .integrity import check_checksums, check_hash, check_sizes

__all__ = ["check_exists", "fetch_from_drive", "fetch_once", "find_trunk", "find_weights", "load_file"]

# Classifiers of torchvision whose weights initialize the trunk of a backbone, by their name in torchvision.
TRUNKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def find_weights(name: str | Path) -> Path:
    """Return the weights file for a value of MODEL.WEIGHTS.

    Args:
        name: path of a file, or a short name of the model zoo. Released weights are downloaded to the cache.

    Raises:
        FileNotFoundError: the file does not exist, or cannot be downloaded.
    """
    if bundled := find_bundled(name):
        return bundled
    trained = find_released(name)
    if trained is None:
        check_exists(name)
        return Path(name)
    return fetch_once(trained.url, cache_folder() / trained.file, fetch=fetch_from_drive, page=trained.page)


def find_trunk(name: str | Path) -> Path:
    """Return the weights file for a value of MODEL.TRUNK_WEIGHTS.

    Args:
        name: path of a file, or a name in TRUNKS, which is downloaded to the cache of torchvision.

    Raises:
        FileNotFoundError: the file does not exist, or cannot be downloaded.
    """
    if str(name) not in TRUNKS or Path(name).is_file():
        check_exists(name)
        return Path(name)
    url = torchvision.models.get_model_weights(str(name)).IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    # File names of torchvision end with the first digits of the SHA-256 hash.
    digits = re.search(r"-([0-9a-f]{8,})\.", path.name)
    fetch = partial(torch.hub.download_url_to_file, hash_prefix=digits and digits[1])
    return fetch_once(url, path, fetch=fetch)


def fetch_once(url: str, path: Path, *, fetch: Callable[[str, str], object], page: str = "") -> Path:
    """Download a weights file, unless it exists.

    The file is downloaded to a temporary folder, validated and renamed, so that incomplete files are never visible.
    Concurrent processes wait for the first one.

    Args:
        url: address of the file.
        path: local path of the file.
        fetch: function (url, path) that downloads the file.
        page: web page of the file for the error message; by default the URL.

    Returns:
        The path.

    Raises:
        FileNotFoundError: the download failed, or is not a weights file. The message describes the manual download.
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
            f"{path.name} does not exist and could not be downloaded ({error}): download it from {page or url} "
            f"and save it as {path}"
        ) from error
    return path


def _fetch(url: str, path: Path, fetch: Callable[[str, str], object]) -> None:
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        part = Path(folder, path.name)
        try:
            fetch(url, str(part))
        except Exception as error:  # gdown raises exceptions of its own.
            raise OSError(_network_problem(error, url)) from error
        _check(part)
        part.replace(path)


def _network_problem(error: Exception, url: str) -> str:
    # Names, because requests and urllib, which may be used by gdown, have classes of their own.
    if type(error).__name__ in ("ConnectionError", "ConnectTimeout", "ProxyError", "SSLError", "URLError"):
        return f"no connection to {urlsplit(url).hostname}"
    return textwrap.shorten(str(error), 300) or type(error).__name__


def _check(part: Path) -> None:
    """Raise a ValueError if a downloaded file is not a weights file."""
    try:
        load_file(part)
    except ValueError as error:
        with open(part, "rb") as file:
            is_page = file.read(512).lstrip().startswith(b"<")
        content = "a web page instead of weights" if is_page else "an incomplete or invalid weights file"
        raise ValueError(f"the server returned {content}; the file was deleted") from error


def fetch_from_drive(url: str, path: str) -> None:
    """Download a file from Google Drive and confirm its warning page for large files.

    Raises:
        ModuleNotFoundError: gdown is not installed.
        Exception: gdown or the network failed.
    """
    try:
        import gdown
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("downloads from Google Drive need gdown: pip install gdown") from error
    # Without cookies, gdown reads and writes no file in the home folder.
    gdown.download(url, path, use_cookies=False, timeout=60)


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_exists(path: str | Path) -> None:
    """Raise a FileNotFoundError if a weights file does not exist.

    The check is cheap: call it before building a model.
    """
    check_local(path, "the weights file")
    if Path(path).is_dir():
        raise FileNotFoundError(f"{path} is a folder, not a weights file: set the path to a .pth file in it")
    if not Path(path).is_file():
        raise FileNotFoundError(f"the weights file {path} does not exist")


def load_file(path: str | Path, *, verify: bool = False) -> dict:
    """Read a ``.pth`` or ``.safetensors`` file without executing code.

    Both the current zip format and the format of torch 0.4 are supported. The hash of a file of this project is
    verified.

    Args:
        path: path of the file.
        verify: verify the CRC-32 checksums of a file without a hash.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, is a pickle, or contains other objects than tensors and plain Python values;
            it declares much more data than it contains; or its weights are not a dict from names to dense, finite
            tensors.
    """
    check_exists(path)
    if Path(path).suffix in (".pkl", ".pickle"):
        raise ValueError(
            f"{path} is a pickle, which can execute code when it is loaded: save the state dict as a .pth file"
        )
    if not check_hash(path) and verify:
        check_checksums(path)
    try:
        check_sizes(path)
        data = _read(path)
    except MissingPackage:
        raise
    except Exception as error:  # The unpickler raises many types, including OSError without a file name.
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} is not a valid weights file: it is damaged, or contains Python objects, which are not loaded. "
            f"Save only its state dict. ({reason})"
        ) from error
    if not isinstance(data, dict):
        raise ValueError(
            f"{path} contains a {type(data).__name__}, not a dict of weights: save the model's state_dict()"
        )
    _check_weights(data, path)
    return data


def _read(path: str | Path) -> object:
    if Path(path).suffix != ".safetensors":
        return torch.load(path, map_location="cpu", weights_only=True)
    try:
        from safetensors.torch import load_file as load_safetensors
    except ModuleNotFoundError as error:
        raise MissingPackage(f"{path} needs the package safetensors: pip install safetensors") from error
    return load_safetensors(path)


def _check_weights(data: dict, path: str | Path) -> None:
    """Raise a ValueError unless the weights are a dict from names to dense, finite tensors."""
    key = next((key for key in ("model", "state_dict") if key in data), None)
    weights = data if key is None else data[key]
    where = str(path) if key is None else f"'{key}' in {path}"
    advice = "save the model's state_dict()"
    if not isinstance(weights, dict):
        raise ValueError(f"{where} is a {type(weights).__name__}, not a dict of weights: {advice}")
    if not weights:
        raise ValueError(f"{where} contains no weights: {advice}")
    if unnamed := [name for name in weights if not isinstance(name, str)]:
        raise ValueError(f"{where} has {len(unnamed)} keys that are not strings, for example {unnamed[0]!r}: {advice}")
    check_sizes(path, [value for value in weights.values() if isinstance(value, Tensor) and _is_dense(value)])
    problems = {name: reason for name, value in weights.items() if (reason := _problem(value))}
    if problems:
        rows = ", ".join(f"{name} ({reason})" for name, reason in list(problems.items())[:3])
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{where}: {len(problems)} of {len(weights)} entries are not valid weights: {rows}{more}. Use another "
            "checkpoint, or save the state_dict() of a model with dense, finite tensors"
        )


def _is_dense(value: Tensor) -> bool:
    return not (value.is_quantized or value.layout != torch.strided or value.is_meta)


def _problem(value: object) -> str:
    """Return the reason why a value is not a valid weight, or "" if it is valid."""
    if not isinstance(value, Tensor):
        return f"{type(value).__name__} instead of a tensor"
    if not _is_dense(value):
        return "quantized" if value.is_quantized else "without values" if value.is_meta else "sparse"
    if value.is_complex() or (value.is_floating_point() and value.dtype not in FLOATS):
        return str(value.dtype).removeprefix("torch.")
    wrong = 0 if not value.is_floating_point() else value.numel() - int(value.float().isfinite().sum())
    return f"{wrong} of {value.numel()} values are NaN or infinite" if wrong else ""
