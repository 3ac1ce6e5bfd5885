"""ResNet trunk with three transposed convolutions, plain or behind deformable convolutions (original.md: ResNet)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torchvision
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...config.arguments import build_from_keys
from ...layers.deform_conv import IMPLEMENTATIONS, DeformConv
from ...utils.validation import ArgumentError, check_choice
from .common import NORMS, check_input_size, fill_bilinear

__all__ = ["ResNetUpConv"]

DEPTHS = (18, 34, 50, 101, 152)
# Argument -> config key.
KEYS = {
    "depth": "MODEL.RESNETS.DEPTH",
    "channels": "MODEL.UPCONV.CHANNELS",
    "deformable": "MODEL.UPCONV.DEFORMABLE",
    "deform_conv": "MODEL.DEFORM_CONV",
    "trunk_norm": "MODEL.RESNETS.NORM",
    "norm": "MODEL.UPCONV.NORM",
}


class ResNetUpConv(Backbone):
    """ResNet-18/34/50/101/152 without its classifier, brought back to stride 4 ("Simple Baselines" style).

    Module names are those of the original, so that its weights, and torchvision's for the trunk, load by name.
    """

    def __init__(
        self,
        *,
        depth: int = 18,
        channels: Sequence[int] = (256, 256, 256),
        deformable: bool = False,
        deform_conv: str = "auto",
        trunk_norm: str = "BN",
        norm: str = "BN",
    ) -> None:
        """
        Args:
            depth: one of 18, 34, 50, 101, 152.
            channels: widths of the three up-sampling stages.
            deformable: put a modulated deformable convolution in front of each up-sampling.
            deform_conv: how it is computed, see :class:`centernet_d2.layers.DeformConv`.
            trunk_norm, norm: normalisation of the trunk and of the up-sampling: "BN", "SyncBN" or "FrozenBN".

        Raises:
            ValueError: unknown depth, norm or way to compute, or not three widths.
        """
        super().__init__()
        check_choice("depth", depth, DEPTHS)
        check_choice("trunk_norm", trunk_norm, NORMS)
        check_choice("norm", norm, NORMS)
        check_choice("deform_conv", deform_conv, IMPLEMENTATIONS)
        if len(channels) != 3:
            raise ArgumentError("channels", f"is {list(channels)}, but must be three widths")
        trunk = torchvision.models.get_model(
            f"resnet{depth}", weights=None, norm_layer=lambda width: get_norm(trunk_norm, width)
        )
        self.conv1, self.bn1, self.relu, self.maxpool = trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4
        stage = partial(_deformable_stage, deform_conv=deform_conv) if deformable else _plain_stage
        widths = [trunk.fc.in_features, *channels]
        self.deconv_layers = nn.Sequential(
            *(layer for before, after in pairwise(widths) for layer in stage(before, after, norm))
        )
        self._out_features = ["stack_0"]
        self._channels = channels[-1]

    @property
    def size_divisibility(self) -> int:
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"stack_0": ShapeSpec(channels=self._channels, stride=4)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {"stack_0": (B, channels, H / 4, W / 4)}; H and W must be multiples of 32."""
        check_input_size(x, self.size_divisibility)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return {"stack_0": self.deconv_layers(x)}


def _plain_stage(before: int, after: int, norm: str) -> list[nn.Module]:
    up = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
    nn.init.normal_(up.weight, std=0.001)
    return [up, get_norm(norm, after), nn.ReLU(inplace=True)]


def _deformable_stage(before: int, after: int, norm: str, *, deform_conv: str) -> list[nn.Module]:
    up = nn.ConvTranspose2d(after, after, 4, stride=2, padding=1, bias=False)
    # As in the original, this reaches output channel 0 only (original.md: Bilinear start).
    fill_bilinear(up)
    deform = [DeformConv(before, after, implementation=deform_conv), get_norm(norm, after), nn.ReLU(inplace=True)]
    return [*deform, up, get_norm(norm, after), nn.ReLU(inplace=True)]


@BACKBONE_REGISTRY.register()
def build_resnet_upconv_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNetUpConv:
    """Build :class:`ResNetUpConv` from ``MODEL.RESNETS.{DEPTH,NORM}`` and ``MODEL.UPCONV``."""
    return build_from_keys(ResNetUpConv, cfg, KEYS)
