"""Folding of batch norms into the preceding convolutions for inference."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeVar

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .deform_conv import DeformConv

__all__ = ["fold_batch_norms"]

Network = TypeVar("Network", bound=nn.Module)

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)
# Exact types, because subclasses may compute something else.
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, DeformConv)


def fold_batch_norms(network: Network) -> Network:
    """Return a copy in evaluation mode with batch norms folded into convolutions.

    Outputs are the same up to rounding. A network with a method ``reparameterize`` first merges its parallel branches
    with it. A batch norm is folded if its input is the output of a convolution that no
    other module uses and each of the two modules runs once, or if it is the ``norm`` of a Conv2d of Detectron2. Other
    batch norms, including those after grouped transposed convolutions, are unchanged.

    Args:
        network: a backbone, or another network that torch.fx can trace.

    Raises:
        ValueError: torch.fx cannot trace the network.
    """
    folded = copy.deepcopy(network).eval()
    if callable(reparameterize := getattr(folded, "reparameterize", None)):
        reparameterize()
    for conv_name, norm_name in list(_pairs(folded)):
        # Any: DeformConv and FrozenBatchNorm2d have all attributes that fuse_conv_bn_eval uses.
        conv: Any = folded.get_submodule(conv_name)
        norm: Any = folded.get_submodule(norm_name)
        _replace(folded, norm_name, _activation(norm))
        _replace(folded, conv_name, fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d)))
    return folded


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = isinstance(m, (*NORMS, *CONVOLUTIONS))
        return leaf or super().is_leaf_module(m, module_qualified_name)


def _pairs(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Generate the names of convolutions and of the norms to fold into them."""
    try:
        nodes = list(_Tracer().trace(network).nodes)
    except Exception as error:  # forward() may raise any exception for the proxies of the tracer.
        raise ValueError(
            f"batch norms of {type(network).__name__} cannot be folded, because torch.fx cannot trace it ({error}): "
            "set TEST.FOLD_NORMS False"
        ) from error
    calls = {node: str(node.target) for node in nodes if node.op == "call_module"}
    # Access to a parameter from outside of its module counts as a use of the module.
    reads = [str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"]
    uses = Counter([*calls.values(), *reads])
    for node, name in calls.items():
        module = network.get_submodule(name)
        if uses[name] > 1:
            continue
        if type(module) is Conv2d and _has_statistics(module.norm):
            yield name, f"{name}.norm"
        (before, *others) = node.all_input_nodes or [None]
        if before not in calls or others or not _has_statistics(module):
            continue
        conv = network.get_submodule(calls[before])
        if _is_plain(conv) and len(before.users) == uses[calls[before]] == 1:
            yield calls[before], name


def _has_statistics(module: nn.Module | None) -> bool:
    return isinstance(module, NORMS) and module.running_mean is not None


def _is_plain(module: nn.Module) -> bool:
    """Return True for convolutions that can be folded; transposed ones must have one group."""
    return type(module) in CONVOLUTIONS and not (isinstance(module, nn.ConvTranspose2d) and module.groups > 1)


def _activation(norm: Any) -> nn.Module:
    """Return the activation of a norm of timm that includes it; the identity for other norms."""
    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)
