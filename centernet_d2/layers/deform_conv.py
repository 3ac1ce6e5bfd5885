"""Modulated deformable convolution (DCNv2) for CPU and GPU, in pure PyTorch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from ..utils.validation import check_choice

__all__ = ["IMPLEMENTATIONS", "DeformConv"]

IMPLEMENTATIONS = ("auto", "torchvision", "grid_sample")


class DeformConv(nn.Module):
    """3x3 modulated deformable convolution (original.md: Deformable convolution).

    Stride and padding are 1; there is one group. Parameters have the names of the reference implementation: ``weight``,
    ``bias`` and the convolution ``conv_offset_mask``, which predicts 18 offsets (y and x of each tap, row by row) and 9
    mask values. A newly initialized layer samples at the regular positions with a mask of 0.5.

    Sampling and the matrix product use float32 even under autocast, because torchvision's operator has no
    half-precision kernel on a CPU. Only ``conv_offset_mask`` follows autocast.
    """

    def __init__(self, in_channels: int, out_channels: int, *, implementation: str = "auto") -> None:
        """
        Args:
            in_channels: number of input channels.
            out_channels: number of output channels.
            implementation: "torchvision" or "grid_sample", which return the same results, or "auto": "grid_sample" on
                a CPU, where it is faster, and "torchvision" otherwise.

        Raises:
            ValueError: `implementation` is unknown.
        """
        super().__init__()
        check_choice("implementation", implementation, IMPLEMENTATIONS)
        self.implementation = implementation
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.conv_offset_mask = nn.Conv2d(in_channels, 27, kernel_size=3, padding=1)
        bound = 1 / math.sqrt(9 * in_channels)
        nn.init.uniform_(self.weight, -bound, bound)
        for parameter in self.conv_offset_mask.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (B, in_channels, H, W) -> (B, out_channels, H, W)."""
        offset, mask = self.conv_offset_mask(x).float().split([18, 9], dim=1)
        x, weight, bias, mask = x.float(), self.weight.float(), self.bias.float(), mask.sigmoid()
        use_grid_sample = self.implementation == "grid_sample" or (
            self.implementation == "auto" and x.device.type == "cpu"
        )
        with torch.autocast(x.device.type, enabled=False):
            if use_grid_sample:
                return deform_conv2d_by_grid_sample(x, offset, mask, weight, bias)
            return deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        return f"{in_channels}, {out_channels}, kernel_size=3, implementation={self.implementation}"


def deform_conv2d_by_grid_sample(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute a 3x3 modulated deformable convolution with ``grid_sample``.

    The result equals torchvision's ``deform_conv2d`` with padding 1. All nine taps are sampled at once and combined by
    one matrix product.

    Args:
        x: (B, C, H, W).
        offset: (B, 18, H, W), y and x of each tap.
        mask: (B, 9, H, W).
        weight: (D, C, 3, 3).
        bias: (D,).

    Returns:
        (B, D, H, W).
    """
    height, width = x.shape[2:]
    tap = torch.arange(9, device=x.device)
    row = torch.arange(height, device=x.device)[:, None]
    column = torch.arange(width, device=x.device)
    dy, dx = offset.unflatten(1, (9, 2)).unbind(2)
    y = dy + (tap // 3 - 1)[:, None, None] + row
    x_position = dx + (tap % 3 - 1)[:, None, None] + column
    # Pixel centers at integers -> -1..1 between the outer edges of the image (align_corners=False).
    grid = torch.stack([(2 * x_position + 1) / width - 1, (2 * y + 1) / height - 1], dim=4)
    sampled = F.grid_sample(x, grid.flatten(1, 2), padding_mode="zeros", align_corners=False)
    sampled = sampled.unflatten(2, (9, height))
    # In place if no gradient needs the samples, which are nine times as large as the input.
    needs_grad = torch.is_grad_enabled() and (sampled.requires_grad or mask.requires_grad)
    sampled = sampled * mask[:, None] if needs_grad else sampled.mul_(mask[:, None])
    # A batched product; the product of a 2-D matrix and a batch would copy the transposed batch first.
    columns = sampled.flatten(3).flatten(1, 2)
    out = torch.baddbmm(bias[:, None], weight.flatten(1).expand(x.shape[0], -1, -1), columns)
    return out.unflatten(2, (height, width))
