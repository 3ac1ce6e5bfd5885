"""The project's configs, and the models they describe."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode, LazyConfig
from detectron2.modeling import build_model
from omegaconf import DictConfig

from .checkpoint import CenterNetCheckpointer
from .config import load_config
from .config_files import available, get_config_file
from .modeling import CenterNet

__all__ = ["available", "get", "get_config", "get_config_file"]


def get_config(name: str) -> CfgNode | DictConfig:
    """The config of a name, as in Detectron2's model zoo; weights are set in it by their file.

    Args:
        name: one of :func:`available`; those of ``available(".py")`` are LazyConfigs.

    Raises:
        FileNotFoundError: there is no such config.
    """
    path = get_config_file(name)
    return LazyConfig.load(path) if path.endswith(".py") else load_config(path)


def get(name: str, weights: str | Path = "", device: str | None = None) -> CenterNet:
    """Build the model of a config, in evaluation mode.

    Args:
        name: one of :func:`available`, or the path of a file.
        weights: file to load, of ours or of the original's authors; without one the model has random weights.
        device: where the model goes; by default what the config says.

    Raises:
        FileNotFoundError: there is no such config, or no such file.
        ValueError: the weights do not fit the model.
    """
    model = build_model(load_config(name, ["MODEL.DEVICE", device] if device else [])).eval()
    CenterNetCheckpointer(model).load(str(weights))
    return model
