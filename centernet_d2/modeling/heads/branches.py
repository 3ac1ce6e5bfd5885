"""Convolutional branches that predict maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ...structures.types import Maps
from ...utils.validation import check_choice

__all__ = ["HEAD_INITS", "MapBranches"]

HEAD_INITS = ("default", "zero_bias", "small_last", "small")

# Initial bias of heatmaps, a probability of 0.1 (original.md: Head branches).
HEATMAP_BIAS = -2.19


class MapBranches(nn.ModuleDict):
    """One branch per map: 3x3 conv, ReLU, 1x1 conv (original.md: Head branches).

    The last convolution runs in float32 even under autocast, because in half precision a smooth peak may have several
    equal maxima.

    Args:
        maps: number of channels of each map.
        in_channels: number of channels of the feature map.
        head_conv: number of hidden channels; 0 for a single 1x1 convolution.
        heatmaps: names of the maps that are heatmaps, which are initialized with a low probability.
        init: initialization of the other maps: "default" (PyTorch), "zero_bias" (PyTorch with zero biases),
            "small_last" (small normal weights and zero biases of the last convolution) or "small" (of all
            convolutions).
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
        """Compute {name: (B, channels, H, W)} raw float32 maps.

        Args:
            feature: (B, in_channels, H, W) feature map.
        """
        maps = {}
        # nn.ModuleDict has no type parameter for its values.
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
