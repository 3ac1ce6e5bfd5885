"""Reading weights, without ever executing what a file says."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

__all__ = ["CenterNetCheckpointer", "load_file", "load_trunk"]


def load_file(path: str | Path) -> dict:
    """Read a ``.pth`` file of tensors and plain Python values.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a pickle, or holds more than tensors and plain values, or is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"the weights file {path} does not exist")
    if Path(path).suffix in (".pkl", ".pickle"):
        raise ValueError(f"{path} is a pickle, which can execute code when it is read; save it as a .pth state dict")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} is not a file of plain weights: it is damaged, or holds Python objects, which are never loaded. "
            f"Save its state dict alone. ({reason})"
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, not a dict of weights")
    return data


def load_trunk(backbone: nn.Module, path: str | Path) -> None:
    """Fill the trunk of a backbone from an ImageNet classifier with the same names, such as torchvision's ResNets.

    The classifier itself (``fc``) is left out.

    Raises:
        ValueError: a tensor of the file has no counterpart of its shape in the backbone.
    """
    weights = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("fc.")}
    own = backbone.state_dict()
    # Frozen batch norms do not count batches.
    weights = {name: tensor for name, tensor in weights.items() if name in own or "num_batches" not in name}
    wrong = [f"{name} {tuple(tensor.shape)}" for name, tensor in weights.items() if _shape(own, name) != tensor.shape]
    if wrong or not weights:
        raise ValueError(
            f"MODEL.TRUNK_WEIGHTS: {path} does not fit the {type(backbone).__name__} backbone "
            f"({len(wrong)} of {len(weights)} tensors; first: {', '.join(wrong[:3])}). Is MODEL.RESNETS.DEPTH right?"
        )
    backbone.load_state_dict(weights, strict=False)


def _shape(state: dict[str, Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


class CenterNetCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that reads files with :func:`load_file`, and knows classifiers as trunks."""

    def _load_file(self, filename: str) -> dict:
        data = load_file(filename)
        return data if "model" in data else {"model": data}

    def _load_model(self, checkpoint: dict) -> object:
        weights = checkpoint["model"]
        if not any(name.startswith("backbone.") for name in weights):
            weights = {f"backbone.{name}": tensor for name, tensor in weights.items() if not name.startswith("fc.")}
        return super()._load_model({**checkpoint, "model": weights})
