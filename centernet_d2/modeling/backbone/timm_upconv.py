"""Networks of timm as trunks under the aggregation neck of DLA."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn

from ...config.arguments import build_from_keys
from ...config.trunks import check_timm_name, import_timm
from ...utils.validation import ArgumentError, check_choice
from .aggregation import AggregationNeck
from .common import NORMS, check_input_size
from .trunk import TrunkBackbone

__all__ = ["TimmUpConv", "common_name"]

STRIDES = (4, 8, 16, 32)
# Mapping from constructor arguments to config keys.
KEYS = {
    "name": "MODEL.TIMM.NAME",
    "trunk_norm": "MODEL.TIMM.NORM",
    "width": "MODEL.UPCONV.WIDTH",
    "deformable": "MODEL.UPCONV.DEFORMABLE",
    "deform_conv": "MODEL.DEFORM_CONV",
    "norm": "MODEL.UPCONV.NORM",
}


class TimmUpConv(TrunkBackbone):
    """Network of timm under the aggregation neck of DLA-34.

    The network must have levels of strides 4, 8, 16 and 32.

    The constructor never downloads: weights of the trunk are random until ``MODEL.TRUNK_WEIGHTS`` is loaded.
    """

    def __init__(
        self,
        *,
        name: str,
        trunk_norm: str = "BN",
        width: int = 64,
        deformable: bool = False,
        deform_conv: str = "auto",
        norm: str = "BN",
    ) -> None:
        """
        Args:
            name: name of a network of timm, such as "convnext_nano".
            trunk_norm: batch norms of the trunk: "BN", "SyncBN" or "FrozenBN"; other norms are not affected.
            width, deformable, deform_conv, norm: see :class:`AggregationNeck`.

        Raises:
            MissingPackage: timm is not installed.
            ValueError: if an argument is invalid, or the network has no levels of strides 4 to 32.
        """
        super().__init__()
        check_choice("trunk_norm", trunk_norm, NORMS)
        self.trunk, self._levels, ends = _build_trunk(name)
        channels = self.trunk.feature_info.channels()
        if trunk_norm == "SyncBN":
            self.trunk = import_timm().layers.convert_sync_batchnorm(self.trunk)
        self.stages = tuple(f"trunk.{end}" for end in ends)
        self.neck = AggregationNeck(
            [channels[level] for level in self._levels],
            width=width,
            deformable=deformable,
            deform_conv=deform_conv,
            norm=norm,
        )
        self.name = name
        self.set_output(width)
        if trunk_norm == "FrozenBN":
            modules = self.trunk.named_modules(prefix="trunk")
            self.freeze([name for name, module in modules if isinstance(module, nn.BatchNorm2d)])

    def reparameterize(self) -> None:
        """Merge parallel branches of the trunk (RepViT, MobileOne) in place."""
        import_timm().utils.reparameterize_model(self.trunk, inplace=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute {"stack_0": (B, width, H / 4, W / 4)} from (B, 3, H, W) images.

        H and W must be multiples of 32.
        """
        check_input_size(x, self.size_divisibility)
        features = self.trunk(x)
        return {"stack_0": self.neck([features[level] for level in self._levels])}


def _build_trunk(name: str) -> tuple[Any, list[int], list[str]]:
    """Build a trunk with random weights.

    Returns:
        The trunk; the indices of its levels of strides 4 to 32; and the last modules of its five stages. The first
        stage is everything before the level of stride 4 if the trunk has no level of stride 2.
    """
    check_timm_name(name)
    timm = import_timm()
    try:
        trunk = timm.create_model(name, pretrained=False, features_only=True)
    except (AttributeError, RuntimeError) as error:  # Not all networks have levels.
        raise ArgumentError("name", f"is '{name}', which has no levels of features ({error})") from error
    strides = trunk.feature_info.reduction()
    last = {stride: level for level, stride in enumerate(strides)}
    if missing := [stride for stride in STRIDES if stride not in last]:
        raise ArgumentError("name", f"is '{name}', which has levels of strides {strides}, but {missing} are needed too")
    if getattr(trunk, "output_fmt", "NCHW") != "NCHW" or timm.get_pretrained_cfg(name).fixed_input_size:
        raise ArgumentError("name", f"is '{name}', which is not a convolutional network for inputs of any size")
    names = {common_name(module): module for module, _ in trunk.named_modules()}
    outputs = [names[common_name(module)] for module in trunk.feature_info.module_name()]
    levels = [last[stride] for stride in STRIDES]
    order = list(names.values())
    stem = outputs[last[2]] if 2 in last else order[order.index(outputs[levels[0]]) - 1]
    return trunk, levels, [stem, *(outputs[level] for level in levels)]


def common_name(name: str) -> str:
    """Normalize a tensor name that differs between a classifier and its trunk.

    For example, ``stages.0`` and ``stages_0`` have the same result.
    """
    return name.removeprefix("model.").replace("_", ".")


@BACKBONE_REGISTRY.register()
def build_timm_upconv_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmUpConv:
    """Build :class:`TimmUpConv` from ``MODEL.TIMM`` and ``MODEL.UPCONV``."""
    return build_from_keys(TimmUpConv, cfg, KEYS)
