"""DLA-34 backbone (original.md: DLA trunk, DLA necks).

:class:`DLA` is the trunk. It consists of :class:`Tree` modules, which aggregate blocks or smaller trees with a
:class:`Root`. The neck, :class:`DLAUp`, merges the levels of the trunk with :class:`IDAUp` modules.
:class:`DLABackbone` combines trunk and neck, and outputs a feature map of stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn

from ...config.arguments import build_from_keys
from ...layers.deform_conv import IMPLEMENTATIONS
from ...utils.validation import check_choice
from .aggregation import DLAUp, plain_unit, second_aggregation
from .common import NORMS, BasicBlock, check_input_size
from .trunk import TrunkBackbone

__all__ = ["DLABackbone"]

IMAGENET_CLASSES = 1000
# Mapping from constructor arguments to config keys.
KEYS = {"deformable": "MODEL.DLA.DEFORMABLE", "deform_conv": "MODEL.DEFORM_CONV", "norm": "MODEL.DLA.NORM"}


class Root(nn.Module):
    """Aggregation node: a 1x1 convolution over concatenated features.

    See arXiv 1707.06484, section 3 (original.md: DLA trunk).
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "BN") -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = get_norm(norm, out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Aggregate features to (B, out_channels, H, W).

        Args:
            features: (B, C_i, H, W) tensors with a total of in_channels channels.
        """
        return self.relu(self.bn(self.conv(torch.cat(features, dim=1))))


class Tree(nn.Module):
    """Hierarchical deep aggregation (original.md: DLA trunk).

    A tree of depth 1 consists of two blocks and a root over both. A deeper tree consists of two subtrees in sequence;
    the output of the first subtree is an additional input of the root of the second. See arXiv 1707.06484, section 3.2.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        level_root: bool = False,
        extra_channels: int = 0,
        norm: str = "BN",
    ) -> None:
        """
        Args:
            depth: depth of the tree, at least 1.
            in_channels, out_channels: number of channels of input and output.
            stride: stride of the first block.
            level_root: also feed the pooled input to the root.
            extra_channels: total number of channels of additional features that are fed to the root.
            norm: "BN", "SyncBN" or "FrozenBN".
        """
        super().__init__()
        self.level_root = level_root
        self.downsample = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.project: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.project = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), get_norm(norm, out_channels)
            )
        extra_channels += in_channels if level_root else 0
        self.root: Root | None = None
        if depth == 1:
            self.tree1: nn.Module = BasicBlock(in_channels, out_channels, stride=stride, norm=norm)
            self.tree2: nn.Module = BasicBlock(out_channels, out_channels, norm=norm)
            self.root = Root(2 * out_channels + extra_channels, out_channels, norm=norm)
        else:
            # Unused, because the first subtree has its own projection. The reference implementation stores it, so it is
            # kept for lossless conversion of checkpoints, without gradients (original.md: DLA trunk).
            self.project.requires_grad_(False)
            self.tree1 = Tree(depth - 1, in_channels, out_channels, stride=stride, norm=norm)
            self.tree2 = Tree(
                depth - 1, out_channels, out_channels, extra_channels=extra_channels + out_channels, norm=norm
            )

    def forward(self, x: Tensor, extra: Sequence[Tensor] = ()) -> Tensor:
        """Compute (B, out_channels, H / stride, W / stride) features.

        Args:
            x: (B, in_channels, H, W) input.
            extra: additional features for the root, of the same size as the output.
        """
        bottom = self.downsample(x)
        if self.level_root:
            extra = [*extra, bottom]
        if self.root is None:
            x = self.tree1(x)
            return self.tree2(x, [*extra, x])
        x1 = self.tree1(x, self.project(bottom))
        x2 = self.tree2(x1, x1)
        return self.root([x2, x1, *extra])


class DLA(nn.Module):
    """Trunk with six levels, from stride 1 to stride 32.

    See arXiv 1707.06484, section 4 (original.md: DLA trunk).
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (16, 32, 64, 128, 256, 512),
        tree_depths: Sequence[int] = (1, 2, 2, 1),
        norm: str = "BN",
    ) -> None:
        """
        Args:
            channels: number of channels of each of the six levels.
            tree_depths: depths of the trees of levels 2 to 5.
            norm: "BN", "SyncBN" or "FrozenBN".

        Raises:
            ValueError: if `channels` does not have six values, or `tree_depths` four.
        """
        super().__init__()
        if len(channels) != 6 or len(tree_depths) != 4:
            raise ValueError(
                f"channels must have 6 values and tree_depths 4, but are {list(channels)} and {list(tree_depths)}"
            )
        self.base_layer = plain_unit(3, channels[0], kernel_size=7, norm=norm)
        self.level0 = plain_unit(channels[0], channels[0], kernel_size=3, norm=norm)
        self.level1 = plain_unit(channels[0], channels[1], kernel_size=3, stride=2, norm=norm)
        self.level2, self.level3, self.level4, self.level5 = (
            # All trees except the finest one feed their input to the root.
            Tree(depth, before, after, stride=2, level_root=i > 0, norm=norm)
            for i, (depth, (before, after)) in enumerate(zip(tree_depths, pairwise(channels[1:]), strict=True))
        )
        # Unused classifier of the ImageNet weights, kept like the projections in Tree.
        self.fc = nn.Conv2d(channels[-1], IMAGENET_CLASSES, 1).requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute six levels of shape (B, channels[i], H / 2**i, W / 2**i)."""
        x = self.base_layer(x)
        features = []
        for level in (self.level0, self.level1, self.level2, self.level3, self.level4, self.level5):
            x = level(x)
            features.append(x)
        return features


class DLABackbone(TrunkBackbone):
    """DLA-34 with output stride 4 (arXiv 1904.07850, section 5 and appendix A).

    Modules have the same names as in the reference implementation, so that its weights can be loaded. Parameters that
    the reference implementation stores but does not use are part of the state dict, without gradients.
    """

    stages = tuple(f"base.level{level}" for level in range(1, 6))

    def __init__(
        self,
        *,
        channels: Sequence[int] = (16, 32, 64, 128, 256, 512),
        tree_depths: Sequence[int] = (1, 2, 2, 1),
        deformable: bool = True,
        deform_conv: str = "auto",
        norm: str = "BN",
    ) -> None:
        """
        Args:
            channels, tree_depths: see :class:`DLA`.
            deformable: use the neck of the paper, with deformable convolutions and a second aggregation; otherwise the
                plain neck of "dlav0" of the reference implementation.
            deform_conv: implementation of deformable convolutions, see :class:`centernet_d2.layers.DeformConv`.
            norm: normalization of all layers: "BN", "SyncBN" or "FrozenBN".

        Raises:
            ValueError: if `channels`, `tree_depths`, `deform_conv` or `norm` is invalid.
        """
        super().__init__()
        check_choice("norm", norm, NORMS)
        check_choice("deform_conv", deform_conv, IMPLEMENTATIONS)
        self.base = DLA(channels=channels, tree_depths=tree_depths, norm=norm)
        widths = channels[2:]
        options: dict[str, Any] = {"deformable": deformable, "deform_conv": deform_conv, "norm": norm}
        self.dla_up = DLAUp(widths, **options)
        self.ida_up = second_aggregation(widths, **options) if deformable else None
        self.set_output(widths[0])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute {"stack_0": (B, channels[2], H / 4, W / 4)} from (B, 3, H, W) images.

        H and W must be multiples of 32.
        """
        check_input_size(x, self.size_divisibility)
        merged = self.dla_up(self.base(x)[2:])
        return {"stack_0": self.ida_up(merged[:-1])[-1] if self.ida_up else merged[0]}


@BACKBONE_REGISTRY.register()
def build_dla_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DLABackbone:
    """Build :class:`DLABackbone` from ``MODEL.DLA``."""
    return build_from_keys(DLABackbone, cfg, KEYS)
