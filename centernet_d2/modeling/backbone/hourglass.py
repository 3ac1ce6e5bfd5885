"""Stacked hourglass backbone (original.md: Hourglass)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...config.arguments import build_from_keys
from ...layers.recompute import RecomputedSequential
from ...utils.validation import ArgumentError, check_choice
from .common import NORMS, BasicBlock, check_input_size

__all__ = ["Hourglass", "build_hourglass_backbone"]

# Mapping from constructor arguments to config keys.
KEYS = {
    "stacks": "MODEL.HOURGLASS.STACKS",
    "widths": "MODEL.HOURGLASS.WIDTHS",
    "counts": "MODEL.HOURGLASS.COUNTS",
    "norm": "MODEL.HOURGLASS.NORM",
    "checkpoint": "MODEL.HOURGLASS.CHECKPOINT",
}


class Residual(BasicBlock):
    """Residual block with an optional projection shortcut (original.md: Hourglass).

    The shortcut is the identity, or a 1x1 convolution if the shape changes.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: str = "BN") -> None:
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        same = stride == 1 and in_channels == out_channels
        self.skip = nn.Identity() if same else _projection(in_channels, out_channels, stride=stride, norm=norm)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # The residual is computed here.
        """Compute (B, out_channels, H / stride, W / stride) from (B, in_channels, H, W)."""
        return super().forward(x, self.skip(x))


class HourglassModule(nn.Module):
    """One level of an hourglass with all coarser levels (original.md: Hourglass).

    Strided convolutions replace the pooling of arXiv 1603.06937, section 3.1.

    Args:
        widths, counts: number of channels and of blocks of this level and of each coarser level; at least two levels.
        norm: "BN", "SyncBN" or "FrozenBN".
        checkpoint: see :class:`Hourglass`.
    """

    def __init__(
        self, widths: Sequence[int], counts: Sequence[int], *, norm: str = "BN", checkpoint: bool = False
    ) -> None:
        super().__init__()
        fine, coarse = widths[:2]
        residuals = partial(_residuals, norm=norm, checkpoint=checkpoint)
        self.up1 = residuals([fine] * (counts[0] + 1))
        self.low1 = residuals([fine] + [coarse] * counts[0], stride=2)
        if len(widths) > 2:
            self.low2: nn.Module = HourglassModule(widths[1:], counts[1:], norm=norm, checkpoint=checkpoint)
        else:
            self.low2 = residuals([coarse] * (counts[1] + 1))
        self.low3 = residuals([coarse] * counts[0] + [fine])

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, widths[0], H, W) features of the same shape as the input."""
        low = self.low3(self.low2(self.low1(x)))
        return self.up1(x) + F.interpolate(low, scale_factor=2, mode="nearest")


class Hourglass(Backbone):
    """Stacked hourglass network.

    The default is Hourglass-104 with two stacks, the backbone of CornerNet (arXiv 1904.07850, section 5).
    Each stack refines the feature map of the previous stack, and the maps of all stacks are supervised. Modules have
    the same names as in the reference implementation, so that its weights can be loaded.
    """

    def __init__(
        self,
        *,
        stacks: int = 2,
        widths: Sequence[int] = (256, 256, 384, 384, 384, 512),
        counts: Sequence[int] = (2, 2, 2, 2, 2, 4),
        norm: str = "BN",
        checkpoint: bool = False,
    ) -> None:
        """
        Args:
            stacks: number of stacked hourglasses.
            widths: number of channels of each level, starting with the finest (stride 4); at least two levels. The
                outputs have ``widths[0]`` channels, the stem half as many.
            counts: number of residual blocks in each branch of each level.
            norm: normalization of all layers: "BN", "SyncBN" or "FrozenBN".
            checkpoint: use activation checkpointing for the stem and each sequence of blocks, which reduces memory and
                increases time without changing results.

        Raises:
            ValueError: if an argument is invalid.
        """
        super().__init__()
        check_choice("norm", norm, NORMS)
        if stacks < 1:
            raise ArgumentError("stacks", f"is {stacks}, but must be at least 1")
        if len(widths) < 2:
            raise ArgumentError("widths", f"is {list(widths)}, but must have at least two values")
        if len(counts) != len(widths) or min(counts) < 1:
            raise ArgumentError(
                "counts", f"is {list(counts)}, but must have one positive number per value of widths {list(widths)}"
            )
        width = widths[0]
        self.pre = _sequential(checkpoint)(
            _conv_unit(3, width // 2, kernel_size=7, stride=2, norm=norm),
            Residual(width // 2, width, stride=2, norm=norm),
        )
        self.kps = nn.ModuleList(
            HourglassModule(widths, counts, norm=norm, checkpoint=checkpoint) for _ in range(stacks)
        )
        self.cnvs = nn.ModuleList(_conv_unit(width, width, kernel_size=3, norm=norm) for _ in range(stacks))
        # Between stacks: projections of the input and the output of the previous stack, and a block over their sum.
        self.inters_ = nn.ModuleList(_projection(width, width, norm=norm) for _ in range(stacks - 1))
        self.cnvs_ = nn.ModuleList(_projection(width, width, norm=norm) for _ in range(stacks - 1))
        self.inters = nn.ModuleList(Residual(width, width, norm=norm) for _ in range(stacks - 1))
        self._out_features = [f"stack_{stack}" for stack in range(stacks)]
        self._out_feature_channels = dict.fromkeys(self._out_features, width)
        self._out_feature_strides = dict.fromkeys(self._out_features, 4)
        self._size_divisibility = 4 * 2 ** (len(widths) - 1)

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute a (B, widths[0], H / 4, W / 4) feature map per stack.

        Args:
            x: (B, 3, H, W) images; H and W must be multiples of `size_divisibility`.

        Returns:
            ``{"stack_0": ..., "stack_1": ...}``.
        """
        check_input_size(x, self.size_divisibility)
        x = self.pre(x)
        features: list[Tensor] = []
        for stack, (hourglass, conv) in enumerate(zip(self.kps, self.cnvs, strict=True)):
            if stack > 0:
                skip, refined = self.inters_[stack - 1](x), self.cnvs_[stack - 1](features[-1])
                x = self.inters[stack - 1](F.relu(skip + refined))
            features.append(conv(hourglass(x)))
        return dict(zip(self._out_features, features, strict=True))


def _conv_unit(before: int, after: int, *, kernel_size: int, norm: str, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=get_norm(norm, after), relu=nn.ReLU(inplace=True)))


def _projection(before: int, after: int, *, norm: str, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), get_norm(norm, after))


def _sequential(checkpoint: bool) -> type[nn.Sequential]:
    return RecomputedSequential if checkpoint else nn.Sequential


def _residuals(widths: Sequence[int], *, norm: str, checkpoint: bool, stride: int = 1) -> nn.Sequential:
    """Build blocks from each width to the next; `stride` applies to the first one."""
    return _sequential(checkpoint)(
        *(
            Residual(before, after, stride=1 if i else stride, norm=norm)
            for i, (before, after) in enumerate(pairwise(widths))
        )
    )


@BACKBONE_REGISTRY.register()
def build_hourglass_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Hourglass:
    """Build :class:`Hourglass` from ``MODEL.HOURGLASS``."""
    return build_from_keys(Hourglass, cfg, KEYS)
