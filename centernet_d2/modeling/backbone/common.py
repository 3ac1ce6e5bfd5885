"""Components shared by the backbones."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from detectron2.layers import get_norm
from torch import Tensor, fx, nn

__all__ = ["NORMS", "BasicBlock", "DepthwiseUpsampling", "check_input_size", "fill_bilinear"]

NORMS = ("BN", "SyncBN", "FrozenBN")


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (original.md: DLA trunk, Hourglass).

    Args:
        in_channels, out_channels: number of channels of input and output.
        stride: stride of the first convolution.
        norm: "BN", "SyncBN" or "FrozenBN".
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: str = "BN") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = get_norm(norm, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = get_norm(norm, out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Compute the output of the block.

        Args:
            x: (B, in_channels, H, W) input.
            residual: (B, out_channels, H / stride, W / stride) shortcut, added before the last ReLU.
        """
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + residual)


class DepthwiseUpsampling(nn.ConvTranspose2d):
    """Depthwise transposed convolution, initialized for bilinear interpolation.

    On a CPU it uses float32 even under autocast, because it is 10 to 40 times slower in half precision.

    Args:
        channels: number of channels of input and output.
        factor: upsampling factor.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__(
            channels, channels, 2 * factor, stride=factor, padding=factor // 2, groups=channels, bias=False
        )
        self.factor = factor
        fill_bilinear(self)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if input.device.type != "cpu":
            return super().forward(input, output_size)
        with torch.autocast("cpu", enabled=False):
            full = F.conv_transpose2d(
                input.float(), self.weight.float(), stride=self.factor, padding=self.factor // 2, groups=self.groups
            )
        return full.to(input.dtype)


def check_input_size(x: Tensor | fx.Proxy, size_divisibility: int) -> None:
    """Check that height and width of an input are multiples of `size_divisibility`.

    Args:
        x: (B, C, H, W) network input.
        size_divisibility: required divisor.

    Raises:
        ValueError: if the size is not divisible.
    """
    if isinstance(x, fx.Proxy):  # torch.fx traces the graph without sizes.
        return
    height, width = x.shape[-2:]
    if height % size_divisibility or width % size_divisibility:
        raise ValueError(
            f"the network input is {height} x {width} (height x width), but this backbone needs multiples of "
            f"{size_divisibility}: resize or pad the images"
        )


@torch.no_grad()
def fill_bilinear(up: nn.ConvTranspose2d) -> None:
    """Initialize a transposed convolution for bilinear interpolation.

    Only ``weight[:, 0]`` is set. These are all weights of a depthwise layer, but only output channel 0 of other layers
    (original.md: Bilinear start).
    """
    size = up.kernel_size[0]
    factor = math.ceil(size / 2)
    center = (2 * factor - 1 - factor % 2) / (2 * factor)
    line = 1 - (torch.arange(size) / factor - center).abs()
    up.weight[:, 0] = torch.outer(line, line)
