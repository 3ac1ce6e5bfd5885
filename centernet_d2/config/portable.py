"""Conversion of configs to text that makes a checkpoint self-contained."""

from __future__ import annotations

import yaml
from detectron2.config import CfgNode, get_cfg

from ..utils.parsing import parse_yaml
from .loading import default_config, flatten, set_key

__all__ = ["from_text", "to_text"]

# Parts of a config that describe a model and its training, but no dataset.
PARTS = ("MODEL", "INPUT", "TEST", "SOLVER")
# Keys with paths, or of a machine.
EXCLUDED = ("MODEL.WEIGHTS", "MODEL.TRUNK_WEIGHTS", "MODEL.DEVICE")


def to_text(cfg: CfgNode) -> str:
    """Convert a config to YAML, without datasets, paths and device.

    The text contains all keys of this project, and the keys of Detectron2 with other values than its defaults.
    """
    defaults = dict(flatten(get_cfg()))
    keys = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flatten(cfg)
        if key.split(".")[0] in PARTS and key not in EXCLUDED and (key not in defaults or value != defaults[key])
    }
    return yaml.safe_dump(keys, default_flow_style=None, width=120)


def from_text(text: str, where: str) -> CfgNode:
    """Convert the output of :func:`to_text` to a complete config.

    Args:
        text: YAML mapping from dotted keys to values.
        where: start of error messages, such as ``"model.pth: "``.

    Raises:
        ValueError: the text is not a YAML mapping, a key is unknown, or its value has a wrong type.
    """
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{where}its config is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where}its config is a {type(content).__name__}, but must be a mapping")
    cfg = default_config()
    for key, value in flatten(content):
        set_key(cfg, str(key), value, where)
    return cfg
