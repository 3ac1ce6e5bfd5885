"""Per-property errors in physical units, which complement average precision."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import torch
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import TransformList
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances, pairwise_iou
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from torch import Tensor

from ..data.loaded import load_dataset
from ..data.mapper import CenterNetDatasetMapper
from ..modeling.heads import Property
from ..structures.points import known_objects
from ..structures.types import DatasetDict

__all__ = ["ErrorEvaluator"]

# Minimum IoU of an object and its detection.
MIN_OVERLAP = 0.5


def match_detections(truth: Instances, detections: Instances) -> tuple[Tensor, Tensor]:
    """Match each object with the detection of the same class and the largest IoU.

    Several objects may share a detection.

    Args:
        truth: N objects with ``gt_boxes`` and ``gt_classes``.
        detections: detections with ``pred_boxes`` and ``pred_classes``.

    Returns:
        (M,) indices of the detected objects, and (M,) indices of their detections.
    """
    if not len(truth) or not len(detections):
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    same = truth.gt_classes[:, None] == detections.pred_classes
    best, detection = (pairwise_iou(truth.gt_boxes, detections.pred_boxes) * same).max(dim=1)
    detected = (best >= MIN_OVERLAP).nonzero()[:, 0]
    return detected, detection[detected]


def drop_non_finite(instances: Instances) -> Instances:
    """Remove detections with NaN or Inf in any tensor field."""
    values = (getattr(value, "tensor", value) for value in instances.get_fields().values())
    finite = torch.ones(len(instances), dtype=torch.bool)
    for tensor in (value for value in values if isinstance(value, Tensor)):
        finite &= tensor.flatten(1).isfinite().all(dim=1) if tensor.dim() > 1 else tensor.isfinite()
    return instances[finite]


def concatenate(parts: Sequence[Instances]) -> Instances:
    """Join the instances of images with different sizes."""
    return Instances.cat([Instances((0, 0), **part.get_fields()) for part in parts])


def truth_mapper(dataset_name: str, properties: Sequence[Property]) -> CenterNetDatasetMapper:
    """Build a mapper that converts annotations of a dataset without augmentation."""
    return CenterNetDatasetMapper(
        False,
        augmentations=[],
        image_format="BGR",
        num_classes=len(MetadataCatalog.get(dataset_name).thing_classes),
        properties=properties,
        crowd="ignore",
    )


class ErrorEvaluator(DatasetEvaluator):
    """Evaluator of property errors on detected objects, and of their percentage.

    Errors are computed by :meth:`Property.errors`.
    """

    def __init__(self, dataset_name: str, properties: Sequence[Property], threshold: float = 0.3) -> None:
        """
        Args:
            dataset_name: name of a registered dataset with annotations.
            properties: properties of the model.
            threshold: minimum score of detections.
        """
        self.properties = [prop for prop in properties if type(prop).errors is not Property.errors]
        records = load_dataset(dataset_name) if self.properties else ()
        self.records = {record["image_id"]: record for record in records}
        self.mapper = truth_mapper(dataset_name, properties)
        self.threshold = threshold
        self.reset()

    def reset(self) -> None:
        # (matched detections, matched objects) of every image, and the number of objects per property.
        self.pairs: list[tuple[Instances, Instances]] = []
        self.counts = torch.zeros(len(self.properties), dtype=torch.long)

    def process(self, inputs: Sequence[DatasetDict], outputs: Sequence[dict]) -> None:
        if not self.properties:
            return
        for x, output in zip(inputs, outputs, strict=True):
            detections = drop_non_finite(output["instances"].to("cpu"))
            detections = detections[detections.scores > self.threshold]
            record = self.records[x["image_id"]]
            truth = known_objects(self.mapper.annotate(record, TransformList([]), detections.image_size))
            self.counts += torch.tensor([int(prop.labeled(truth).sum()) for prop in self.properties])
            objects, matches = match_detections(truth, detections)
            if len(objects):
                self.pairs.append((detections[matches], truth[objects]))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return the errors of all labeled properties.

        The metric ``found`` is the percentage of detected objects.
        """
        gathered = comm.gather((self.pairs, self.counts))
        if not comm.is_main_process():
            return None
        pairs = list(itertools.chain.from_iterable(pairs for pairs, _ in gathered))
        counts = sum(counts for _, counts in gathered).tolist()
        return {
            f"{prop.error_name}_error": self._errors(prop, pairs, count)
            for prop, count in zip(self.properties, counts, strict=True)
            if count
        }

    def _errors(self, prop: Property, pairs: Sequence[tuple[Instances, Instances]], count: int) -> dict[str, float]:
        results, number = {}, 0
        if pairs:
            detections, truth = (concatenate(side) for side in zip(*pairs, strict=True))
            known = prop.labeled(truth)
            number = int(known.sum())
        if number:
            results = prop.errors(detections[known], truth[known])
        results["found"] = 100.0 * number / count
        table = create_small_table(results)
        message = f"errors of {prop.error_name}, and percentage of detected objects (found):\n{table}"
        logging.getLogger(__name__).info(message)
        return results
