"""The names of the original's checkpoints, and what they are called here (original.md: Tensor names, Checkpoints)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..modeling.backbone.hourglass import Hourglass
from ..modeling.meta_arch import CenterNet

__all__ = ["original_names", "original_state_dict", "to_our_names", "trunk_state_dict"]

_BRANCH = re.compile(r"heads\.\w+\.stacks\.(?P<stack>\d+)\.(?P<map>\w+)\.(?P<layer>\d)\.(?P<kind>\w+)")


def original_names(model: CenterNet) -> dict[str, str]:
    """Our name of every tensor of a model -> its name in the original, as far as the heads know it.

    Maps that the original does not have keep their own name.
    """
    per_stack = isinstance(model.backbone, Hourglass)
    maps = {name: original for head in model.heads.values() for name, original in head.original_names.items()}
    return {name: _original_name(name, maps, per_stack) for name in model.state_dict()}


def _original_name(name: str, maps: Mapping[str, str], per_stack: bool) -> str:
    branch = _BRANCH.fullmatch(name)
    if not branch:
        return name.removeprefix("backbone.")
    head, layer, kind = maps.get(branch["map"], branch["map"]), branch["layer"], branch["kind"]
    if per_stack:  # The hidden convolution is a unit of its own there, and the last one is counted as the second layer.
        return f"{head}.{branch['stack']}.{'0.conv' if layer == '0' else '1'}.{kind}"
    return f"{head}.{layer}.{kind}"


def original_state_dict(data: dict) -> dict[str, Tensor]:
    """The tensors of a file: those in ``state_dict`` where there is one, without the ``module.`` of DataParallel."""
    state = data.get("state_dict", data)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def trunk_state_dict(data: dict, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an ImageNet classifier with the names they have in a backbone.

    Args:
        data: the file.
        own: state dict of the backbone; DLA keeps its trunk in a module of its own.
    """
    prefix = "base." if any(name.startswith("base.") for name in own) else ""
    state = {f"{prefix}{name}": tensor for name, tensor in original_state_dict(data).items()}
    # Classifiers are not needed, and frozen batch norms do not count batches.
    return {
        name: tensor
        for name, tensor in state.items()
        if name in own or not (name.startswith(f"{prefix}fc.") or name.endswith("num_batches_tracked"))
    }


def to_our_names(model: CenterNet, data: dict) -> tuple[dict[str, Tensor], bool]:
    """The tensors of a file of ours, of the original or of an ImageNet classifier, by the names of a model.

    Tensors without a counterpart keep the name they have.

    Returns:
        The state dict, and whether it is that of a classifier, which fills a trunk only.
    """
    state = original_state_dict(data)
    if any(name.startswith(("backbone.", "heads.")) for name in state):
        return state, False
    if any(name in ("fc.weight", "fc.bias") for name in state):
        trunk = trunk_state_dict(data, model.backbone.state_dict())
        return {f"backbone.{name}": tensor for name, tensor in trunk.items()}, True
    ours = {original: name for name, original in original_names(model).items()}
    return {ours.get(name, name): tensor for name, tensor in state.items()}, False
