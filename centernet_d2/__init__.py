"""CenterNet ("Objects as Points", arXiv 1904.07850) as a Detectron2 plugin.

Public names are imported on first access, so ``import centernet_d2`` works without torch and Detectron2. Accessing a
public name, or importing ``centernet_d2.modeling``, registers the meta-architecture, the backbones and the
point heads with Detectron2.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import model_zoo
    from .config import add_centernet_config, load_config
    from .modeling import CenterNet
    from .predictor import Predictor

__version__ = "0.1.0"

__all__ = ["CenterNet", "Predictor", "add_centernet_config", "load_config", "model_zoo"]

# Public name -> module that defines it.
_SOURCES = {
    "CenterNet": "modeling",
    "Predictor": "predictor",
    "add_centernet_config": "config",
    "load_config": "config",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first access (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(".modeling", __name__)  # Registers everything with Detectron2.
    if name not in _SOURCES:
        return import_module(f".{name}", __name__)
    return getattr(import_module(f".{_SOURCES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
