"""Base class of the backbones with a trunk, whose first stages can be frozen."""

from __future__ import annotations

from collections.abc import Collection

from detectron2.modeling import Backbone
from torch import nn

__all__ = ["TrunkBackbone", "freeze_stages", "trunk_parameters"]


class TrunkBackbone(Backbone):
    """Backbone with a trunk of five stages and a neck.

    The output is one feature map of stride 4. The sides of the input must be multiples of 32.

    Attributes:
        stages: names of the modules that compute the levels of strides 2, 4, 8, 16 and 32. The modules of a stage are
            all modules of the trunk up to this one that do not belong to an earlier stage.
    """

    stages: tuple[str, ...]
    _frozen: tuple[str, ...] = ()

    def set_output(self, channels: int) -> None:
        """Define the output ``stack_0``; call it in constructors.

        Args:
            channels: number of channels of the feature map.
        """
        self._out_features = ["stack_0"]
        self._out_feature_channels = {"stack_0": channels}
        self._out_feature_strides = {"stack_0": 4}

    @property
    def size_divisibility(self) -> int:
        return 32

    def modules_of(self, count: int) -> list[str]:
        """Return the names of all modules of the first `count` stages."""
        names = [name for name, _ in self.named_modules()]
        end = max(i for i, name in enumerate(names) if f"{name}.".startswith(f"{self.stages[count - 1]}."))
        return names[1 : end + 1]  # Without the backbone itself.

    def freeze(self, names: Collection[str]) -> None:
        """Freeze modules, without their submodules.

        They have no gradients and stay in evaluation mode, which fixes statistics.
        """
        self._frozen = (*self._frozen, *names)
        for name in names:
            for parameter in self.get_submodule(name).parameters(recurse=False):
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> TrunkBackbone:
        """Set the mode of all modules except the frozen ones."""
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).training = False
        return self


def freeze_stages(backbone: nn.Module, count: int) -> None:
    """Freeze the first stages of a trunk.

    Raises:
        ValueError: the backbone has no trunk, or not as many stages.
    """
    stages = backbone.stages if isinstance(backbone, TrunkBackbone) else ()
    if not 0 <= count <= len(stages):
        kind = type(backbone).__name__
        raise ValueError(
            f"MODEL.TRUNK_FROZEN_STAGES is {count}, but the trunk of {kind} has {len(stages)} stages"
            if stages
            else f"MODEL.TRUNK_FROZEN_STAGES is {count}, but {kind} has no trunk: set it to 0"
        )
    if count and isinstance(backbone, TrunkBackbone):
        backbone.freeze(backbone.modules_of(count))


def trunk_parameters(backbone: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the trunk; an empty list if the backbone has none."""
    if not isinstance(backbone, TrunkBackbone):
        return []
    modules = map(backbone.get_submodule, backbone.modules_of(len(backbone.stages)))
    return [parameter for module in modules for parameter in module.parameters(recurse=False)]
