"""Comparison of an exported file with the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..evaluation.coco import to_coco
from ..imaging.reading import read_image
from ..structures.types import DatasetDict
from .detect import Detections, Detector
from .graphs import Graph, ImageGraph

__all__ = ["Comparison", "compare", "verify"]

# Detections match if all values differ by at most VALUE_TOLERANCE (pixels, meters, ...) and scores by at most
# SCORE_TOLERANCE.
VALUE_TOLERANCE = 0.1
SCORE_TOLERANCE = 1e-3
MIN_DETECTIONS = 50
MAX_UNMATCHED = 0.01
_LOWEST_CUT = 0.002

Entries = list[dict[str, Any]]


class Comparison(NamedTuple):
    """Result of a comparison of two lists of detections.

    Attributes:
        compared: number of detections with a score clear of the cut, of both sides.
        unmatched: number of them without a counterpart.
        value_error, score_error: largest differences of matched detections.
    """

    compared: int = 0
    unmatched: int = 0
    value_error: float = 0.0
    score_error: float = 0.0

    def __add__(self, other: Comparison) -> Comparison:  # type: ignore[override]
        counts = self.compared + other.compared, self.unmatched + other.unmatched
        return Comparison(*counts, max(self.value_error, other.value_error), max(self.score_error, other.score_error))


def compare(first: Entries, second: Entries, cut: float) -> Comparison:
    """Match COCO results of one image with results of the same image, in both directions.

    Args:
        first, second: COCO results.
        cut: only detections with a score clear of this value must have a counterpart.
    """
    a, b = (_table(entries) for entries in (first, second))
    if not first or not second:
        clear = sum((scores > cut + SCORE_TOLERANCE).sum() for _, scores, _ in (a, b))
        return Comparison(int(clear), int(clear))
    values = np.abs(a[2][:, None] - b[2][None]).max(axis=2)
    scores = np.abs(a[1][:, None] - b[1][None])
    fits = (a[0][:, None] == b[0]) & (values <= VALUE_TOLERANCE) & (scores <= SCORE_TOLERANCE)
    result = Comparison()
    for own, axis in ((a, 1), (b, 0)):
        clear = own[1] > cut + SCORE_TOLERANCE
        matched = clear & fits.any(axis=axis)
        nearest = np.where(fits, values, np.inf).min(axis=axis)[matched], np.where(fits, scores, np.inf).min(axis=axis)[matched]
        worst = [float(x.max(initial=0)) for x in nearest]
        result += Comparison(int(clear.sum()), int((clear & ~matched).sum()), *worst)
    return result


def _table(entries: Entries) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return classes (N,), scores (N,), and all other values (N, D)."""
    rest = [
        np.concatenate([np.ravel(x) for key, x in sorted(entry.items()) if key not in ("image_id", "category_id", "score")] or [[0]])
        for entry in entries
    ]
    return np.array([x["category_id"] for x in entries]), np.array([x["score"] for x in entries]), np.array(rest)


def verify(graph: Graph, path: Path, images: Sequence[DatasetDict]) -> dict[str, Any]:
    """Compare the detections of a file with those of the model.

    Raises:
        ValueError: more than MAX_UNMATCHED of the detections differ, or fewer than MIN_DETECTIONS were compared.
    """
    detector = Detector(path)
    pairs = [_detect(graph, detector, record) for record in images]
    cut = detector.metadata["threshold"]
    limit = graph.network.max_detections
    while True:
        results = [compare(*pair, max(cut, *(_lowest(own, limit) for own in pair))) for pair in pairs]
        total = sum(results, Comparison())
        if total.compared >= 2 * MIN_DETECTIONS or cut < _LOWEST_CUT:
            break
        cut /= 2
    return {"images": len(images), "cut": cut, **total._asdict()}


def _lowest(entries: Entries, limit: int) -> float:
    """Return the lowest score if the number of detections is limited, else 0."""
    return min((entry["score"] for entry in entries), default=0.0) if len(entries) >= limit else 0.0


def _detect(graph: Graph, detector: Detector, record: DatasetDict) -> tuple[Entries, Entries]:
    """Return COCO results of the model and of the file."""
    network, file_name = graph.network, record["file_name"]
    image = torch.from_numpy(read_image(file_name, network.input_format).transpose(2, 0, 1).copy())
    inputs = {key: record[key] for key in network.input_keys if key in record}
    if isinstance(graph, ImageGraph):
        (result,) = graph.model.inference([{"image": image, **inputs}])
        exported = {name: inputs[name] for name in detector.metadata["inputs"] if name in inputs}
        ids = detector.metadata["category_ids"]
        ours = to_coco(result["instances"], 0, network.properties, ids)
        return ours, detector(file_name, 0, **exported).to_coco(0)
    (canvas,), _ = network.preprocessor.canvases([{"image": image, **inputs}])
    fields = {name: x.numpy() for name, x in graph(canvas[None]).items()}
    found = (fields, detector.run({"canvases": canvas[None].numpy()}))
    ours, theirs = ({name: x[0] for name, x in one.items()} for one in found)
    return Detections(ours, detector.metadata).to_coco(0), Detections(theirs, detector.metadata).to_coco(0)
