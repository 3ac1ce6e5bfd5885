"""What the backbones share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["check_input_size", "fill_bilinear"]


def check_input_size(x: Tensor, size_divisibility: int) -> None:
    """Raise a ValueError unless height and width of a (B, C, H, W) input are multiples of `size_divisibility`."""
    height, width = x.shape[-2:]
    if height % size_divisibility or width % size_divisibility:
        raise ValueError(
            f"the network input is {height} x {width} (height x width), but this backbone needs multiples of "
            f"{size_divisibility}"
        )


@torch.no_grad()
def fill_bilinear(up: nn.ConvTranspose2d) -> None:
    """Start a transposed convolution as bilinear interpolation (SPEC 2.3).

    Writes element [n, 0] of every first index n: all of a depth-wise layer, output channel 0 of any other.
    """
    size = up.kernel_size[0]
    factor = math.ceil(size / 2)
    center = (2 * factor - 1 - factor % 2) / (2 * factor)
    line = 1 - (torch.arange(size) / factor - center).abs()
    up.weight[:, 0] = torch.outer(line, line)
