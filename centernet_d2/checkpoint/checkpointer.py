"""Checkpointer with strict loading, atomic writes and recovery of damaged files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from ..modeling.backbone.timm_upconv import TimmUpConv
from ..utils.files import is_inside, write_atomically
from .integrity import save_with_hash
from .loading import find_trunk, find_weights, load_file
from .reference_names import original_state_dict, to_our_names, trunk_state_dict
from .timm_names import HUB, fetch_from_hub, missing_tensors, timm_state_dict

__all__ = [
    "CenterNetCheckpointer",
    "checkpoint_files",
    "has_checkpoint",
    "load_trunk",
    "set_threshold",
]

# File names of the checkpoints that a training can resume from.
CHECKPOINT = re.compile(r"model_(\d+|final)\.pth")


# Maximum number of bytes of a file name.
MAX_NAME = 255


def checkpoint_files(folder: str | Path) -> list[Path]:
    """Return the checkpoints of a training, latest iteration first.

    Modification times are ignored: clocks are set back, and backups restore files in any order. Symbolic links to files
    outside of the folder are ignored.
    """
    files = [path for path in Path(folder).glob("model_*.pth") if CHECKPOINT.fullmatch(path.name) and is_inside(path)]
    return sorted(files, key=lambda path: (_iteration(path), path.name), reverse=True)


def _iteration(path: Path) -> float:
    """Return the iteration of a checkpoint; infinity if it is unknown."""
    match = CHECKPOINT.fullmatch(path.name)
    if match and match[1] != "final":
        return int(match[1])
    try:  # With mmap, tensors are not read.
        return float(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["iteration"])
    except Exception:  # A missing or damaged file.
        return math.inf


def has_checkpoint(folder: str | Path) -> bool:
    """Return True if a folder contains a checkpoint to resume from."""
    return Path(folder, "last_checkpoint").exists() or bool(checkpoint_files(folder))


def _check_floats(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise a ValueError if a file contains integers for floating-point tensors of the model."""
    wrong = [n for n, t in weights.items() if n in own and own[n].is_floating_point() and not t.is_floating_point()]
    if wrong:
        kind = str(weights[wrong[0]].dtype).removeprefix("torch.")
        raise ValueError(
            f"{path}: {len(wrong)} tensors are integers, but the model needs floating-point numbers. First tensor: "
            f"{wrong[0]} ({kind}). Save the weights in floating point"
        )


def set_threshold(path: str | Path, threshold: float) -> None:
    """Write the suggested score threshold into the metadata of a checkpoint.

    The file is written atomically, with a new hash.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged.
        OSError: the file cannot be written; it is unchanged.
    """
    data = load_file(path, verify=True)
    data["metadata"] = {**data.get("metadata", {}), "threshold": float(threshold)}
    write_atomically(path, lambda file: save_with_hash(data, file))


def load_trunk(backbone: nn.Module, path: str | Path) -> None:
    """Load the weights of an ImageNet classifier into the trunk of a backbone.

    Supported files are torchvision's ResNets, the DLA-34 of the reference implementation and, for a trunk of timm, its
    classifier in timm. The last layer of the classifier is ignored if the backbone does not have it.

    Args:
        backbone: backbone to initialize.
        path: path of the file, or a name known to :func:`find_trunk`, or HUB for a trunk of timm.

    Raises:
        FileNotFoundError: the file does not exist, or cannot be downloaded.
        ValueError: the backbone has no tensor of the same name and shape for a tensor of the file, or the file lacks
            a tensor of a trunk of timm.
    """
    own = backbone.state_dict()
    if isinstance(backbone, TimmUpConv):
        data = fetch_from_hub(backbone) if path == HUB else original_state_dict(load_file(find_trunk(path)))
        weights = timm_state_dict(backbone, data)
        wrong = [f"{name} is missing" for name in missing_tensors(backbone, weights)]
    else:
        weights, wrong = trunk_state_dict(load_file(find_trunk(path)), own), []
    wrong += [
        f"{name} {tuple(t.shape)}" for name, t in weights.items() if name not in own or own[name].shape != t.shape
    ]
    if wrong or not weights:
        raise ValueError(
            f"MODEL.TRUNK_WEIGHTS: {path} does not match the {type(backbone).__name__} backbone "
            f"({len(wrong)} of {len(weights)} tensors; first: {', '.join(wrong[:3])}). "
            "Check MODEL.BACKBONE.NAME and MODEL.RESNETS.DEPTH or MODEL.TIMM.NAME"
        )
    _check_floats(weights, own, path)
    backbone.load_state_dict(weights, strict=False)


class CenterNetCheckpointer(DetectionCheckpointer):
    """Checkpointer for CenterNet models.

    Files of this project, the reference implementation and ImageNet classifiers can be loaded.

    Loading is strict: a file must contain all tensors of the model (an ImageNet classifier: of the trunk) and no
    others. With `fine_tune`, heads may differ: layers that are missing in the file or have another shape keep their
    initial values, and a warning lists them. After an error, the model may be partially loaded.
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
            save_dir: folder of checkpoints.
            fine_tune: allow heads that differ, see above.
            metadata: saved in addition to the weights, see :func:`centernet_d2.data.catalog.to_plain`.
            kwargs: see :class:`detectron2.checkpoint.DetectionCheckpointer`.

        Raises:
            ValueError: the metadata contain values that ``torch.load(weights_only=True)`` cannot read.
        """
        super().__init__(model, save_dir, **kwargs)
        if invalid := [name for name, value in metadata.items() if not _is_plain(value)]:
            raise ValueError(
                "metadata of a checkpoint must be None, bool, int, float, str, or lists, tuples and dicts of them: "
                f"change {', '.join(invalid)}"
            )
        self.fine_tune = fine_tune
        self.metadata = dict(metadata)
        # Loaded file, and iteration of the checkpoint that was saved last or resumed from.
        self.loaded = ""
        self.iteration: int | None = None
        # Content of the checkpoint that is being resumed from.
        self._resumed: dict | None = None

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict:
        """Load a weights file into the model.

        See :class:`detectron2.checkpoint.DetectionCheckpointer`.

        Args:
            path: path of the file, or a name known to :func:`find_weights`.
            args, kwargs: see :class:`detectron2.checkpoint.DetectionCheckpointer`.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file cannot be read, or does not match the model.
        """
        if path:
            path = str(find_weights(path))
        try:
            return super().load(path, *args, **kwargs)
        finally:  # Otherwise, Detectron2's checkpointer cannot load again after an error.
            self._parsed_url_during_load = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Save a checkpoint atomically, then write its name to ``last_checkpoint``.

        The file contains ``metadata`` if they are not empty.

        Args:
            name: file name without extension.
            kwargs: saved in addition, for example the iteration.

        Raises:
            OSError: the file cannot be written; ``last_checkpoint`` and the previous checkpoint are unchanged.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **({"metadata": self.metadata} if self.metadata else {})}
        data.update({key: one.state_dict() for key, one in self.checkpointables.items()}, **kwargs)
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        write_atomically(path, lambda file: save_with_hash(data, file))
        self.iteration = kwargs.get("iteration")
        if self.checkpointables:
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_atomically(self._last_checkpoint_file, lambda file: file.write(last_filename_basename.encode()))

    def files(self) -> list[Path]:
        """Return the checkpoints in the folder, see :func:`checkpoint_files`."""
        return checkpoint_files(self.save_dir)

    def numbered_files(self, iteration: int) -> list[Path]:
        """Return the numbered checkpoints up to an iteration, latest first."""
        return [path for path in self.files() if path.stem != "model_final" and _iteration(path) <= iteration]

    def has_checkpoint(self) -> bool:
        return has_checkpoint(self.save_dir)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """Load the last checkpoint with its training state, or weights only.

        If the last checkpoint cannot be loaded, the newest checkpoint that can be loaded is used.

        Args:
            path: weights to load if there is no checkpoint or `resume` is False.
            resume: load the last checkpoint, if present.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: no checkpoint can be read, or it does not match the model or contains no training state.
        """
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        name, named = self._read_last_checkpoint()
        problem: Exception | None = (
            None
            if named
            else FileNotFoundError(
                f"{self._last_checkpoint_file} contains {name[:100]!r}, but this file is not in the folder: write the "
                "name of an existing checkpoint into it, or delete it to start from MODEL.WEIGHTS"
            )
        )
        for candidate in self._candidates(name, named):
            self._resumed = None
            try:
                self._resumed = self._read(candidate)
                rest = self.load(str(candidate))
            except Exception as error:  # Damaged files raise many types.
                if self._resumed is not None and isinstance(error, ValueError):
                    raise  # The checkpoint does not match the model or the optimizer, so no other one does.
                problem = problem or _as_value_error(candidate, error)
            else:
                if problem is not None:
                    message = " ".join(str(problem).split())
                    self.logger.warning(f"resuming from {candidate}, the newest checkpoint that can be read: {message}")
                self.iteration = rest.get("iteration")
                return rest
            finally:
                self._resumed = None
        assert problem is not None
        raise problem

    @property
    def _last_checkpoint_file(self) -> Path:
        return Path(self.save_dir, "last_checkpoint")

    def _candidates(self, name: str, named: Path | None) -> list[Path]:
        """Return the checkpoints in the order in which to try them: the last one, earlier ones, then later ones.

        Later ones exist if the user has set ``last_checkpoint`` back to an earlier iteration.
        """
        last = _iteration(Path(self.save_dir, name))
        others = sorted((path for path in self.files() if path != named), key=lambda path: _iteration(path) > last)
        return [*([named] if named else []), *others]

    def _read(self, path: Path) -> dict:
        """Return the verified content of a checkpoint."""
        data = load_file(path, verify=True)
        self._check_state(path, data)
        return data

    def _read_last_checkpoint(self) -> tuple[str, Path | None]:
        """Return the content of ``last_checkpoint``, and the path if it is a file in the same folder."""
        if not is_inside(self._last_checkpoint_file):
            return "", None
        try:
            with open(self._last_checkpoint_file, "rb") as file:
                name = file.read(MAX_NAME + 1).decode(errors="replace").strip()
        except OSError as error:
            return str(error), None
        path = Path(self.save_dir, name)
        is_valid = len(name.encode()) <= MAX_NAME and path.name == name and is_inside(path)
        return name, path if is_valid else None

    def _check_state(self, path: Path, data: dict) -> None:
        for key in self.checkpointables:
            state = data.get(key)
            if not (isinstance(state, dict) and isinstance(state.get("iteration"), int) and state["iteration"] >= 0):
                raise ValueError(
                    f"{path} contains weights, but no training state ('{key}' with an iteration) to resume from. To "
                    "start a new training from these weights, set MODEL.WEIGHTS to this file, choose another "
                    "OUTPUT_DIR and remove --resume"
                )

    def _load_file(self, filename: str) -> dict:
        self.loaded = filename
        data = load_file(filename) if self._resumed is None else self._resumed
        if "model" in data:
            return data
        # Converted files may contain metadata; a plain state dict contains only tensors.
        kept = {"metadata": data["metadata"]} if "state_dict" in data and "metadata" in data else {}
        return {"model": data, **kept}

    def _load_model(self, checkpoint: dict) -> object:
        """Load the weights; raise a ValueError if they do not match the model (see the class)."""
        state, is_trunk = to_our_names(self.model, checkpoint.pop("model"))
        own = self.model.state_dict()
        state = {name: tensor for name, tensor in state.items() if name in own or not _is_optional(name)}
        _check_floats(state, own, self.loaded)
        report = super()._load_model({"model": dict(state)})
        report.missing_keys[:] = [name for name in report.missing_keys if not (is_trunk or _is_optional(name))]
        wrong = [*(name for name, _, _ in report.incorrect_shapes), *report.missing_keys, *report.unexpected_keys]
        if wrong and not (self.fine_tune and not any(name.startswith("backbone.") and name in own for name in wrong)):
            wrong.sort(key=lambda name: not name.startswith("backbone."))
            raise ValueError(self._mismatch(state, own, wrong))
        return report

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """Log one line instead of Detectron2's line per tensor."""
        own = [*(name for name, _, _ in incompatible.incorrect_shapes), *incompatible.missing_keys]
        total = len(_layers(self.model.state_dict()))
        parts = {
            f"of {total} layers are new, because the file has no tensors of their shape": _layers(own),
            "layers of the file are not in the model": _layers(incompatible.unexpected_keys),
        }
        lines = [f"{len(layers)} {title} ({', '.join(layers)})" for title, layers in parts.items() if layers]
        if lines:
            self.logger.warning(f"{self.loaded}: {'; '.join(lines)}")

    def _mismatch(self, state: dict[str, Tensor], own: dict[str, Tensor], wrong: list[str]) -> str:
        """Format the error for mismatched tensors: counts, and the shapes of the first five."""

        def shape(tensors: dict[str, Tensor], name: str) -> str:
            return "x".join(map(str, tensors[name].shape)) or "scalar" if name in tensors else "missing"

        counts = {
            "missing in the file": sum(name not in state for name in wrong),
            "missing in the model": sum(name not in own for name in wrong),
            "of another shape": sum(name in state and name in own for name in wrong),
        }
        rows = [f"  {name}: {shape(state, name)} in the file, {shape(own, name)} in the model" for name in wrong[:5]]
        return (
            f"the weights in {self.loaded} do not match this model; {len(wrong)} tensors differ ("
            + ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
            + "). Use the config that the weights were trained with. First tensors:\n"
            + "\n".join(rows)
        )


def _as_value_error(path: Path, error: Exception) -> Exception:
    """Convert an error of a checkpoint that is not an OSError or a ValueError."""
    if isinstance(error, (OSError, ValueError)):
        return error
    return ValueError(
        f"the training state in {path} is incomplete ({error!r}). Start a new training with MODEL.WEIGHTS set to this "
        "file"
    )


def _layers(names: Iterable[str]) -> list[str]:
    """Return the sorted names of the modules that contain the tensors."""
    return sorted({name.rpartition(".")[0] or name for name in names})


def _is_plain(value: object) -> bool:
    """Return True if ``torch.load(weights_only=True)`` can read a value without extra safe globals."""
    if isinstance(value, dict):
        return all(_is_plain(part) for item in value.items() for part in item)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _is_optional(name: str) -> bool:
    """Return True for unused tensors: batch norm counters and DLA's classifier (original.md: DLA trunk)."""
    return name.endswith("num_batches_tracked") or name.startswith("backbone.base.fc.")
