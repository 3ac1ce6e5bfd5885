"""The point heads there are, by name; and how a name of a config finds its entry in a registry."""

from __future__ import annotations

from typing import Any

from detectron2.utils.registry import Registry

__all__ = ["POINT_HEAD_REGISTRY", "lookup"]

POINT_HEAD_REGISTRY = Registry("POINT_HEAD")
POINT_HEAD_REGISTRY.__doc__ = """
Point heads: called as ``head(cfg, input_shape, num_stacks)``, where input_shape is the ShapeSpec of the feature maps.
"""


def lookup(registry: Registry, name: str, key: str) -> Any:
    """An entry of a registry.

    Args:
        registry: where to look.
        name: what to look for.
        key: the config key that names it.

    Raises:
        KeyError: there is none; the message lists those there are.
    """
    if name not in registry:
        known = ", ".join(sorted(entry for entry, _ in registry))
        raise KeyError(f"{key}: there is no '{name}' in the registry {registry._name}; it has: {known}")
    return registry.get(name)
