"""DLA-34: a trunk of trees, and a neck that merges its levels at stride 4 (original.md: DLA trunk, DLA necks).

From small to large: :class:`Root` joins features, :class:`Tree` joins blocks or smaller trees by a root, :class:`DLA`
is the trunk of trees; :class:`IDAUp` merges a few levels into the finest of them, :class:`DLAUp` does so for every
level, and :class:`DLABackbone` is the whole.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...config.arguments import build_from_keys
from ...layers.deform_conv import IMPLEMENTATIONS, DeformConv
from ...utils.validation import check_choice
from .common import NORMS, BasicBlock, check_input_size, fill_bilinear

__all__ = ["DLABackbone"]

IMAGENET_CLASSES = 1000
# Argument -> config key.
KEYS = {"deformable": "MODEL.DLA.DEFORMABLE", "deform_conv": "MODEL.DEFORM_CONV", "norm": "MODEL.DLA.NORM"}


class Root(nn.Module):
    """Aggregation node: 1x1 convolution over all features (arXiv 1707.06484, section 3; original.md: DLA trunk)."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "BN") -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = get_norm(norm, out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: list[Tensor]) -> Tensor:
        """(B, C_i, H, W), in_channels in total -> (B, out_channels, H, W)."""
        return self.relu(self.bn(self.conv(torch.cat(features, dim=1))))


class Tree(nn.Module):
    """Hierarchical aggregation (arXiv 1707.06484, section 3.2; original.md: DLA trunk).

    A tree of depth 1 is two blocks and a root over both. A deeper one is two trees in a row, the second of which hands
    everything that was collected on the way to its root.
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
            depth: 1 or more.
            in_channels, out_channels: widths of input and output.
            stride: of the first block.
            level_root: let the root also see the pooled input.
            extra_channels: total width of the features from outside that the root also sees.
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
            # The first inner tree projects by itself. The original stores this projection nonetheless, so it is kept
            # for lossless checkpoints, hidden from optimizers and DistributedDataParallel (original.md: DLA trunk).
            self.project.requires_grad_(False)
            self.tree1 = Tree(depth - 1, in_channels, out_channels, stride=stride, norm=norm)
            self.tree2 = Tree(
                depth - 1, out_channels, out_channels, extra_channels=extra_channels + out_channels, norm=norm
            )

    def forward(self, x: Tensor, extra: Sequence[Tensor] = ()) -> Tensor:
        """(B, in_channels, H, W) and features of the output's size -> (B, out_channels, H / stride, W / stride)."""
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
    """The trunk: six levels, from stride 1 to stride 32 (arXiv 1707.06484, section 4; original.md: DLA trunk)."""

    def __init__(
        self,
        *,
        channels: Sequence[int] = (16, 32, 64, 128, 256, 512),
        tree_depths: Sequence[int] = (1, 2, 2, 1),
        norm: str = "BN",
    ) -> None:
        """
        Args:
            channels: widths of the six levels.
            tree_depths: depths of the trees, which are levels 2 to 5.
            norm: "BN", "SyncBN" or "FrozenBN".

        Raises:
            ValueError: not six widths or four depths.
        """
        super().__init__()
        if len(channels) != 6 or len(tree_depths) != 4:
            raise ValueError(f"DLA needs six widths and four depths, got {list(channels)} and {list(tree_depths)}")
        self.base_layer = _plain_unit(3, channels[0], kernel_size=7, norm=norm)
        self.level0 = _plain_unit(channels[0], channels[0], kernel_size=3, norm=norm)
        self.level1 = _plain_unit(channels[0], channels[1], kernel_size=3, stride=2, norm=norm)
        self.level2, self.level3, self.level4, self.level5 = (
            # The finest tree alone does without a view of its input.
            Tree(depth, before, after, stride=2, level_root=i > 0, norm=norm)
            for i, (depth, (before, after)) in enumerate(zip(tree_depths, pairwise(channels[1:]), strict=True))
        )
        # The classifier that the ImageNet weights came with, never used: kept like the projections in Tree.
        self.fc = nn.Conv2d(channels[-1], IMAGENET_CLASSES, 1).requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the six levels (B, channels[i], H / 2**i, W / 2**i)."""
        x = self.base_layer(x)
        features = []
        for level in (self.level0, self.level1, self.level2, self.level3, self.level4, self.level5):
            x = level(x)
            features.append(x)
        return features


class IDAUp(nn.Module):
    """Iterative aggregation (arXiv 1707.06484, section 3.1; original.md: DLA necks): merges maps into the finest one.

    In turn, each coarser map is projected to the common width, up-sampled and merged with the result so far: added in
    front of a deformable convolution, or concatenated in front of an ordinary one.
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
            out_channels: width of the finest map, and of the results.
            in_channels, factors: width of each coarser map, and how much coarser it is than the finest.
            deformable: see above.
            deform_conv: how deformable convolutions are computed, see :class:`centernet_d2.layers.DeformConv`.
            norm: "BN", "SyncBN" or "FrozenBN".
        """
        super().__init__()
        self.deformable = deformable
        for i, (channels, factor) in enumerate(zip(in_channels, factors, strict=True), start=1):
            up = nn.ConvTranspose2d(
                out_channels,
                out_channels,
                2 * factor,
                stride=factor,
                padding=factor // 2,
                groups=out_channels,
                bias=False,
            )
            fill_bilinear(up)
            if deformable:
                project = _deformable_unit(channels, out_channels, deform_conv=deform_conv, norm=norm)
                node = _deformable_unit(out_channels, out_channels, deform_conv=deform_conv, norm=norm)
            else:
                project = _plain_unit(channels, out_channels, kernel_size=1, norm=norm)
                node = _plain_unit(2 * out_channels, out_channels, kernel_size=3, norm=norm)
                _init_normal(project)
                _init_normal(node)
            self.add_module(f"proj_{i}", project)
            self.add_module(f"up_{i}", up)
            self.add_module(f"node_{i}", node)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps, the finest first -> as many of the finest one's shape: itself, and the result after each merge."""
        merged = [features[0]]
        for i, x in enumerate(features[1:], start=1):
            x = self.get_submodule(f"up_{i}")(self.get_submodule(f"proj_{i}")(x))
            x = merged[-1] + x if self.deformable else torch.cat([merged[-1], x], dim=1)
            merged.append(self.get_submodule(f"node_{i}")(x))
        return merged


class DLAUp(nn.Module):
    """Merges every level with all coarser ones, from the coarsest to the finest (original.md: DLA necks).

    Args:
        channels: width of each level, the finest first; each is twice as coarse as the one before.
        options: of the merges, see :class:`IDAUp`.
    """

    def __init__(self, channels: Sequence[int], **options: Any) -> None:
        super().__init__()
        for step, (fine, coarse) in enumerate(reversed(list(pairwise(channels)))):
            merge = IDAUp(fine, [coarse] * (step + 1), [2] * (step + 1), **options)
            self.add_module(f"ida_{step}", merge)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Levels, the finest first -> as many maps of the same shapes, each merged with everything coarser."""
        *finer, coarsest = features
        # All maps of one level: its own, and the results of its merges.
        level = [coarsest]
        merged = [coarsest]
        for merge, anchor in zip(self.children(), reversed(finer), strict=True):
            level = merge([anchor, *level])
            merged.insert(0, level[-1])
        return merged


class DLABackbone(Backbone):
    """DLA-34 at stride 4 (arXiv 1904.07850, section 5 and appendix A).

    Module names are those of the original, so that its weights load by name. Parameters that the original stores but
    never uses are in the state dict and do not require gradients.
    """

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
            deformable: the neck of the paper, with deformable convolutions and a second aggregation; otherwise the
                plain one of the original's "dlav0".
            deform_conv: how deformable convolutions are computed, see :class:`centernet_d2.layers.DeformConv`.
            norm: normalisation throughout: "BN", "SyncBN" or "FrozenBN".

        Raises:
            ValueError: not six widths or four depths, or unknown norm or way to compute.
        """
        super().__init__()
        check_choice("norm", norm, NORMS)
        check_choice("deform_conv", deform_conv, IMPLEMENTATIONS)
        self.base = DLA(channels=channels, tree_depths=tree_depths, norm=norm)
        widths = channels[2:]
        options: dict[str, Any] = {"deformable": deformable, "deform_conv": deform_conv, "norm": norm}
        self.dla_up = DLAUp(widths, **options)
        # The coarsest level takes no part: nothing was merged into it.
        self.ida_up = IDAUp(widths[0], widths[1:-1], [2, 4], **options) if deformable else None
        self._out_features = ["stack_0"]
        self._channels = widths[0]

    @property
    def size_divisibility(self) -> int:
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"stack_0": ShapeSpec(channels=self._channels, stride=4)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {"stack_0": (B, channels[2], H / 4, W / 4)}; H and W must be multiples of 32."""
        check_input_size(x, self.size_divisibility)
        merged = self.dla_up(self.base(x)[2:])
        return {"stack_0": self.ida_up(merged[:-1])[-1] if self.ida_up else merged[0]}


def _plain_unit(before: int, after: int, *, kernel_size: int, norm: str, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, get_norm(norm, after), nn.ReLU(inplace=True))


def _deformable_unit(before: int, after: int, *, deform_conv: str, norm: str) -> nn.Sequential:
    activation = nn.Sequential(get_norm(norm, after), nn.ReLU(inplace=True))
    return nn.Sequential(OrderedDict(conv=DeformConv(before, after, implementation=deform_conv), actf=activation))


def _init_normal(unit: nn.Sequential) -> None:
    for conv in unit:
        if isinstance(conv, nn.Conv2d):
            nn.init.normal_(conv.weight, std=math.sqrt(2 / (math.prod(conv.kernel_size) * conv.out_channels)))


@BACKBONE_REGISTRY.register()
def build_dla_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DLABackbone:
    """Build :class:`DLABackbone` from ``MODEL.DLA``."""
    return build_from_keys(DLABackbone, cfg, KEYS)
