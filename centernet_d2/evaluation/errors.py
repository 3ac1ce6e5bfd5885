"""By how much predictions are off, in their own units: what an average precision does not tell."""

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

# A detection belongs to an object whose box it overlaps at least this much.
MIN_OVERLAP = 0.5


def assign(truth: Instances, detections: Instances) -> tuple[Tensor, Tensor]:
    """The detection of its class whose box overlaps that of an object most; several objects may share one.

    Args:
        truth: N objects, ``gt_boxes`` and ``gt_classes``.
        detections: ``pred_boxes`` and ``pred_classes``.

    Returns:
        (M,) indices of the objects that were found, and (M,) of the detections that found them.
    """
    if not len(truth) or not len(detections):
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    same = truth.gt_classes[:, None] == detections.pred_classes
    best, detection = (pairwise_iou(truth.gt_boxes, detections.pred_boxes) * same).max(dim=1)
    found = (best >= MIN_OVERLAP).nonzero()[:, 0]
    return found, detection[found]


def finite(instances: Instances) -> Instances:
    """The detections all of whose numbers are finite, as far as fields are tensors or have one; others find nothing."""
    values = (getattr(value, "tensor", value) for value in instances.get_fields().values())
    sound = torch.ones(len(instances), dtype=torch.bool)
    for tensor in (value for value in values if isinstance(value, Tensor)):
        sound &= tensor.flatten(1).isfinite().all(dim=1) if tensor.dim() > 1 else tensor.isfinite()
    return instances[sound]


def collect(parts: Sequence[Instances]) -> Instances:
    """Objects of many images, which have nothing in common but their fields, as one list."""
    return Instances.cat([Instances((0, 0), **part.get_fields()) for part in parts])


class ErrorEvaluator(DatasetEvaluator):
    """What the properties say of the objects that were found (:meth:`Property.errors`), and how many were."""

    def __init__(self, dataset_name: str, properties: Sequence[Property], threshold: float = 0.3) -> None:
        """
        Args:
            dataset_name: registered data set with annotations.
            properties: of the model.
            threshold: detections that score less are not used.
        """
        self.properties = [prop for prop in properties if type(prop).errors is not Property.errors]
        records = load_dataset(dataset_name) if self.properties else ()
        self.records = {record["image_id"]: record for record in records}
        self.mapper = CenterNetDatasetMapper(
            False,
            augmentations=[],
            image_format="BGR",
            num_classes=len(MetadataCatalog.get(dataset_name).thing_classes),
            properties=properties,
            crowd="ignore",
        )
        self.threshold = threshold
        self.reset()

    def reset(self) -> None:
        # Of every image: detections, the objects that they found, and by property how many objects there are.
        self.pairs: list[tuple[Instances, Instances]] = []
        self.counts = torch.zeros(len(self.properties), dtype=torch.long)

    def process(self, inputs: Sequence[DatasetDict], outputs: Sequence[dict]) -> None:
        if not self.properties:
            return
        for x, output in zip(inputs, outputs, strict=True):
            detections = finite(output["instances"].to("cpu"))
            detections = detections[detections.scores > self.threshold]
            record = self.records[x["image_id"]]
            truth = known_objects(self.mapper.annotate(record, TransformList([]), detections.image_size))
            self.counts += torch.tensor([int(prop.labelled(truth).sum()) for prop in self.properties])
            found, by = assign(truth, detections)
            if len(found):
                self.pairs.append((detections[by], truth[found]))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """The errors by property, and ``found``, percent of the objects; nothing of what is not labelled."""
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
            found, truth = (collect(side) for side in zip(*pairs, strict=True))
            known = prop.labelled(truth)
            number = int(known.sum())
        if number:
            results = prop.errors(found[known], truth[known])
        results["found"] = 100.0 * number / count
        table = create_small_table(results)
        message = f"errors of {prop.error_name}, and percent of the objects that were found:\n{table}"
        logging.getLogger(__name__).info(message)
        return results
