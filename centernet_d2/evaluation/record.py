"""Recorded detections of an evaluation, for reports without another inference."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances, RotatedBoxes
from detectron2.utils import comm
from torch import Tensor

from ..structures.boxes3d import Boxes3D
from ..structures.types import DatasetDict
from ..utils.files import write_atomically

__all__ = ["FILE_NAME", "DetectionRecorder", "load_detections"]

FILE_NAME = "detections.pth"
# Types of fields that are stored as tensors.
_TYPES = {kind.__name__: kind for kind in (Boxes, RotatedBoxes, Boxes3D)}


class DetectionRecorder(DatasetEvaluator):
    """Evaluator that saves the detections of all images.

    The file contains plain values and tensors: ids and sizes of the images, numbers of detections, and all fields of
    the detections, concatenated.
    """

    def __init__(self, folder: str | Path) -> None:
        """
        Args:
            folder: folder of the file FILE_NAME.
        """
        self.folder = Path(folder)
        self.reset()

    def reset(self) -> None:
        self._images: list[tuple[Any, Instances]] = []

    def process(self, inputs: Sequence[DatasetDict], outputs: Sequence[dict]) -> None:
        for x, output in zip(inputs, outputs, strict=True):
            self._images.append((x["image_id"], output["instances"].to("cpu")))

    def evaluate(self) -> None:
        """Write the file in the main process, atomically."""
        gathered = comm.gather(self._images)
        if not comm.is_main_process():
            return
        images = list(itertools.chain.from_iterable(gathered))
        parts = [instances.get_fields() for _, instances in images]
        columns = {name: [part[name] for part in parts] for name in (parts[0] if parts else ())}
        data = {
            "image_ids": [image_id for image_id, _ in images],
            "sizes": [tuple(instances.image_size) for _, instances in images],
            "counts": [len(instances) for _, instances in images],
            "types": {name: type(column[0]).__name__ for name, column in columns.items()},
            "fields": {
                name: torch.cat([getattr(one, "tensor", one) for one in column]) for name, column in columns.items()
            },
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / FILE_NAME, lambda file: torch.save(data, file))


def load_detections(folder: str | Path) -> tuple[list[Any], list[Instances]]:
    """Load the file of :class:`DetectionRecorder`.

    Returns:
        Ids of the images, and their detections.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    data = torch.load(Path(folder) / FILE_NAME, map_location="cpu", weights_only=True)
    columns = {name: _split(tensor, data["counts"], data["types"][name]) for name, tensor in data["fields"].items()}
    detections = [
        Instances(size, **{name: column[index] for name, column in columns.items()})
        for index, size in enumerate(data["sizes"])
    ]
    return data["image_ids"], detections


def _split(tensor: Tensor, counts: Sequence[int], kind: str) -> list[Any]:
    parts = tensor.split(list(counts))
    return [_TYPES[kind](part) for part in parts] if kind in _TYPES else list(parts)
