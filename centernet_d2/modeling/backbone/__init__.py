from .resnet_upconv import ResNetUpConv, build_resnet_upconv_backbone

__all__ = ["ResNetUpConv", "build_resnet_upconv_backbone"]
