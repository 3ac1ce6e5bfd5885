"""Backbones, point heads and meta-architecture, registered with Detectron2."""

from ..config import dependency as _dependency  # noqa: F401  # Imports Detectron2 without its notices.
from .backbone import DLABackbone, Hourglass, ResNetUpConv, TimmUpConv
from .heads import POINT_HEAD_REGISTRY, Box3DHead, BoxHead, CenterHead, KeypointHead, PointHead
from .meta_arch import CenterNet
from .tta import CenterNetWithTTA

__all__ = [
    "POINT_HEAD_REGISTRY",
    "Box3DHead",
    "BoxHead",
    "CenterHead",
    "CenterNet",
    "CenterNetWithTTA",
    "DLABackbone",
    "Hourglass",
    "KeypointHead",
    "PointHead",
    "ResNetUpConv",
    "TimmUpConv",
]
