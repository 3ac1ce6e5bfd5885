"""The small convolutional branches that predict maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ...structures.types import Maps
from ...utils.validation import check_choice

__all__ = ["HEAD_INITS", "MapBranches"]

HEAD_INITS = ("default", "zero_bias", "small_last", "small")

# The bias with which a fresh heatmap starts at a probability of 0.1 (original.md: Head branches).
HEATMAP_BIAS = -2.19


class MapBranches(nn.ModuleDict):
    """One small branch per map: 3x3 convolution, ReLU, 1x1 convolution (original.md: Head branches).

    The last convolution runs in float32 even under autocast: in half precision a smooth blob has several equal maxima.

    Args:
        maps: channels of each map.
        in_channels: channels of the feature map.
        head_conv: channels in between; 0 leaves a single 1x1 convolution.
        heatmaps: names of the maps that are heatmaps (they start with a low probability).
        init: how the other maps start, one of HEAD_INITS: with PyTorch's default; with zero biases; with a small
            normal last convolution; with small normal convolutions throughout (the latter two with zero biases).
    """

    def __init__(
        self,
        maps: Mapping[str, int],
        *,
        in_channels: int,
        head_conv: int,
        heatmaps: Sequence[str] = (),
        init: str = "default",
    ) -> None:
        super().__init__()
        check_choice("init", init, HEAD_INITS)
        for name, channels in maps.items():
            layers: list[nn.Module] = [nn.Conv2d(head_conv or in_channels, channels, 1)]
            if head_conv:
                layers = [nn.Conv2d(in_channels, head_conv, 3, padding=1), nn.ReLU(inplace=True), *layers]
            self[name] = nn.Sequential(*layers)
            if name in heatmaps:
                nn.init.constant_(layers[-1].get_parameter("bias"), HEATMAP_BIAS)
            else:
                _init_branch(layers, init)

    def forward(self, feature: Tensor) -> Maps:
        """(B, in_channels, H, W) feature map -> {name: (B, channels, H, W)} raw maps, float32."""
        maps = {}
        # A ModuleDict does not say what it holds.
        for name, branch in cast(Mapping[str, nn.Sequential], self).items():
            hidden, last = branch[:-1](feature), cast(nn.Conv2d, branch[-1])
            with torch.autocast(feature.device.type, enabled=False):
                maps[name] = last(hidden.to(last.weight.dtype))
        return maps


def _init_branch(layers: Sequence[nn.Module], init: str) -> None:
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    small = {"small": convolutions, "small_last": convolutions[-1:]}.get(init, [])
    for layer in small:
        nn.init.normal_(layer.weight, std=0.001)
    for layer in convolutions if init == "zero_bias" else small:
        nn.init.zeros_(layer.get_parameter("bias"))
