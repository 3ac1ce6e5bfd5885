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
    """Turn errors about arguments into errors about the config keys that supplied them.

    Args:
        keys: argument -> config key.

    Raises:
        ValueError: an argument of the table is invalid.
    """
    try:
        yield
    except ArgumentError as error:
        if error.argument not in keys:
            raise
        raise ValueError(f"{keys[error.argument]} {error.problem}") from error


def build_from_keys(build: Callable[..., T], cfg: CfgNode, keys: Mapping[str, str]) -> T:
    """Call a constructor with arguments from a config; an error names the config key."""
    with name_keys(keys):
        return build(**read_keys(cfg, keys))


def configurable(init: Callable[..., None]) -> Any:
    """Decorate ``__init__`` like Detectron2's ``configurable``; errors name config keys if a config is passed.

    The class attribute ``keys`` maps arguments to config keys. Heads, properties and backbones are built by functions
    that already name keys, and use Detectron2's decorator.
    """
    wrapped = detectron2_configurable(init)

    @functools.wraps(init)
    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        from_config = any(isinstance(value, CfgNode) for value in (*args[:1], kwargs.get("cfg")))
        with name_keys(type(self).keys if from_config else {}):
            wrapped(self, *args, **kwargs)

    return build
