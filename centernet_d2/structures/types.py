"""Type aliases of the carriers that pass between data, network and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["DatasetDict", "Fields", "Maps", "Targets"]

#: One image in Detectron2's format: ``file_name``, ``height``, ``width``, ``annotations``; after the mapper also
#: ``image`` (C, H, W) and, in training, ``instances``. Properties may add input keys.
DatasetDict: TypeAlias = dict[str, Any]

#: Map name -> (B, C, H, W) tensor.
Maps: TypeAlias = "dict[str, Tensor]"

#: Field name -> (B, K, ...) tensor, decoded at the K peaks of each of B images; (K, ...) for a single image.
Fields: TypeAlias = "dict[str, Tensor]"

#: Map name -> DenseTarget or SparseTarget, depending on the map. ``Any``, because each head knows the type of its
#: own targets and a union would have to be narrowed at every use.
Targets: TypeAlias = "Mapping[str, Any]"
