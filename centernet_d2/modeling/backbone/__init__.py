from .dla import DLABackbone
from .hourglass import Hourglass, build_hourglass_backbone
from .resnet_upconv import ResNetUpConv

__all__ = [
    "DLABackbone",
    "Hourglass",
    "ResNetUpConv",
    "build_hourglass_backbone",
]
