"""Weights of others by name: from the cache, or fetched into it, whole and checked or not at all."""

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

from ..paths import cache_folder
from ..trained import find_trained
from .reading import check_exists, load_file

__all__ = ["fetch_from_drive", "fetch_once", "find_trunk", "find_weights"]

# torchvision's names of the classifiers whose trunks the backbones have.
TRUNKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def find_weights(name: str | Path) -> Path:
    """The file that MODEL.WEIGHTS means: the one of this path or, if there is none, of this short name.

    Raises:
        FileNotFoundError: there is no such file, or it cannot be fetched.
    """
    trained = find_trained(name)
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
