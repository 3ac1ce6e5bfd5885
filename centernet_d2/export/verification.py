"""Comparison of an exported file with its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import Instances

from ..imaging.reading import read_image
from ..modeling import CenterNet, CenterNetWithTTA
from ..structures.types import DatasetDict, Fields
from .detect import Detector
from .graphs import output_name, unwrap
from .metadata import hash_weights

__all__ = ["Comparison", "ExportedModel", "TorchModel", "compare", "verify"]

# Detections of the same class match if all values differ by at most VALUE_TOLERANCE (pixels, meters, ...) and scores by
# at most SCORE_TOLERANCE.
VALUE_TOLERANCE = 0.1
SCORE_TOLERANCE = 1e-3
# Limits of a successful verification. Rounding may change a few detections, for example between two equal peaks.
MAX_UNMATCHED = 0.01
MIN_DETECTIONS = 50
# The lowest score threshold of a comparison.
LOWEST_CUT = 2 * SCORE_TOLERANCE

Entries = list[dict[str, Any]]


class TorchModel:
    """Model in PyTorch, called with dataset dicts."""

    def __init__(self, model: CenterNet | CenterNetWithTTA) -> None:
        self.model = model
        self.network = unwrap(model)

    def __call__(self, record: DatasetDict) -> Instances:
        """Detect objects in the image ``file_name`` of a dataset dict."""
        image, inputs = _read(record, self.network)
        return self.model.inference([{"image": image, **inputs}])[0]["instances"]


class ExportedModel:
    """Model in a file, called with dataset dicts."""

    def __init__(self, path: Path, network: CenterNet) -> None:
        """
        Args:
            path: exported file.
            network: the model that was exported, for the conversion to instances.

        Raises:
            ValueError: the file is damaged, or was exported from other weights.
        """
        # The default precision of OpenVINO depends on the machine.
        self.detector = Detector(
            path, **({"config": {"INFERENCE_PRECISION_HINT": "f32"}} if path.suffix == ".xml" else {})
        )
        if self.detector.metadata["weights_sha256"] != hash_weights(network):
            raise ValueError(f"{path} was exported from other weights; export it again")
        self.network = network
        self.fields = {output_name(field): field for prop in network.properties for field in prop.fields}

    def __call__(self, record: DatasetDict) -> Instances:
        """Detect objects in the image ``file_name`` of a dataset dict."""
        image, inputs = _read(record, self.network)
        size = (image.shape[1], image.shape[2])
        if self.detector.metadata["form"] == "image":
            known = {name: inputs[name] for name in self.detector.metadata["inputs"] if name in inputs}
            outputs = self.detector(record["file_name"], 0, **known).outputs
            return self.network.to_instances(
                {self.fields[key]: torch.from_numpy(x) for key, x in outputs.items()}, size
            )
        (canvas,), (geometry,) = self.network.preprocessor.canvases([{"image": image, **inputs}])
        outputs = self.detector.run({"canvases": canvas[None].numpy()})
        detected = outputs["scores"][0] > self.network.score_threshold
        fields: Fields = {name: torch.from_numpy(x[0][detected]) for name, x in outputs.items()}
        produced, valid = self.network.to_image(fields, geometry)
        return self.network.to_instances(produced, size)[valid]


def _read(record: DatasetDict, network: CenterNet) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the image and the further inputs of a dataset dict."""
    image = read_image(record["file_name"], network.input_format).transpose(2, 0, 1).copy()
    return torch.from_numpy(image), {key: record[key] for key in network.input_keys if key in record}


class Comparison(NamedTuple):
    """Result of a comparison.

    Attributes:
        compared: number of detections of both sides with a score clear of the cut.
        unmatched: number of compared detections without a counterpart.
        value_error, score_error: largest differences between matched detections.
    """

    compared: int = 0
    unmatched: int = 0
    value_error: float = 0.0
    score_error: float = 0.0

    def merge(self, other: Comparison) -> Comparison:
        """Combine the results of two images."""
        worst = (max(pair) for pair in zip(self[2:], other[2:], strict=True))
        return Comparison(self.compared + other.compared, self.unmatched + other.unmatched, *worst)


def compare(first: Entries, second: Entries, cut: float) -> Comparison:
    """Match detections of one image with other detections, in both directions.

    Args:
        first, second: dicts of numbers, with ``category_id`` and ``score``, such as COCO results.
        cut: only detections with a score above it, by more than the tolerance, need a counterpart.
    """
    (classes, scores, values), (other_classes, other_scores, other_values) = _table(first), _table(second)
    clear = scores > cut + SCORE_TOLERANCE, other_scores > cut + SCORE_TOLERANCE
    count = int(clear[0].sum() + clear[1].sum())
    if not first or not second:
        return Comparison(count, count)
    value_errors = np.abs(values[:, None] - other_values).max(axis=2, initial=0)
    score_errors = np.abs(scores[:, None] - other_scores)
    fits = (classes[:, None] == other_classes) & (value_errors <= VALUE_TOLERANCE) & (score_errors <= SCORE_TOLERANCE)
    # Each row and column with its counterpart of the smallest error.
    best = np.where(fits, value_errors, np.inf)
    pairs = [(row, column) for row, column in enumerate(best.argmin(axis=1)) if clear[0][row]]
    pairs += [(row, column) for column, row in enumerate(best.argmin(axis=0)) if clear[1][column]]
    matched = tuple(np.array([pair for pair in pairs if fits[pair]], dtype=int).reshape(-1, 2).T)
    worst = (float(errors[matched].max(initial=0)) for errors in (value_errors, score_errors))
    return Comparison(count, count - len(matched[0]), *worst)


def _table(entries: Entries) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (N,) classes, (N,) scores and (N, D) other values."""
    keys = sorted({key for entry in entries for key in entry} - {"image_id", "category_id", "score"})
    values = [[number for key in keys for number in np.ravel(entry[key])] for entry in entries]
    classes, scores = (np.array([entry[key] for entry in entries]) for key in ("category_id", "score"))
    return classes, scores, np.array(values)


def _entries(instances: Instances) -> Entries:
    """Return all fields of the detections, because the JSON of a property may not consist of numbers."""
    names = {"pred_classes": "category_id", "scores": "score"}
    columns = {
        names.get(name, name): getattr(value, "tensor", value).tolist()
        for name, value in instances.to("cpu").get_fields().items()
    }
    return [{name: column[row] for name, column in columns.items()} for row in range(len(instances))]


def verify(reference: TorchModel, exported: ExportedModel, images: Sequence[DatasetDict]) -> dict[str, Any]:
    """Compare the detections of an exported file and of its model.

    The score threshold of the comparison is lowered until there are enough detections.

    Args:
        reference: the model.
        exported: the file.
        images: dataset dicts of the images.

    Raises:
        ValueError: too few detections were compared, or too many of them differ.
    """
    pairs = [[_entries(model(record)) for model in (reference, exported)] for record in images]
    cut = exported.detector.metadata["threshold"]
    while (result := _compare_all(pairs, cut)).compared < 2 * MIN_DETECTIONS and cut > LOWEST_CUT:
        cut /= 2
    if result.compared < 2 * MIN_DETECTIONS:
        raise ValueError(
            f"not verified: the model has {result.compared // 2} detections in {len(images)} images, but "
            f"{MIN_DETECTIONS} are needed; specify more images with --images, or --no-verify"
        )
    if result.unmatched > MAX_UNMATCHED * result.compared:
        raise ValueError(
            f"the exported file is wrong: {result.unmatched} of {result.compared} detections differ from the model by "
            f"more than {VALUE_TOLERANCE} pixels or {SCORE_TOLERANCE} in score"
        )
    return {"images": len(images), "min_score": cut, **result._asdict()}


def _compare_all(pairs: Sequence[Sequence[Entries]], cut: float) -> Comparison:
    """Compare all images.

    Both sides have the best K peaks before invalid boxes are discarded, so equal peaks at the lowest score may differ.
    """
    result = Comparison()
    for first, second in pairs:
        lowest = [min(entry["score"] for entry in entries) for entries in (first, second) if entries]
        result = result.merge(compare(first, second, max([cut, *lowest])))
    return result
