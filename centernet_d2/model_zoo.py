"""Model zoo: configs of the project, and trained models."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode, LazyConfig
from detectron2.modeling import build_model
from omegaconf import DictConfig

from .checkpoint import CenterNetCheckpointer, load_source
from .config.catalog import RELEASED, available, find_bundled, find_released, get_config_file
from .config.loading import load_config
from .modeling import CenterNet

__all__ = ["available", "get", "get_config", "get_config_file"]


def get_config(name: str, *, trained: bool = False) -> CfgNode | DictConfig:
    """Return a config by name, like Detectron2's model zoo.

    Args:
        name: one of :func:`available`. Names of ``available(".py")`` return LazyConfigs; configs of
            ``available(trained=True)`` have the weights in MODEL.WEIGHTS.
        trained: set MODEL.WEIGHTS to the weights released with the reference implementation, which are downloaded when
            they are loaded.

    Raises:
        FileNotFoundError: the config does not exist.
        ValueError: no weights are released for this config.
    """
    if find_bundled(name):
        return load_source(name)
    path = get_config_file(name)
    overrides = ["MODEL.WEIGHTS", _trained_name(name)] if trained else []
    return LazyConfig.load(path) if path.endswith(".py") else load_config(name, overrides)


def get(name: str, weights: str | Path = "", device: str | None = None, *, trained: bool = False) -> CenterNet:
    """Build the model of a config, in evaluation mode.

    Args:
        name: one of :func:`available`, or the path of a config file.
        weights: weights file of this project or of the reference implementation. By default, the weights are random,
            unless `name` is one of ``available(trained=True)``.
        device: device of the model; by default MODEL.DEVICE of the config.
        trained: load the weights released with the reference implementation.

    Raises:
        FileNotFoundError: the config or the weights file does not exist, or the weights cannot be downloaded.
        ValueError: the weights do not match the model, or no weights are released for this config.
    """
    if trained and weights:
        raise ValueError(f"trained=True loads released weights, but weights is '{weights}': set only one of them")
    overrides = ["MODEL.DEVICE", device] if device else []
    if find_bundled(name):
        cfg, weights = load_source(name, overrides), weights or name
    else:
        cfg = load_config(name, overrides)
    if trained or find_released(name):
        weights = weights or _trained_name(name)
    model = build_model(cfg).eval()
    CenterNetCheckpointer(model).load(str(weights))
    return model


def _trained_name(name: str) -> str:
    """Return the short name of the weights released for a config, which may be the name itself."""
    names = [weights.name for weights in RELEASED if name in (weights.name, weights.config)]
    if not names:
        raise ValueError(
            f"no released weights exist for {name}; available weights: {', '.join(available(trained=True))}"
        )
    return names[0]
