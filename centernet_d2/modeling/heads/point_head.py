"""What a point head is, and the small convolutional branches that predict its maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import Transform
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ...config import check_choice
from ..geometry import Geometry
from ..points import Peaks, Points, SparseTarget

__all__ = [
    "HEAD_INITS",
    "POINT_HEAD_REGISTRY",
    "Annotator",
    "MapBranches",
    "PointHead",
    "build_point_heads",
    "heads_provide",
    "lookup",
    "unflip_vectors",
]

POINT_HEAD_REGISTRY = Registry("POINT_HEAD")
POINT_HEAD_REGISTRY.__doc__ = """
Point heads: called as ``head(cfg, input_shape, num_stacks)``, where input_shape is the ShapeSpec of the feature maps.
"""

HEAD_INITS = ("default", "zero_bias", "small_last", "small")

# The bias with which a fresh heatmap starts at a probability of 0.1 (SPEC 2.1).
HEATMAP_BIAS = -2.19

# Annotations of one image (dataset dicts), the transforms that it went through in order, its new (height, width)
# -> fields for its Instances, one entry per annotation.
Annotator = Callable[[Sequence[dict], Sequence[Transform], tuple[int, int]], dict[str, object]]


class MapBranches(nn.ModuleDict):
    """One small branch per map: 3x3 convolution, ReLU, 1x1 convolution (SPEC 2.1).

    The last convolution runs in float32 even under autocast: in half precision a smooth blob has several equal maxima.

    Args:
        maps: channels of each map.
        in_channels: channels of the feature map.
        head_conv: channels in between; 0 leaves a single 1x1 convolution.
        heatmaps: names of the maps that are heatmaps (they start with a low probability).
        init: how the other maps start, one of HEAD_INITS: with PyTorch's default; with zero biases; with a small
            normal last convolution; with small normal convolutions throughout (the latter two with zero biases).
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
        check_choice("MODEL.CENTERNET.HEAD_INIT", init, HEAD_INITS)
        for name, channels in maps.items():
            layers = [nn.Conv2d(head_conv or in_channels, channels, 1)]
            if head_conv:
                layers = [nn.Conv2d(in_channels, head_conv, 3, padding=1), nn.ReLU(inplace=True), *layers]
            self[name] = nn.Sequential(*layers)
            if name in heatmaps:
                nn.init.constant_(layers[-1].bias, HEATMAP_BIAS)
            else:
                _init_branch(layers, init)

    def forward(self, feature: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, H, W) feature map -> {name: (B, channels, H, W)} raw maps, float32."""
        maps = {}
        for name, branch in self.items():
            hidden = branch[:-1](feature)
            with torch.autocast(feature.device.type, enabled=False):
                maps[name] = branch[-1](hidden.to(branch[-1].weight.dtype))
        return maps


def _init_branch(layers: Sequence[nn.Module], init: str) -> None:
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    small = {"small": convolutions, "small_last": convolutions[-1:]}.get(init, [])
    for layer in small:
        nn.init.normal_(layer.weight, std=0.001)
    for layer in convolutions if init == "zero_bias" else small:
        nn.init.zeros_(layer.bias)


class PointHead(nn.Module):
    """Everything the project knows about one property of a point.

    A subclass says which maps it predicts, what they should be, how wrong they are, what a mirror does to them and
    what they say at the peaks. A new property is one such class and one name in ``MODEL.CENTERNET.HEADS``.

    Args:
        maps: channels of each map.
        in_channels, head_conv, init: see :class:`MapBranches`.
        num_stacks: supervised stacks of the backbone; each has its own branches.
    """

    #: Names of the maps that are heatmaps.
    heatmaps: tuple[str, ...] = ()
    #: Decoded fields that earlier heads must provide, and those that this head provides.
    requires: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    #: Whether detections of several test scales can be merged, and whether only the best of them are kept (SPEC 9.4).
    multi_scale: bool = True
    limit_merged: bool = True

    def __init__(
        self,
        maps: Mapping[str, int],
        *,
        in_channels: int,
        head_conv: int = 64,
        init: str = "small_last",
        num_stacks: int = 1,
    ) -> None:
        super().__init__()
        self.maps = dict(maps)
        self.stacks = nn.ModuleList(
            MapBranches(maps, in_channels=in_channels, head_conv=head_conv, heatmaps=self.heatmaps, init=init)
            for _ in range(num_stacks)
        )

    @staticmethod
    def common_config(cfg: CfgNode, input_shape: ShapeSpec, num_stacks: int) -> dict[str, object]:
        """The arguments of the constructor that all heads share, for their ``from_config``."""
        return {
            "in_channels": input_shape.channels,
            "head_conv": cfg.MODEL.CENTERNET.HEAD_CONV,
            "init": cfg.MODEL.CENTERNET.HEAD_INIT,
            "num_stacks": num_stacks,
        }

    @classmethod
    def build_annotator(cls, cfg: CfgNode) -> Annotator | None:
        """A function that turns annotations into ``gt_*`` fields for training; None if boxes and classes suffice."""
        return None

    @classmethod
    def check_data(cls, cfg: CfgNode, dicts: Sequence[dict]) -> None:
        """Raise a ValueError if the annotations of a data set do not suit the config; called at start-up."""

    def forward(self, feature: Tensor, stack: int = -1) -> dict[str, Tensor]:
        """Feature map of one stack -> raw maps."""
        return self.stacks[stack](feature)

    def activate(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Raw maps -> maps as they are read at test time; heatmaps become probabilities."""
        return {name: maps[name].float().sigmoid() if name in self.heatmaps else maps[name] for name in self.maps}

    def targets(self, gt: Sequence[Instances], points: Points) -> dict[str, Tensor | SparseTarget]:
        """What each map should be: dense (B, C, H, W), or values at cells."""
        raise NotImplementedError

    def losses(self, maps: dict[str, Tensor], targets: dict[str, Tensor | SparseTarget]) -> dict[str, Tensor]:
        """Weighted scalar losses of one stack; connected to the maps even without objects."""
        raise NotImplementedError

    def unflip(self, maps: dict[str, Tensor]) -> dict[str, Tensor | None]:
        """Activated maps of the mirrored image, turned back; None for maps that flip testing does not average."""
        raise NotImplementedError

    def decode(self, maps: dict[str, Tensor], peaks: Peaks, fields: dict[str, Tensor]) -> dict[str, Tensor]:
        """What activated maps say at the peaks: (B, K, ...) tensors in map pixels, for any number of real objects.

        Args:
            maps: activated maps of all heads.
            peaks: the points.
            fields: what earlier heads decoded.
        """
        raise NotImplementedError

    def to_image(self, fields: dict[str, Tensor], geometry: Geometry) -> dict[str, object]:
        """Decoded fields of one image, (K, ...) -> fields of its Instances, in pixels of the original image."""
        raise NotImplementedError


def unflip_vectors(vectors: Tensor, shift: float) -> Tensor:
    """(..., 2, H, W) vectors (x, y) from the cells of a mirrored image -> those from the cells of the upright image.

    Args:
        vectors: in cells.
        shift: x becomes ``shift - x``. A mirror takes the s pixels of a cell from 0 ... s - 1 to s - 1 ... 0, so
            (s - 1) / s is exact for vectors from the corner of a cell.
    """
    x, y = vectors.flip(-1).unbind(-3)
    return torch.stack([shift - x, y], dim=-3)


def heads_provide(cfg: CfgNode, field: str) -> bool:
    """Whether a head of the config decodes a field, such as "boxes" or "keypoints"."""
    names = cfg.MODEL.CENTERNET.HEADS
    return any(field in lookup(POINT_HEAD_REGISTRY, name, "MODEL.CENTERNET.HEADS").provides for name in names)


def lookup(registry: Registry, name: str, key: str) -> object:
    """An entry of a registry.

    Args:
        registry: where to look.
        name: what to look for.
        key: the config key that names it.

    Raises:
        KeyError: there is none; the message lists those there are.
    """
    if name not in registry:
        known = ", ".join(sorted(entry for entry, _ in registry))
        raise KeyError(f"{key}: there is no '{name}' in the registry {registry._name}; it has: {known}")
    return registry.get(name)


def build_point_heads(cfg: CfgNode, input_shape: ShapeSpec, num_stacks: int) -> dict[str, PointHead]:
    """The heads of ``MODEL.CENTERNET.HEADS``, in order."""
    return {
        name: lookup(POINT_HEAD_REGISTRY, name, "MODEL.CENTERNET.HEADS")(cfg, input_shape, num_stacks)
        for name in cfg.MODEL.CENTERNET.HEADS
    }
