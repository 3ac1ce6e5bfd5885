from .dla import DLABackbone
from .hourglass import Hourglass, build_hourglass_backbone
from .resnet_upconv import ResNetUpConv
from .timm_upconv import TimmUpConv

__all__ = [
    "DLABackbone",
    "Hourglass",
    "ResNetUpConv",
    "TimmUpConv",
    "build_hourglass_backbone",
]
