"""Tensor names of the reference implementation (original.md: Tensor names).

File formats of the reference implementation are also supported (original.md: Checkpoints).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..modeling.backbone.hourglass import Hourglass
from ..modeling.meta_arch import CenterNet

__all__ = ["original_names", "original_state_dict", "to_our_names", "trunk_state_dict"]

_BRANCH = re.compile(r"heads\.\w+\.stacks\.(?P<stack>\d+)\.(?P<map>\w+)\.(?P<layer>\d)\.(?P<kind>\w+)")


def original_names(model: CenterNet) -> dict[str, str]:
    """Map tensor names of a model to the names in the reference implementation.

    Maps that the reference implementation does not have keep their names.
    """
    per_stack = isinstance(model.backbone, Hourglass)
    maps = {name: original for head in model.heads.values() for name, original in head.original_names.items()}
    return {name: _original_name(name, maps, per_stack) for name in model.state_dict()}


def _original_name(name: str, maps: Mapping[str, str], per_stack: bool) -> str:
    branch = _BRANCH.fullmatch(name)
    if not branch:
        return name.removeprefix("backbone.")
    head, layer, kind = maps.get(branch["map"], branch["map"]), branch["layer"], branch["kind"]
    if per_stack:  # The reference wraps the hidden convolution in a module; the last convolution is layer 1.
        return f"{head}.{branch['stack']}.{'0.conv' if layer == '0' else '1'}.{kind}"
    return f"{head}.{layer}.{kind}"


def original_state_dict(data: dict) -> dict[str, Tensor]:
    """Return the tensors of a file without the ``module.`` prefix of DataParallel.

    Args:
        data: content of the file: a state dict, or a dict with the key ``state_dict``.
    """
    state = data.get("state_dict", data)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def trunk_state_dict(data: dict, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an ImageNet classifier to the names of a backbone.

    Args:
        data: content of the file.
        own: state dict of the backbone; the trunk of DLA is the submodule ``base``.
    """
    prefix = "base." if any(name.startswith("base.") for name in own) else ""
    state = {f"{prefix}{name}": tensor for name, tensor in original_state_dict(data).items()}
    # The last layer is not needed, and frozen batch norms have no num_batches_tracked.
    return {
        name: tensor
        for name, tensor in state.items()
        if name in own or not (name.startswith(f"{prefix}fc.") or name.endswith("num_batches_tracked"))
    }


def to_our_names(model: CenterNet, data: dict) -> tuple[dict[str, Tensor], bool]:
    """Rename the tensors of a weights file to the names of a model.

    Supported are files of this project, the reference implementation and ImageNet classifiers. Tensors without a
    counterpart in the model keep their names.

    Returns:
        The state dict, and True if it is from a classifier, which contains only the trunk.
    """
    state = original_state_dict(data)
    if any(name.startswith(("backbone.", "heads.")) for name in state):
        return state, False
    if any(name in ("fc.weight", "fc.bias") for name in state):
        trunk = trunk_state_dict(data, model.backbone.state_dict())
        return {f"backbone.{name}": tensor for name, tensor in trunk.items()}, True
    ours = {original: name for name, original in original_names(model).items()}
    return {ours.get(name, name): tensor for name, tensor in state.items()}, False
