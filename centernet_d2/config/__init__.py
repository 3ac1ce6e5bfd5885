"""Config keys, config loading and the catalog of configs.

Public names are imported on first access, so that :mod:`.catalog` works without torch and Detectron2.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .keys import add_centernet_config
    from .loading import load_config

__all__ = ["add_centernet_config", "load_config"]


def __getattr__(name: str) -> Any:
    """Import a public name on first access (PEP 562), after Detectron2."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(".dependency", __name__)
    return getattr(import_module(f".{'loading' if name == 'load_config' else 'keys'}", __name__), name)
