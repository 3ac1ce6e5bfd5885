from .backbone import DLABackbone, Hourglass, ResNetUpConv
from .heads import POINT_HEAD_REGISTRY, BoxHead, CenterHead, PointHead
from .meta_arch import CenterNet

__all__ = [
    "POINT_HEAD_REGISTRY",
    "BoxHead",
    "CenterHead",
    "CenterNet",
    "DLABackbone",
    "Hourglass",
    "PointHead",
    "ResNetUpConv",
]
