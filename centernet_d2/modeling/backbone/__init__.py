from .dla import DLA, DLABackbone, build_dla_backbone
from .resnet_upconv import ResNetUpConv, build_resnet_upconv_backbone

__all__ = [
    "DLA",
    "DLABackbone",
    "ResNetUpConv",
    "build_dla_backbone",
    "build_resnet_upconv_backbone",
]
