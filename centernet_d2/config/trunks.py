"""Networks of timm by name: ``timm:NAME`` and the config keys that it stands for."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Any

from ..utils.cli import MissingPackage
from ..utils.validation import ArgumentError
from .arguments import name_keys

__all__ = ["BASE", "check_timm_name", "find_timm", "import_timm", "timm_keys"]

PREFIX = "timm:"
# Config of which "timm:NAME" is a variant.
BASE = "Base-timm.yaml"


def find_timm(name: str | Path) -> str | None:
    """Return NAME for ``timm:NAME``, or None for other names."""
    return str(name)[len(PREFIX) :] if str(name).startswith(PREFIX) else None


def import_timm() -> Any:
    """Import timm, which is not a dependency of this project.

    Raises:
        MissingPackage: timm is not installed.
    """
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise MissingPackage("trunks of timm need the package timm: pip install timm") from error


def check_timm_name(name: str) -> None:
    """Check that timm contains a network.

    Names of hubs and of local folders are refused.

    Raises:
        MissingPackage: timm is not installed.
        ArgumentError: the network does not exist.
    """
    timm = import_timm()
    names = [*timm.list_models(), *timm.list_pretrained()]
    if name in names:
        return
    similar = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {similar[0]}? " if similar else ""
    raise ArgumentError(
        "name", f"is '{name}', which is not a network of timm {timm.__version__}; {hint}timm.list_models() lists all"
    )


def timm_keys(name: str) -> dict[str, object]:
    """Return the config keys of a network: name and image statistics.

    The statistics are those that its weights expect.

    Raises:
        MissingPackage: timm is not installed.
        ValueError: the network does not exist.
    """
    with name_keys({"name": "MODEL.TIMM.NAME"}):
        check_timm_name(name)
    weights = import_timm().get_pretrained_cfg(name)
    return {
        "MODEL.TIMM.NAME": name,
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [round(255 * value, 3) for value in weights.mean],
        "MODEL.PIXEL_STD": [round(255 * value, 3) for value in weights.std],
    }
