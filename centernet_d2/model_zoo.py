"""The project's configs, found wherever the package is installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .modeling import CenterNet

__all__ = ["available", "get", "get_config_file"]


def _root() -> Path:
    """The folder of the configs: installed as centernet_d2.configs, or beside the package in a plain checkout."""
    try:
        from . import configs
    except ImportError:
        return Path(__file__).resolve().parent.parent / "configs"
    return Path(configs.__file__).parent


def available() -> list[str]:
    """Names of all configs, such as ``"COCO-Detection/centernet_R_18_1x.yaml"``."""
    root = _root()
    return sorted(path.relative_to(root).as_posix() for path in root.glob("*/*.yaml"))


def get_config_file(name: str) -> str:
    """Path of a config of the model zoo.

    Raises:
        FileNotFoundError: there is none of this name.
    """
    if name not in available():
        known = "\n  ".join(available())
        raise FileNotFoundError(f"there is no config '{name}'; the model zoo has:\n  {known}")
    return str(_root() / name)


def get(name: str, weights: str | Path = "", device: str | None = None) -> CenterNet:
    """Build the model of a config, in evaluation mode.

    Args:
        name: one of :func:`available`.
        weights: file to load, of ours or of the original's authors; without one the model has random weights.
        device: where the model goes; by default what the config says.

    Raises:
        FileNotFoundError: there is no such config, or no such file.
        ValueError: the weights do not fit the model.
    """
    from detectron2.modeling import build_model

    from .checkpoint import CenterNetCheckpointer
    from .config import load_config

    model = build_model(load_config(get_config_file(name), ["MODEL.DEVICE", device] if device else [])).eval()
    CenterNetCheckpointer(model).load(str(weights))
    return model
