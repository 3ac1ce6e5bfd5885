"""Registry of point heads, and registry lookup."""

from __future__ import annotations

from typing import Any

from detectron2.utils.registry import Registry

__all__ = ["POINT_HEAD_REGISTRY", "lookup"]

POINT_HEAD_REGISTRY = Registry("POINT_HEAD")
POINT_HEAD_REGISTRY.__doc__ = """
Point heads, which are called as ``head(cfg, input_shape, num_stacks)``; `input_shape` is the ShapeSpec of the features.
"""


def lookup(registry: Registry, name: str, key: str) -> Any:
    """Return an entry of a registry.

    Args:
        registry: registry to search.
        name: name of the entry.
        key: config key that contains the name.

    Raises:
        KeyError: the name is not registered; the message lists the registered names.
    """
    if name not in registry:
        known = ", ".join(sorted(entry for entry, _ in registry))
        raise KeyError(f"{key}: '{name}' is not registered in {registry._name}; registered names: {known}")
    return registry.get(name)
