"""Config keys that supply the arguments of constructors."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from detectron2.config import CfgNode
from detectron2.config import configurable as detectron2_configurable

from ..utils.validation import ArgumentError

__all__ = ["build_from_keys", "configurable", "get_value", "name_keys", "read_keys"]

T = TypeVar("T")


def get_value(cfg: CfgNode, key: str) -> Any:
    """Return the value of a dotted key."""
    return functools.reduce(operator.getitem, key.split("."), cfg)


def read_keys(cfg: CfgNode, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return arguments by name, read from the config keys that supply them."""
    return {argument: get_value(cfg, key) for argument, key in keys.items()}


@contextmanager
def name_keys(keys: Mapping[str, str]) -> Iterator[None]:
    """Convert errors about arguments to errors about the corresponding config keys.

    Args:
        keys: argument -> config key.

    Raises:
        ValueError: an argument in `keys` is invalid.
    """
    try:
        yield
    except ArgumentError as error:
        if error.argument not in keys:
            raise
        raise ValueError(f"{keys[error.argument]} {error.problem}") from error


def build_from_keys(build: Callable[..., T], cfg: CfgNode, keys: Mapping[str, str]) -> T:
    """Call a constructor with arguments from a config; errors name the config key."""
    with name_keys(keys):
        return build(**read_keys(cfg, keys))


def configurable(init: Callable[..., None]) -> Any:
    """Wrap ``__init__`` like Detectron2's ``configurable``; errors name config keys.

    The class attribute ``keys`` maps arguments to config keys; errors name keys only if the object is built from a
    config. Heads, properties and backbones use Detectron2's decorator, because the functions that build them already
    name the keys.
    """
    wrapped = detectron2_configurable(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        from_config = any(isinstance(value, CfgNode) for value in (*args[:1], kwargs.get("cfg")))
        with name_keys(type(self).keys if from_config else {}):
            wrapped(self, *args, **kwargs)

    return wrapper
