"""The heads and the properties that a config names."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from ...config.arguments import name_keys
from ...config.registry import POINT_HEAD_REGISTRY, lookup
from .point_head import PointHead, Property, build_property

__all__ = ["build_point_heads", "build_properties", "heads_provide"]


def head_types(cfg: CfgNode) -> list[type[PointHead]]:
    """The classes that ``MODEL.CENTERNET.HEADS`` names, in order.

    Raises:
        KeyError: there is none of such a name.
    """
    names = cfg.MODEL.CENTERNET.HEADS
    return [lookup(POINT_HEAD_REGISTRY, name, "MODEL.CENTERNET.HEADS") for name in names]


def build_point_heads(cfg: CfgNode, input_shape: ShapeSpec, num_stacks: int) -> list[PointHead]:
    """Build the heads of ``MODEL.CENTERNET.HEADS``, in order; errors about their arguments name the config keys."""
    heads = []
    for head in head_types(cfg):
        with name_keys({**head.common_keys, **head.keys}):
            # @configurable is untyped: the constructor also takes a config.
            heads.append(head(cfg, input_shape, num_stacks))  # type: ignore[misc]
    return heads


def build_properties(cfg: CfgNode) -> list[Property]:
    """The properties of ``MODEL.CENTERNET.HEADS``, in order; no network is built."""
    return [build_property(head.property_type, cfg) for head in head_types(cfg)]


def heads_provide(cfg: CfgNode, field: str) -> bool:
    """Whether a head of the config decodes a field, such as "boxes"."""
    return any(field in head.provides for head in head_types(cfg))
