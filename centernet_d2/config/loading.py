"""Reading of config files: strict, without YAML tags, with errors that name the file and the key."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from ..utils.files import check_local
from .catalog import find_base, find_config, find_trained
from .keys import add_centernet_config

__all__ = ["check_device", "default_config", "flatten", "load_config", "override"]


def check_device(name: str) -> None:
    """Raise a ValueError if MODEL.DEVICE is no device, or a GPU that torch does not see."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"MODEL.DEVICE is '{name}', which is no device; use cpu, cuda or cuda:1") from error
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        raise ValueError(
            f"MODEL.DEVICE is '{name}', but torch sees no GPU: set MODEL.DEVICE cpu (for demo.py: --device cpu)"
        )
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ValueError(f"MODEL.DEVICE is '{name}', but torch sees {torch.cuda.device_count()} GPUs, from cuda:0")


def load_config(config_file: str | Path, overrides: Sequence[object] = ()) -> CfgNode:
    """Read a config file with its ``_BASE_`` chain on top of the defaults.

    Unlike ``CfgNode.merge_from_file`` it never executes YAML tags, and its errors name the file that has the mistake.

    Args:
        config_file: path of a ``.yaml`` file, or the name of one in the model zoo; or the short name of weights of the
            original's authors, for the config that they fit with MODEL.WEIGHTS set to that name.
        overrides: alternating keys and values, as on the command line.

    Raises:
        FileNotFoundError: the file or a ``_BASE_`` does not exist.
        ValueError: a file is not YAML, not a mapping or its own ``_BASE_``; a key is unknown, or its value has another
            type than the default.
    """
    cfg = default_config()
    check_local(config_file, "the config file")
    _merge_file(cfg, find_config(config_file))
    if trained := find_trained(config_file):
        cfg.MODEL.WEIGHTS = trained.name
    override(cfg, overrides)
    return cfg


def default_config() -> CfgNode:
    """Return the defaults of Detectron2 with the keys of this project; no file is read."""
    cfg = get_cfg()
    add_centernet_config(cfg)
    return cfg


def override(cfg: CfgNode, overrides: Sequence[object]) -> None:
    """Set config keys from alternating keys and values, as on the command line.

    Raises:
        ValueError: a key is unknown or has no value, or its value has another type than the default.
    """
    if len(overrides) % 2:
        raise ValueError(f"config overrides are pairs of KEY and VALUE, but '{overrides[-1]}' has no value")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        _set(cfg, str(key), value, "")


def flatten(node: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested mappings -> dotted keys and values."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _merge_file(cfg: CfgNode, path: Path, above: tuple[Path, ...] = ()) -> None:
    """Merge a file behind its ``_BASE_``; `above` are the files that have it as theirs, from the first on."""
    chain = (*above, path)
    if path.resolve() in [other.resolve() for other in above]:
        raise ValueError(f"config file {path} is its own _BASE_: {' -> '.join(map(str, chain))}")
    if not path.is_file():
        raise FileNotFoundError(f"config file {path}, the _BASE_ of {above[-1]}, does not exist")
    content = _read_file(path)
    bases = content.pop("_BASE_", [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise ValueError(f"config file {path}: _BASE_ is {bases!r}, but must be a path or a list of paths")
        check_local(base, f"config file {path}: the _BASE_")
        _merge_file(cfg, find_base(path, base), chain)
    for key, value in flatten(content):
        _set(cfg, key, value, f"config file {path}: ")


def _read_file(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # the latter: no text, or an impossible date
        raise ValueError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        raise ValueError(f"config file {path} is empty; it needs at least a _BASE_")
    if not isinstance(content, dict):
        raise ValueError(f"config file {path} holds a {type(content).__name__}, but must hold keys and values")
    version = content.get("VERSION", 2)
    if version != 2:
        raise ValueError(f"config file {path}: VERSION is {version!r}, but must be 2")
    return content


def _hint(cfg: CfgNode, key: str) -> str:
    """What may be meant by a key that is not there."""
    *nodes, _ = key.split(".")
    if nodes[:2] == ["MODEL", "CENTERNET"] and len(nodes) == 3 and nodes[2] not in cfg.MODEL.CENTERNET:
        others = [name for name, value in cfg.MODEL.CENTERNET.items() if isinstance(value, CfgNode)]
        close = difflib.get_close_matches(nodes[2], others, n=1)
        mine = "the keys of a head of your own come with its file: --import FILE"
        return f"; did you mean MODEL.CENTERNET.{close[0]}? Else, {mine}" if close else f"; {mine}"
    close = difflib.get_close_matches(key, [name for name, _ in flatten(cfg)], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _set(cfg: CfgNode, key: str, value: object, where: str) -> None:
    """Set one key; `where` is the prefix of error messages."""
    try:
        default = reduce(operator.getitem, key.split("."), cfg)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where}there is no key {key}{_hint(cfg, key)}") from error
    if isinstance(default, CfgNode):
        raise ValueError(f"{where}{key} is {value!r}, but is a group of keys: {', '.join(list(default)[:5])}, ...")
    wanted = f"{where}{key} is {value!r}, but must be of type {type(default).__name__}, such as {default!r}"
    try:
        cfg.merge_from_list([key, value])
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(wanted) from error
    if reduce(operator.getitem, key.split("."), cfg) is None and default is not None:  # yacs takes it for any type
        raise ValueError(wanted)
