"""Modulated deformable convolution (DCNv2) for CPU and GPU, in pure PyTorch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from ..imaging.geometry import is_captured
from ..utils.validation import check_choice

__all__ = ["IMPLEMENTATIONS", "DeformConv"]

IMPLEMENTATIONS = ("auto", "torchvision", "grid_sample")

# Number of positions that :func:`deform_conv2d_by_bags` samples at once, so that the samples stay in the cache.
_CHUNK = 1 << 11


class DeformConv(nn.Module):
    """3x3 modulated deformable convolution (original.md: Deformable convolution).

    Stride and padding are 1; there is one group. Parameters have the names of the reference implementation: ``weight``,
    ``bias`` and the convolution ``conv_offset_mask``, which predicts 18 offsets (y and x of each tap, row by row) and 9
    mask values. A newly initialized layer samples at the regular positions with a mask of 0.5.

    Sampling positions are float32 even under autocast. So are samples and the matrix product, because torchvision's
    operator has no half-precision kernel on a CPU; except for inference on a CPU with "auto", which uses the precision
    of the input.
    """

    def __init__(self, in_channels: int, out_channels: int, *, implementation: str = "auto") -> None:
        """
        Args:
            in_channels: number of input channels.
            out_channels: number of output channels.
            implementation: "torchvision" or "grid_sample", which return the same results, or "auto", the fastest:
                :func:`deform_conv2d_by_bags` for inference on a CPU, "grid_sample" for training or in exported graphs
                on a CPU, and "torchvision" otherwise.

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
        mask = mask.sigmoid()
        on_cpu = self.implementation == "auto" and x.device.type == "cpu"
        with torch.autocast(x.device.type, enabled=False):
            if on_cpu and not torch.is_grad_enabled() and not is_captured():
                return deform_conv2d_by_bags(x, offset, mask, self.weight, self.bias)
            x, weight, bias = x.float(), self.weight.float(), self.bias.float()
            if on_cpu or self.implementation == "grid_sample":
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
    y, x_position = _sampling_positions(offset)
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


def _sampling_positions(offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, 9, H, W) positions y and x of the taps, in pixels."""
    height, width = offset.shape[2:]
    tap = torch.arange(9, device=offset.device)
    dy, dx = offset.unflatten(1, (9, 2)).unbind(2)
    y = dy + (tap // 3 - 1)[:, None, None] + torch.arange(height, device=offset.device)[:, None]
    return y, dx + (tap % 3 - 1)[:, None, None] + torch.arange(width, device=offset.device)


def deform_conv2d_by_bags(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute a 3x3 modulated deformable convolution with ``embedding_bag``.

    Only for inference. Each bilinear sample is a weighted sum of four pixels, which are rows of a table of
    channels. Samples and product have the dtype of `x`, positions are float32.

    Args:
        x, offset, mask, weight, bias: see :func:`deform_conv2d_by_grid_sample`.

    Returns:
        (B, D, H, W) of the dtype of `x`, in the channels-last memory format.
    """
    batch, channels, height, width = x.shape
    # (B, H, W, 9), the order of the columns of the product.
    y, x_position, mask = (tensor.movedim(1, 3) for tensor in (*_sampling_positions(offset), mask))
    first = torch.arange(batch, dtype=torch.int32, device=x.device)[:, None, None, None] * (height * width)
    index = torch.empty(*mask.shape, 4, dtype=torch.int32, device=x.device)
    factor = torch.empty(*mask.shape, 4, dtype=x.dtype, device=x.device)
    for i, (row, row_factor) in enumerate(_neighbors(y, height)):
        for j, (column, column_factor) in enumerate(_neighbors(x_position, width)):
            index[..., 2 * i + j] = first + row * width + column
            factor[..., 2 * i + j] = row_factor * column_factor * mask
    # The conversion to channels-last is faster than a general copy in reshape.
    table = x.contiguous(memory_format=torch.channels_last).movedim(1, 3).reshape(-1, channels)
    matrix = weight.to(x.dtype).movedim(1, 3).flatten(1)
    chunks = zip(index.view(-1, 4).split(9 * _CHUNK), factor.view(-1, 4).split(9 * _CHUNK), strict=True)
    samples = (F.embedding_bag(rows, table, mode="sum", per_sample_weights=factors) for rows, factors in chunks)
    out = torch.cat([F.linear(part.view(-1, 9 * channels), matrix, bias.to(x.dtype)) for part in samples])
    return out.view(batch, height, width, -1).movedim(3, 1)


def _neighbors(position: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
    """Return int32 indices and factors of the two pixels next to positions on an axis.

    Factors are 0 outside the image, and NaN at positions that are NaN or infinite.
    """
    low = position.floor()
    factor = position - low
    return [
        (pixel.clamp(0, length - 1).nan_to_num().to(torch.int32), part * ((pixel >= 0) & (pixel < length)))
        for pixel, part in ((low, 1 - factor), (low + 1, factor))
    ]
