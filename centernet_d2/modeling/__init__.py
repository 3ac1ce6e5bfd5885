from .backbone import DLABackbone, Hourglass, ResNetUpConv
from .heads import POINT_HEAD_REGISTRY, BoxHead, CenterHead, KeypointHead, PointHead
from .meta_arch import CenterNet

__all__ = [
    "POINT_HEAD_REGISTRY",
    "BoxHead",
    "CenterHead",
    "CenterNet",
    "DLABackbone",
    "Hourglass",
    "KeypointHead",
    "PointHead",
    "ResNetUpConv",
]
