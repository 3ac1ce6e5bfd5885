"""Weights by name, filled in strictly, and written so that none is lost."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from ..utils.files import is_inside, write_atomically
from .loading import find_trunk, find_weights, load_file
from .reference_names import to_our_names, trunk_state_dict

__all__ = [
    "CenterNetCheckpointer",
    "checkpoint_files",
    "has_checkpoint",
    "load_trunk",
]

# Names of the checkpoints that a training goes on from.
CHECKPOINT = re.compile(r"model_(\d+|final)\.pth")


def checkpoint_files(folder: str | Path) -> list[Path]:
    """The checkpoints of a training in its folder, the newest first; no links out of it."""
    files = [path for path in Path(folder).glob("model_*.pth") if CHECKPOINT.fullmatch(path.name) and is_inside(path)]
    return sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def has_checkpoint(folder: str | Path) -> bool:
    """Whether there is a training in a folder to go on with."""
    return Path(folder, "last_checkpoint").exists() or bool(checkpoint_files(folder))


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

    Args:
        backbone: to fill.
        path: of the file, or a name that :func:`find_trunk` knows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a tensor of the file has no counterpart of its shape in the backbone.
    """
    own = backbone.state_dict()
    weights = trunk_state_dict(load_file(find_trunk(path)), own)
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
            metadata: what files keep beside the weights, see :func:`centernet_d2.data.catalog.to_plain`.
            kwargs: see :class:`detectron2.checkpoint.DetectionCheckpointer`.

        Raises:
            ValueError: the metadata have more than plain values in them, so that files could not be read again.
        """
        super().__init__(model, save_dir, **kwargs)
        if strangers := [name for name, value in metadata.items() if not _is_plain(value)]:
            raise ValueError(f"metadata of a checkpoint must be plain values, but {', '.join(strangers)} is not")
        self.fine_tune = fine_tune
        self.metadata = dict(metadata)
        # File that was loaded, and iteration of the checkpoint that was written last, or gone on from.
        self.loaded = ""
        self.iteration: int | None = None
        self._found: tuple[Path, dict] | None = None

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict:
        """See :class:`detectron2.checkpoint.DetectionCheckpointer`; also of a name that :func:`find_weights` knows.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be read, or does not fit the model.
        """
        if path:
            path = str(find_weights(path))
        try:
            return super().load(path, *args, **kwargs)
        finally:  # Detectron2's refuses to load again after an error.
            self._parsed_url_during_load = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Write a checkpoint at once and whole, and then its name into ``last_checkpoint``; see Detectron2's.

        Files have ``metadata`` if there are any.

        Raises:
            OSError: it cannot be written; the checkpoint before it is still there, and still the last.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **({"metadata": self.metadata} if self.metadata else {})}
        data.update({key: one.state_dict() for key, one in self.checkpointables.items()}, **kwargs)
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        write_atomically(path, lambda file: torch.save(data, file))
        self.iteration = kwargs.get("iteration")
        if self.checkpointables:
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_atomically(self._note, lambda file: file.write(last_filename_basename.encode()))

    def files(self) -> list[Path]:
        """See :func:`checkpoint_files`."""
        return checkpoint_files(self.save_dir)

    def has_checkpoint(self) -> bool:
        return has_checkpoint(self.save_dir)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """Load the last checkpoint with the state of its training; without one, or without `resume`, weights alone.

        If the last checkpoint cannot be read, it is the newest one that can.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: none can be read, it does not fit the model, or has no state of a training.
        """
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        self._found = self._newest_readable()
        try:
            rest = self.load(str(self._found[0]))
        finally:
            self._found = None
        self.iteration = rest.get("iteration")
        return rest

    @property
    def _note(self) -> Path:
        return Path(self.save_dir, "last_checkpoint")

    def _newest_readable(self) -> tuple[Path, dict]:
        """The last checkpoint and its content or, if it cannot be read, those of the newest that can."""
        name, named = self._last_named()
        problem: OSError | ValueError | None = (
            None if named else FileNotFoundError(f"{self._note} names no checkpoint in its folder")
        )
        for path in [*([named] if named else []), *(path for path in self.files() if path != named)]:
            try:
                _check_sums(path)
                data = load_file(path)
                self._check_state(path, data)
            except (OSError, ValueError) as error:
                problem = problem or error
            else:
                if problem is not None:
                    self.logger.warning(f"going on from {path}, the newest checkpoint that can be read: {problem}")
                return path, data
        if named is None or problem is None:
            raise FileNotFoundError(
                f"{self._note} names {name[:100]!r}, which is no file in that folder: write the name of a checkpoint "
                "that is there into it, or delete it to start from MODEL.WEIGHTS"
            )
        raise problem

    def _last_named(self) -> tuple[str, Path | None]:
        """What ``last_checkpoint`` says, and the file of that name; None without one in the very folder."""
        if not is_inside(self._note):
            return "", None
        name = self._note.read_text(encoding="utf-8", errors="replace").strip()
        path = Path(self.save_dir, name)
        return name, path if path.name == name and is_inside(path) else None

    def _check_state(self, path: Path, data: dict) -> None:
        for key in self.checkpointables:
            state = data.get(key)
            if not (isinstance(state, dict) and isinstance(state.get("iteration"), int)):
                raise ValueError(
                    f"{path} has weights, but no state of a training ('{key}' with its iteration) to resume from. "
                    "To start a new training from these weights, set MODEL.WEIGHTS to this file, choose another "
                    "OUTPUT_DIR and leave out --resume"
                )

    def _load_file(self, filename: str) -> dict:
        self.loaded = filename
        data = load_file(filename) if self._found is None else self._found[1]
        if "model" in data:
            return data
        # Converted files keep the metadata; a bare state dict has tensors only.
        kept = {"metadata": data["metadata"]} if "state_dict" in data and "metadata" in data else {}
        return {"model": data, **kept}

    def _load_model(self, checkpoint: dict) -> object:
        """Load the weights; raise a ValueError unless the file fits as described above."""
        state, is_trunk = to_our_names(self.model, checkpoint.pop("model"))
        own = self.model.state_dict()
        state = {name: tensor for name, tensor in state.items() if name in own or not _is_optional(name)}
        _check_floats(state, own, self.loaded)
        report = super()._load_model({"model": dict(state)})
        report.missing_keys[:] = [name for name in report.missing_keys if not (is_trunk or _is_optional(name))]
        wrong = [*(name for name, _, _ in report.incorrect_shapes), *report.missing_keys, *report.unexpected_keys]
        if wrong and not (self.fine_tune and not any(name.startswith("backbone.") and name in own for name in wrong)):
            wrong.sort(key=lambda name: not name.startswith("backbone."))
            raise ValueError(self._misfit(state, own, wrong))
        return report

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """One line in place of Detectron2's one for every tensor."""
        own = [*(name for name, _, _ in incompatible.incorrect_shapes), *incompatible.missing_keys]
        parts = {
            "these layers start fresh, as the file has none of their shape": _layers(own),
            "the model has no place for": _layers(incompatible.unexpected_keys),
        }
        if told := "; ".join(f"{what}: {', '.join(layers)}" for what, layers in parts.items() if layers):
            self.logger.warning(f"{self.loaded}: {told}")

    def _misfit(self, state: dict[str, Tensor], own: dict[str, Tensor], wrong: list[str]) -> str:
        """Format the error for tensors that do not fit: counts, and the shapes of the first five."""

        def shape(tensors: dict[str, Tensor], name: str) -> str:
            return "x".join(map(str, tensors[name].shape)) or "scalar" if name in tensors else "missing"

        counts = {
            "missing in the file": sum(name not in state for name in wrong),
            "missing in the model": sum(name not in own for name in wrong),
            "of another shape": sum(name in state and name in own for name in wrong),
        }
        rows = [f"  {name}: {shape(state, name)} in the file, {shape(own, name)} in the model" for name in wrong[:5]]
        return (
            f"the weights in {self.loaded} do not fit this model; {len(wrong)} tensors differ ("
            + ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
            + "). Use the config that the weights were trained with. First tensors:\n"
            + "\n".join(rows)
        )


def _layers(names: Iterable[str]) -> list[str]:
    """The modules that tensors belong to, each once."""
    return sorted({name.rpartition(".")[0] or name for name in names})


def _is_plain(value: object) -> bool:
    """Whether something is made of what weights-only reading knows without being told."""
    if isinstance(value, dict):
        return all(_is_plain(part) for item in value.items() for part in item)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _check_sums(path: Path) -> None:
    """Raise a ValueError if a checkpoint has other bytes than were written; torch does not look."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            try:
                damaged = archive.testzip()
            except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
                damaged = str(error)
        if damaged:
            raise ValueError(f"{path} is damaged ({damaged})")


def _is_optional(name: str) -> bool:
    """Tensors that nothing depends on: counters of batch norms, DLA's classifier (original.md: DLA trunk)."""
    return name.endswith("num_batches_tracked") or name.startswith("backbone.base.fc.")
