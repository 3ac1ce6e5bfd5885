"""Weights of timm's classifiers for the trunk of TimmUpConv."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..config.trunks import import_timm
from ..modeling.backbone.timm_upconv import TimmUpConv, common_name

__all__ = ["HUB", "fetch_from_hub", "missing_tensors", "timm_state_dict"]

# Value of MODEL.TRUNK_WEIGHTS for the weights that timm downloads.
HUB = "timm"


def fetch_from_hub(backbone: TimmUpConv) -> dict[str, Tensor]:
    """Download the weights of a trunk to the cache of timm.

    Raises:
        FileNotFoundError: the weights cannot be downloaded.
    """
    try:
        return import_timm().create_model(backbone.name, pretrained=True).state_dict()
    except Exception as error:  # The packages for downloads raise exceptions of their own.
        raise FileNotFoundError(
            f"MODEL.TRUNK_WEIGHTS {HUB}: the weights of {backbone.name} could not be downloaded ({error}): download "
            "them from huggingface.co/timm and set MODEL.TRUNK_WEIGHTS to the file"
        ) from error


def timm_state_dict(backbone: TimmUpConv, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a classifier to the names of a backbone.

    Tensors of the classifier that the trunk does not have, such as its last layer, are dropped. Tensors that the
    classifier does not have either keep their names.
    """
    own = {common_name(name): f"trunk.{name}" for name in backbone.trunk.state_dict()}
    classifier = {common_name(name) for name in import_timm().create_model(backbone.name).state_dict()}
    names = {name: own.get(common_name(name), name) for name in weights}
    return {names[name]: t for name, t in weights.items() if names[name] != name or common_name(name) not in classifier}


def missing_tensors(backbone: TimmUpConv, weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors of the trunk that `weights` lacks.

    Counters of batches may be missing.
    """
    own = (f"trunk.{name}" for name in backbone.trunk.state_dict())
    return [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
