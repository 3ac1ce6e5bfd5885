from .dla import DLA, DLABackbone, build_dla_backbone
from .hourglass import Hourglass, build_hourglass_backbone
from .resnet_upconv import ResNetUpConv, build_resnet_upconv_backbone

__all__ = [
    "DLA",
    "DLABackbone",
    "Hourglass",
    "ResNetUpConv",
    "build_dla_backbone",
    "build_hourglass_backbone",
    "build_resnet_upconv_backbone",
]
