"""ResNet backbone with three upsampling stages (original.md: ResNet)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torchvision
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn

from ...config.arguments import build_from_keys
from ...layers.deform_conv import IMPLEMENTATIONS, DeformConv
from ...utils.validation import ArgumentError, check_choice
from .aggregation import AggregationNeck
from .common import NORMS, check_input_size, fill_bilinear
from .trunk import TrunkBackbone

__all__ = ["ResNetUpConv"]

DEPTHS = (18, 34, 50, 101, 152)
NECKS = ("transposed", "aggregation")
# Mapping from constructor arguments to config keys.
KEYS = {
    "depth": "MODEL.RESNETS.DEPTH",
    "neck": "MODEL.UPCONV.NECK",
    "channels": "MODEL.UPCONV.CHANNELS",
    "width": "MODEL.UPCONV.WIDTH",
    "deformable": "MODEL.UPCONV.DEFORMABLE",
    "deform_conv": "MODEL.DEFORM_CONV",
    "trunk_norm": "MODEL.RESNETS.NORM",
    "norm": "MODEL.UPCONV.NORM",
}


class ResNetUpConv(TrunkBackbone):
    """ResNet trunk with output stride 4.

    The necks are the upsampling of "Simple Baselines" and the aggregation of DLA-34.

    Modules have the same names as in the reference implementation, so that its weights can be loaded, as well as
    torchvision's weights of the trunk.
    """

    stages = ("relu", "layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        *,
        depth: int = 18,
        neck: str = "transposed",
        channels: Sequence[int] = (256, 256, 256),
        width: int = 64,
        deformable: bool = False,
        deform_conv: str = "auto",
        trunk_norm: str = "BN",
        norm: str = "BN",
    ) -> None:
        """
        Args:
            depth: depth of the ResNet: 18, 34, 50, 101 or 152.
            neck: "transposed" (three upsampling stages) or "aggregation", see :class:`AggregationNeck`.
            channels: for "transposed": number of channels of each of the three upsampling stages.
            width: for "aggregation": number of output channels.
            deformable: add a modulated deformable convolution before each transposed convolution, or use deformable
                convolutions in the aggregation neck.
            deform_conv: implementation of deformable convolutions, see :class:`centernet_d2.layers.DeformConv`.
            trunk_norm, norm: normalization of the trunk and of the upsampling: "BN", "SyncBN" or "FrozenBN".

        Raises:
            ValueError: if an argument is invalid.
        """
        super().__init__()
        check_choice("depth", depth, DEPTHS)
        check_choice("trunk_norm", trunk_norm, NORMS)
        check_choice("neck", neck, NECKS)
        check_choice("norm", norm, NORMS)
        check_choice("deform_conv", deform_conv, IMPLEMENTATIONS)
        if len(channels) != 3:
            raise ArgumentError("channels", f"is {list(channels)}, but must have 3 values, one per upsampling stage")
        trunk = torchvision.models.get_model(
            f"resnet{depth}", weights=None, norm_layer=lambda width: get_norm(trunk_norm, width)
        )
        self.conv1, self.bn1, self.relu, self.maxpool = trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4
        coarsest = trunk.fc.in_features
        self._aggregates = neck == "aggregation"
        if self._aggregates:
            levels = [coarsest // 8, coarsest // 4, coarsest // 2, coarsest]
            self.neck = AggregationNeck(levels, width=width, deformable=deformable, deform_conv=deform_conv, norm=norm)
        else:
            stage = partial(_deformable_stage, deform_conv=deform_conv) if deformable else _plain_stage
            self.deconv_layers = nn.Sequential(
                *(layer for before, after in pairwise([coarsest, *channels]) for layer in stage(before, after, norm))
            )
        self.set_output(width if self._aggregates else channels[-1])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the feature map of stride 4 from (B, 3, H, W) images.

        The result is {"stack_0": (B, channels[-1] or width, H / 4, W / 4)}.
        H and W must be multiples of 32.
        """
        check_input_size(x, self.size_divisibility)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return {"stack_0": self.neck(features) if self._aggregates else self.deconv_layers(x)}


def _plain_stage(before: int, after: int, norm: str) -> list[nn.Module]:
    up = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
    nn.init.normal_(up.weight, std=0.001)
    return [up, get_norm(norm, after), nn.ReLU(inplace=True)]


def _deformable_stage(before: int, after: int, norm: str, *, deform_conv: str) -> list[nn.Module]:
    up = nn.ConvTranspose2d(after, after, 4, stride=2, padding=1, bias=False)
    # Only initializes output channel 0, as in the reference implementation (original.md: Bilinear start).
    fill_bilinear(up)
    deform = [DeformConv(before, after, implementation=deform_conv), get_norm(norm, after), nn.ReLU(inplace=True)]
    return [*deform, up, get_norm(norm, after), nn.ReLU(inplace=True)]


@BACKBONE_REGISTRY.register()
def build_resnet_upconv_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNetUpConv:
    """Build :class:`ResNetUpConv` from ``MODEL.RESNETS`` and ``MODEL.UPCONV``."""
    return build_from_keys(ResNetUpConv, cfg, KEYS)
