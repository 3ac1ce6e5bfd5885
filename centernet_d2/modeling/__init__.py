from .backbone import DLABackbone, Hourglass, ResNetUpConv
from .heads import POINT_HEAD_REGISTRY, Box3DHead, BoxHead, CenterHead, KeypointHead, PointHead
from .meta_arch import CenterNet
from .test_time_augmentation import CenterNetWithTTA

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
]
