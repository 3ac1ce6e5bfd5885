"""Aggregation necks of DLA (original.md: DLA necks), for DLA-34 and other trunks."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn

from ...layers.deform_conv import IMPLEMENTATIONS, DeformConv
from ...utils.validation import ArgumentError, check_choice
from .common import NORMS, DepthwiseUpsampling

__all__ = ["AggregationNeck", "DLAUp", "IDAUp", "plain_unit"]


class IDAUp(nn.Module):
    """Iterative deep aggregation into the finest map (original.md: DLA necks).

    Each coarser map in turn is projected to the common number of channels, upsampled and merged with the previous
    result: by addition before a deformable convolution, or by concatenation before a plain convolution.
    See arXiv 1707.06484, section 3.1.
    """

    def __init__(
        self,
        out_channels: int,
        in_channels: Sequence[int],
        factors: Sequence[int],
        *,
        deformable: bool,
        deform_conv: str = "auto",
        norm: str = "BN",
    ) -> None:
        """
        Args:
            out_channels: number of channels of the finest map and of the outputs.
            in_channels, factors: number of channels of each coarser map, and its upsampling factor.
            deformable: use deformable convolutions.
            deform_conv: implementation of deformable convolutions, see :class:`centernet_d2.layers.DeformConv`.
            norm: "BN", "SyncBN" or "FrozenBN".
        """
        super().__init__()
        self.deformable = deformable
        for i, (channels, factor) in enumerate(zip(in_channels, factors, strict=True), start=1):
            if deformable:
                project = _deformable_unit(channels, out_channels, deform_conv=deform_conv, norm=norm)
                node = _deformable_unit(out_channels, out_channels, deform_conv=deform_conv, norm=norm)
            else:
                project = plain_unit(channels, out_channels, kernel_size=1, norm=norm)
                node = plain_unit(2 * out_channels, out_channels, kernel_size=3, norm=norm)
                _init_normal(project)
                _init_normal(node)
            self.add_module(f"proj_{i}", project)
            self.add_module(f"up_{i}", DepthwiseUpsampling(out_channels, factor))
            self.add_module(f"node_{i}", node)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Merge maps, ordered from fine to coarse.

        Returns:
            The finest map and the result of each merge, all of the same shape.
        """
        merged = [features[0]]
        for i, x in enumerate(features[1:], start=1):
            x = self.get_submodule(f"up_{i}")(self.get_submodule(f"proj_{i}")(x))
            x = merged[-1] + x if self.deformable else torch.cat([merged[-1], x], dim=1)
            merged.append(self.get_submodule(f"node_{i}")(x))
        return merged


class DLAUp(nn.Module):
    """Aggregation of each level with all coarser levels (original.md: DLA necks).

    Args:
        channels: number of channels of each level, from fine to coarse; the stride doubles from level to level.
        options: options of the merges, see :class:`IDAUp`.
    """

    def __init__(self, channels: Sequence[int], **options: Any) -> None:
        super().__init__()
        for step, (fine, coarse) in enumerate(reversed(list(pairwise(channels)))):
            merge = IDAUp(fine, [coarse] * (step + 1), [2] * (step + 1), **options)
            self.add_module(f"ida_{step}", merge)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Merge levels, ordered from fine to coarse.

        Returns:
            Maps of the same shapes, each merged with all coarser levels.
        """
        *finer, coarsest = features
        # Maps of the current level: the input, and the results of all merges.
        level = [coarsest]
        merged = [coarsest]
        for merge, anchor in zip(self.children(), reversed(finer), strict=True):
            level = merge([anchor, *level])
            merged.insert(0, level[-1])
        return merged


class AggregationNeck(nn.Module):
    """Neck of DLA-34 for the levels of any trunk.

    Levels whose number of channels differs from DLA's are projected by a 1x1 convolution.

    Args:
        channels: number of channels of the levels of strides 4, 8, 16, 32.
        width: number of output channels; each coarser level has twice as many as the one before.
        deformable: use deformable convolutions and a second aggregation, as in the paper; otherwise the plain neck.
        deform_conv: implementation of deformable convolutions, see :class:`centernet_d2.layers.DeformConv`.
        norm: "BN", "SyncBN" or "FrozenBN".

    Raises:
        ValueError: if `width`, `deform_conv` or `norm` is invalid.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        width: int = 64,
        deformable: bool = False,
        deform_conv: str = "auto",
        norm: str = "BN",
    ) -> None:
        super().__init__()
        check_choice("norm", norm, NORMS)
        check_choice("deform_conv", deform_conv, IMPLEMENTATIONS)
        if width < 1:
            raise ArgumentError("width", f"is {width}, but must be at least 1")
        widths = [width * 2**level for level in range(len(channels))]
        options: dict[str, Any] = {"deformable": deformable, "deform_conv": deform_conv, "norm": norm}
        self.projections = nn.ModuleList(
            nn.Identity() if before == after else plain_unit(before, after, kernel_size=1, norm=norm)
            for before, after in zip(channels, widths, strict=True)
        )
        self.dla_up = DLAUp(widths, **options)
        self.ida_up = second_aggregation(widths, **options) if deformable else None

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Aggregate levels, ordered from fine to coarse, to (B, width, H / 4, W / 4)."""
        merged = self.dla_up([project(x) for project, x in zip(self.projections, features, strict=True)])
        return self.ida_up(merged[:-1])[-1] if self.ida_up else merged[0]


def second_aggregation(widths: Sequence[int], **options: Any) -> IDAUp:
    """Build the second aggregation of the deformable neck, see :class:`IDAUp`.

    The coarsest level is excluded, because no features are merged into it.
    """
    return IDAUp(widths[0], widths[1:-1], [2, 4], **options)


def plain_unit(before: int, after: int, *, kernel_size: int, norm: str, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, get_norm(norm, after), nn.ReLU(inplace=True))


def _deformable_unit(before: int, after: int, *, deform_conv: str, norm: str) -> nn.Sequential:
    activation = nn.Sequential(get_norm(norm, after), nn.ReLU(inplace=True))
    return nn.Sequential(OrderedDict(conv=DeformConv(before, after, implementation=deform_conv), actf=activation))


def _init_normal(unit: nn.Sequential) -> None:
    for conv in unit:
        if isinstance(conv, nn.Conv2d):
            nn.init.normal_(conv.weight, std=math.sqrt(2 / (math.prod(conv.kernel_size) * conv.out_channels)))
