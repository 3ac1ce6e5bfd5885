"""Modulated deformable convolution (DCNv2) on torchvision's operator, which runs on CPU and GPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

__all__ = ["DeformConv"]


class DeformConv(nn.Module):
    """3x3 modulated deformable convolution, stride 1, padding 1, one deformable group (SPEC 2.2).

    Parameter names are those of the original: ``weight``, ``bias`` and the ordinary convolution ``conv_offset_mask``,
    which predicts 18 offsets (y and x of each tap, row by row) and 9 mask values. A fresh layer samples at the regular
    positions with a mask of 0.5.

    It computes in float32 even under autocast: the operator has no half-precision kernel on the CPU.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.conv_offset_mask = nn.Conv2d(in_channels, 27, kernel_size=3, padding=1)
        bound = 1 / math.sqrt(9 * in_channels)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        offset, mask = self.conv_offset_mask(x).float().split([18, 9], dim=1)
        with torch.autocast(x.device.type, enabled=False):
            return deform_conv2d(
                x.float(), offset, self.weight.float(), self.bias.float(), padding=1, mask=mask.sigmoid()
            )

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        return f"{in_channels}, {out_channels}, kernel_size=3"
