"""Strict config loading: no YAML tags, and errors that name the file and the key."""

from __future__ import annotations

import difflib
import operator
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg

from ..utils.files import check_local, read_regular
from ..utils.parsing import parse_yaml
from ..utils.text import shown
from .catalog import find_base, find_config, find_released, get_base_file
from .keys import SWITCHES, add_centernet_config
from .trunks import BASE, find_timm, timm_keys

__all__ = ["check_device", "check_overrides", "default_config", "flatten", "load_config", "override", "set_key"]


def check_device(name: str) -> None:
    """Raise a ValueError if MODEL.DEVICE is invalid or a GPU that is not available."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"MODEL.DEVICE is '{name}', which is not a device; use cpu, cuda or cuda:1") from error
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        raise ValueError(
            f"MODEL.DEVICE is '{name}', but no GPU is available: set MODEL.DEVICE cpu (demo.py: --device cpu)"
        )
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ValueError(
            f"MODEL.DEVICE is '{name}', but only {torch.cuda.device_count()} GPUs are visible (indices start at 0)"
        )


def load_config(config_file: str | Path, overrides: Sequence[object] = ()) -> CfgNode:
    """Load a config file with its ``_BASE_`` files on top of the defaults.

    Unlike ``CfgNode.merge_from_file``, this function never executes YAML tags, and its errors name the file.

    Args:
        config_file: path of a ``.yaml`` file, a config of the model zoo, the short name of released weights, which
            selects the matching config and sets MODEL.WEIGHTS, or ``timm:NAME`` for a network of timm.
        overrides: alternating keys and values, as on the command line.

    Raises:
        FileNotFoundError: the file or a ``_BASE_`` does not exist.
        ValueError: a file is not a YAML mapping, or its ``_BASE_`` chain is circular; a key is unknown, or its value
            does not have the type of the default.
    """
    cfg = default_config()
    check_local(config_file, "the config file")
    timm_name = find_timm(config_file)
    _merge_file(cfg, find_config(config_file) if timm_name is None else get_base_file(BASE))
    if timm_name is not None:
        for key, value in timm_keys(timm_name).items():
            set_key(cfg, key, value, f"{config_file}: ")
    if released := find_released(config_file):
        cfg.MODEL.WEIGHTS = released.name
    override(cfg, overrides)
    return cfg


def default_config() -> CfgNode:
    """Return Detectron2's default config with the keys of this project."""
    cfg = get_cfg()
    add_centernet_config(cfg)
    return cfg


def override(cfg: CfgNode, overrides: Sequence[object]) -> None:
    """Set config keys from alternating keys and values, as on the command line.

    Raises:
        ValueError: a key is unknown or has no value, its value does not have the type of the default, or an option of
            the command line follows the keys.
    """
    check_overrides(overrides)
    if len(overrides) % 2:
        raise ValueError(f"config overrides must be pairs of KEY and VALUE, but '{overrides[-1]}' has no value")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        set_key(cfg, str(key), value, "")


def check_overrides(overrides: Sequence[object]) -> None:
    """Raise a ValueError if config overrides contain a command-line option."""
    for option in overrides:
        if isinstance(option, str) and re.match("--[a-z]", option):
            raise ValueError(f"{option.split('=')[0]} after KEY VALUE pairs: put options first")


def flatten(node: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted keys and the values of nested mappings."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _merge_file(cfg: CfgNode, path: Path, above: tuple[Path, ...] = ()) -> None:
    """Merge a file after its ``_BASE_`` files; `above` is the chain of files that led to it, outermost first."""
    chain = (*above, path)
    if not os.path.isfile(path):  # Path.is_file raises for names that are too long.
        raise FileNotFoundError(f"config file {path}, the _BASE_ of {above[-1]}, does not exist")
    if path.resolve() in [other.resolve() for other in above]:
        raise ValueError(f"config file {path} has a circular _BASE_: {' -> '.join(map(str, chain))}")
    content = _read_file(path)
    bases = content.pop("_BASE_", [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise ValueError(f"config file {path}: _BASE_ is {shown(bases)}, but must be a path or a list of paths")
        check_local(base, f"config file {path}: the _BASE_")
        _merge_file(cfg, find_base(path, base), chain)
    for key, value in flatten(content):
        set_key(cfg, key, value, f"config file {path}: ")


def _read_file(path: Path) -> dict:
    try:
        content = parse_yaml(read_regular(path).decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"config file {path} is not valid YAML: {error}") from error
    if content is None:
        raise ValueError(f"config file {path} is empty; it must contain at least a _BASE_")
    if not isinstance(content, dict):
        raise ValueError(f"config file {path} contains a {type(content).__name__}, but must contain a mapping")
    version = content.get("VERSION", 2)
    if version != 2:
        raise ValueError(f"config file {path}: VERSION is {shown(version)}, but must be 2")
    return content


def _hint(cfg: CfgNode, key: str) -> str:
    """Return a suggestion for an unknown key."""
    *nodes, _ = key.split(".")
    if nodes[:2] == ["MODEL", "CENTERNET"] and len(nodes) == 3 and nodes[2] not in cfg.MODEL.CENTERNET:
        others = [name for name, value in cfg.MODEL.CENTERNET.items() if isinstance(value, CfgNode)]
        close = difflib.get_close_matches(nodes[2], others, n=1)
        custom = "for keys of a custom head, import its module with --import FILE"
        return f"; did you mean MODEL.CENTERNET.{close[0]}? Otherwise, {custom}" if close else f"; {custom}"
    close = difflib.get_close_matches(key, [name for name, _ in flatten(cfg)], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def set_key(cfg: CfgNode, key: str, value: object, where: str) -> None:
    """Set one key; error messages start with `where`."""
    try:
        default = reduce(operator.getitem, key.split("."), cfg)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where}there is no key {key if len(key) < 200 else shown(key)}{_hint(cfg, key)}") from error
    if isinstance(default, CfgNode):
        raise ValueError(f"{where}{key} is {shown(value)}, but is a group of keys: {', '.join(list(default)[:5])}, ...")
    switch = key in SWITCHES
    kind = "True, False or 'auto'" if switch else f"of type {type(default).__name__}, such as {default!r}"
    message = f"{where}{key} is {shown(value)}, but must be {kind}"
    if switch:  # yacs replaces None by a value of any type.
        *nodes, name = key.split(".")
        reduce(operator.getitem, nodes, cfg)[name] = None
    try:
        cfg.merge_from_list([key, value])
    except (AssertionError, MemoryError, RecursionError, TypeError, ValueError) as error:  # yacs evaluates literals.
        raise ValueError(message) from error
    found = reduce(operator.getitem, key.split("."), cfg)
    if (found is None and default is not None) or (switch and not isinstance(found, bool) and found != "auto"):
        raise ValueError(message)
