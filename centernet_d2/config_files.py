"""The project's config files, found wherever the package is installed."""

from __future__ import annotations

import difflib
from pathlib import Path

from .trained import TRAINED, find_trained

__all__ = ["available", "find_base", "find_config", "get_base_file", "get_config_file"]


def _root() -> Path:
    """The folder of the configs: installed as centernet_d2.configs, or beside the package in a plain checkout."""
    try:
        from . import configs  # type: ignore[attr-defined]  # It is there once the package is installed.
    except ImportError:
        return Path(__file__).resolve().parent.parent / "configs"
    return Path(configs.__file__).parent


def available(suffix: str = ".yaml", *, trained: bool = False) -> list[str]:
    """Names of all configs, such as ``"COCO-Detection/centernet_R_18_1x.yaml"``.

    Args:
        suffix: ".py" for those in Detectron2's LazyConfig, such as ``"lazy/centernet_R_18_1x.py"``.
        trained: instead, the short names of configs with weights of the original's authors, such as ``"dla34-coco"``.
    """
    if trained:
        return [one.name for one in TRAINED]
    root = _root()
    return sorted(path.relative_to(root).as_posix() for path in root.glob(f"*/*{suffix}"))


def get_config_file(name: str) -> str:
    """Path of a config of the model zoo, also by the short name of weights that fit it.

    Raises:
        FileNotFoundError: there is none of this name.
    """
    if trained := find_trained(name):
        name = trained.config
    known = [*available(), *available(".py")]
    if name not in known:
        names = "\n  ".join([*known, *available(trained=True)])
        raise FileNotFoundError(f"there is no config '{name}'; the model zoo has:\n  {names}")
    return str(_root() / name)


def get_base_file(name: str) -> Path:
    """A config that others start from, such as ``"Base-HG-small.yaml"``."""
    return _root() / name


def find_base(config: Path, base: str) -> Path:
    """The file that a ``_BASE_`` names: from the folder of the config, or else among the project's own."""
    named, ours = config.parent / Path(base).expanduser(), _root() / base
    return ours if not named.is_file() and ours.is_file() else named


def find_config(name: str | Path) -> Path:
    """The file of this path or, if there is none, the config of the model zoo of this name or short name.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: it is a LazyConfig, which is a program.
    """
    if Path(name).suffix == ".py":
        raise ValueError(f"config file {name} is a LazyConfig; a YAML file is needed here (docs/python.md)")
    if Path(name).is_file():
        return Path(name)
    if str(name) in available() or find_trained(name):
        return Path(get_config_file(str(name)))
    alike = difflib.get_close_matches(str(name), [*available(), *available(trained=True)], 1)
    hint = f"did you mean {alike[0]}?" if alike else "centernet_d2.model_zoo.available() lists ours"
    raise FileNotFoundError(f"config file {name} does not exist; {hint}")
