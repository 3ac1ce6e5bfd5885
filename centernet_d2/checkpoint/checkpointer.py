"""Reading weights by name, strictly, and without ever executing what a file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from ..config import load_config
from ..config_files import available
from ..modeling.meta_arch import CenterNet
from .original import to_our_names, trunk_state_dict

__all__ = ["CenterNetCheckpointer", "check_exists", "fitting_configs", "load_file", "load_trunk"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_exists(path: str | Path) -> None:
    """Raise a FileNotFoundError unless there is a weights file; cheap, so do it before anything is built."""
    if Path(path).is_dir():
        raise FileNotFoundError(f"{path} is a folder, not a weights file; name the .pth file in it")
    if not Path(path).is_file():
        raise FileNotFoundError(f"the weights file {path} does not exist")


def load_file(path: str | Path) -> dict:
    """Read a ``.pth`` file of tensors and plain Python values, in today's format or in that of torch 0.4.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a pickle, or holds more than tensors and plain values, or is damaged; or its weights are not
            names with plain, finite tensors.
    """
    check_exists(path)
    if Path(path).suffix in (".pkl", ".pickle"):
        raise ValueError(f"{path} is a pickle, which can execute code when it is read; save it as a .pth state dict")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # The unpickler raises whatever it stumbles over.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} is not a file of plain weights: it is damaged, or holds Python objects, which are never loaded. "
            f"Save its state dict alone. ({reason})"
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, not a dict of weights; save the model's state_dict()")
    _check_weights(data, path)
    return data


def _check_weights(data: dict, path: str | Path) -> None:
    """Raise a ValueError unless the weights in a file are names with plain, finite tensors."""
    key = next((key for key in ("model", "state_dict") if key in data), None)
    weights = data if key is None else data[key]
    where = str(path) if key is None else f"'{key}' in {path}"
    advice = "save the model's state_dict()"
    if not isinstance(weights, dict):
        raise ValueError(f"{where} is a {type(weights).__name__}, not a dict of weights; {advice}")
    if not weights:
        raise ValueError(f"{where} has no weights in it; {advice}")
    if unnamed := [name for name in weights if not isinstance(name, str)]:
        raise ValueError(
            f"{where} has {len(unnamed)} keys that are no names of tensors, such as {unnamed[0]!r}; {advice}"
        )
    problems = {name: reason for name, value in weights.items() if (reason := _problem(value))}
    if problems:
        rows = ", ".join(f"{name} ({reason})" for name, reason in list(problems.items())[:3])
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{where}: {len(problems)} of {len(weights)} entries cannot be weights: {rows}{more}. Take another "
            "checkpoint, or save the state_dict() of a model with plain, finite tensors"
        )


def _problem(value: object) -> str:
    """Why something cannot be a weight; "" if it can."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}, no tensor"
    if value.is_quantized or value.layout != torch.strided or value.is_meta:
        return "quantized" if value.is_quantized else "without values" if value.is_meta else "sparse"
    if value.is_complex() or (value.is_floating_point() and value.dtype not in FLOATS):
        return str(value.dtype).removeprefix("torch.")
    wrong = 0 if not value.is_floating_point() else value.numel() - int(value.float().isfinite().sum())
    return f"{wrong} of {value.numel()} values are NaN or infinite" if wrong else ""


def _check_floats(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise a ValueError if a file has whole numbers where the model has others."""
    wrong = [n for n, t in weights.items() if n in own and own[n].is_floating_point() and not t.is_floating_point()]
    if wrong:
        kind = str(weights[wrong[0]].dtype).removeprefix("torch.")
        raise ValueError(
            f"{path}: {len(wrong)} tensors are whole numbers where the model has floating-point ones, the first: "
            f"{wrong[0]} ({kind}). Save the weights in floating point"
        )


def load_trunk(backbone: nn.Module, path: str | Path) -> None:
    """Fill the trunk of a backbone from an ImageNet classifier: torchvision's ResNets, or the original's DLA-34 file.

    The classifier itself (``fc``) is left out where the backbone has no place for it.

    Raises:
        ValueError: a tensor of the file has no counterpart of its shape in the backbone.
    """
    own = backbone.state_dict()
    weights = trunk_state_dict(load_file(path), own)
    wrong = [f"{name} {tuple(t.shape)}" for name, t in weights.items() if name not in own or own[name].shape != t.shape]
    if wrong or not weights:
        raise ValueError(
            f"MODEL.TRUNK_WEIGHTS: {path} does not fit the {type(backbone).__name__} backbone "
            f"({len(wrong)} of {len(weights)} tensors; first: {', '.join(wrong[:3])}). "
            "Are MODEL.BACKBONE.NAME and MODEL.RESNETS.DEPTH right?"
        )
    _check_floats(weights, own, path)
    backbone.load_state_dict(weights, strict=False)


class CenterNetCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer for files of ours, of the original's authors, and of ImageNet classifiers.

    A file must fill the whole backbone (a classifier: its trunk), and every one of its tensors must land. With
    `fine_tune` the heads may differ: those of another shape start fresh, and the log says which. A model that a file
    does not fit may be filled in part.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        fine_tune: bool = False,
        metadata: Mapping[str, object] = MappingProxyType({}),
        **kwargs: Any,
    ) -> None:
        """
        Args:
            model: a CenterNet, possibly wrapped for distributed training.
            save_dir: where checkpoints go.
            fine_tune: see above.
            metadata: what files keep beside the weights, see :func:`centernet_d2.data.metadata.to_plain`.
            kwargs: see :class:`detectron2.checkpoint.DetectionCheckpointer`.

        Raises:
            ValueError: the metadata have more than plain values in them, so that files could not be read again.
        """
        super().__init__(model, save_dir, **kwargs)
        if strangers := [name for name, value in metadata.items() if not _is_plain(value)]:
            raise ValueError(f"metadata of a checkpoint must be plain values, but {', '.join(strangers)} is not")
        self.fine_tune = fine_tune
        self.metadata = dict(metadata)
        self._needed: Sequence[str] = ()

    def save(self, name: str, **kwargs: Any) -> None:
        """See :class:`detectron2.checkpoint.DetectionCheckpointer`; adds ``metadata`` if there are any."""
        super().save(name, **({"metadata": self.metadata} if self.metadata else {}), **kwargs)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict:
        """See :class:`detectron2.checkpoint.DetectionCheckpointer`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be read, or does not fit the model.
        """
        if path and "://" not in path:
            check_exists(path)
        try:
            return super().load(path, *args, **kwargs)
        finally:  # Detectron2's refuses to load again after an error.
            self._parsed_url_during_load = None

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """Load the last checkpoint with the state of its training; without one, or without `resume`, weights alone.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be read, does not fit the model, or has no state of a training.
        """
        resume = resume and self.has_checkpoint()
        if resume:
            self._check_last_checkpoint()
        self._needed = tuple(self.checkpointables) if resume else ()
        return super().resume_or_load(path, resume=resume)

    def _check_last_checkpoint(self) -> None:
        note = Path(self.save_dir, "last_checkpoint")
        name = note.read_text(encoding="utf-8", errors="replace").strip()
        if not name or not Path(self.save_dir, name).is_file():
            raise FileNotFoundError(
                f"{note} names {name!r}, which is no file in that folder: write the name of a checkpoint that is there "
                "into it, or delete it to start from MODEL.WEIGHTS"
            )

    def _load_file(self, filename: str) -> dict:
        self._filename = filename
        data = load_file(filename)
        for key in self._needed:
            state = data.get(key)
            if not (isinstance(state, dict) and isinstance(state.get("iteration"), int)):
                raise ValueError(
                    f"{filename} has weights, but no state of a training ('{key}' with its iteration) to resume from. "
                    "To start a new training from these weights, set MODEL.WEIGHTS to this file, choose another "
                    "OUTPUT_DIR and leave out --resume"
                )
        if "model" in data:
            return data
        # Converted files keep the metadata; a bare state dict has tensors only.
        kept = {"metadata": data["metadata"]} if "state_dict" in data and "metadata" in data else {}
        return {"model": data, **kept}

    def _load_model(self, checkpoint: dict) -> object:
        """Raise a ValueError, with the configs that would fit, unless the file fits as described above."""
        state, is_trunk = to_our_names(self.model, checkpoint.pop("model"))
        own = self.model.state_dict()
        state = {name: tensor for name, tensor in state.items() if name in own or not _is_optional(name)}
        _check_floats(state, own, self._filename)
        report = super()._load_model({"model": dict(state)})
        report.missing_keys[:] = [name for name in report.missing_keys if not (is_trunk or _is_optional(name))]
        wrong = [*(name for name, _, _ in report.incorrect_shapes), *report.missing_keys, *report.unexpected_keys]
        if wrong and not (self.fine_tune and not any(name.startswith("backbone.") and name in own for name in wrong)):
            wrong.sort(key=lambda name: not name.startswith("backbone."))
            raise ValueError(self._misfit(state, own, wrong))
        return report

    def _misfit(self, state: dict[str, Tensor], own: dict[str, Tensor], wrong: list[str]) -> str:
        def shape(tensors: dict[str, Tensor], name: str) -> str:
            return "x".join(map(str, tensors[name].shape)) or "scalar" if name in tensors else "not there"

        rows = [f"  {name}: {shape(state, name)} in the file, {shape(own, name)} in the model" for name in wrong[:5]]
        configs = fitting_configs(load_file(self._filename))
        return (
            f"the weights in {self._filename} do not fit this model; {len(wrong)} tensors differ, the first:\n"
            + "\n".join(rows)
            + f"\nConfigs of the model zoo that fit the file: {', '.join(configs) or 'none'}"
        )


def _is_plain(value: object) -> bool:
    """Whether something is made of what weights-only reading knows without being told."""
    if isinstance(value, dict):
        return all(_is_plain(part) for item in value.items() for part in item)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _is_optional(name: str) -> bool:
    """Tensors that nothing depends on: counters of batch norms, DLA's classifier (original.md: DLA trunk)."""
    return name.endswith("num_batches_tracked") or name.startswith("backbone.base.fc.")


def fitting_configs(data: dict) -> list[str]:
    """Names of the model zoo's configs whose models have just the tensors of a file."""
    found = []
    for name in available():
        with torch.device("meta"):
            model = CenterNet(load_config(name, ["MODEL.DEVICE", "cpu"]))
        state, _ = to_our_names(model, data.get("model", data))
        shapes, own = ({n: t.shape for n, t in s.items() if not _is_optional(n)} for s in (state, model.state_dict()))
        if shapes == own:
            found.append(name)
    return found
