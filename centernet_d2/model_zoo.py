"""The project's configs, and the models they describe."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode, LazyConfig
from detectron2.modeling import build_model
from omegaconf import DictConfig

from .checkpoint import CenterNetCheckpointer
from .config.catalog import TRAINED, available, find_trained, get_config_file
from .config.loading import load_config
from .modeling import CenterNet

__all__ = ["available", "get", "get_config", "get_config_file"]


def get_config(name: str, *, trained: bool = False) -> CfgNode | DictConfig:
    """The config of a name, as in Detectron2's model zoo.

    Args:
        name: one of :func:`available`; those of ``available(".py")`` are LazyConfigs, and those of
            ``available(trained=True)`` have weights without being told.
        trained: set MODEL.WEIGHTS to the weights of the original's authors, which are fetched where they are read.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: there are no such weights.
    """
    path = get_config_file(name)
    overrides = ["MODEL.WEIGHTS", _trained_name(name)] if trained else []
    return LazyConfig.load(path) if path.endswith(".py") else load_config(name, overrides)


def get(name: str, weights: str | Path = "", device: str | None = None, *, trained: bool = False) -> CenterNet:
    """Build the model of a config, in evaluation mode.

    Args:
        name: one of :func:`available`, or the path of a file.
        weights: file to load, of ours or of the original's authors; without one, the model has random weights
            unless the name is that of some.
        device: where the model goes; by default what the config says.
        trained: load the weights of the original's authors.

    Raises:
        FileNotFoundError: there is no such config, or no such file, or it cannot be fetched.
        ValueError: the weights do not fit the model, or there are none.
    """
    if trained and weights:
        raise ValueError(f"trained means weights of the original's authors, but {weights} are given: give one of them")
    if trained or find_trained(name):
        weights = weights or _trained_name(name)
    model = build_model(load_config(name, ["MODEL.DEVICE", device] if device else [])).eval()
    CenterNetCheckpointer(model).load(str(weights))
    return model


def _trained_name(name: str) -> str:
    """The short name of the weights that the original's authors released for a config, or for itself."""
    found = [one.name for one in TRAINED if name in (one.name, one.config)]
    if not found:
        raise ValueError(
            f"the original's authors released no weights for {name}; there are: {', '.join(available(trained=True))}"
        )
    return found[0]
