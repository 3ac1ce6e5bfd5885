"""How many pixels keypoints are off: what a similarity such as OKS does not tell."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

__all__ = ["KeypointErrorEvaluator", "keypoint_errors"]

# A detection belongs to an object whose box it overlaps at least this much.
MIN_OVERLAP = 0.5


def keypoint_errors(annotations: Sequence[dict], instances: Instances) -> np.ndarray:
    """Distances of the labelled keypoints of one image from those of the detections.

    Objects take the detection of their class whose box overlaps theirs most; several may take the same one.

    Args:
        annotations: Detectron2's, in pixels of the image; those without labelled keypoints and crowds are left out.
        instances: detections.

    Returns:
        (N, K) pixels for N objects; NaN where a keypoint is not labelled, infinity where the object was not found.
    """
    annotations = [x for x in annotations if any(x.get("keypoints", ())[2::3]) and not x.get("iscrowd", 0)]
    if not annotations:
        return np.zeros((0, instances.pred_keypoints.shape[1]))
    truth = np.array([x["keypoints"] for x in annotations], dtype=np.float64).reshape(len(annotations), -1, 3)
    errors = np.full(truth.shape[:2], np.inf)
    if len(instances):
        boxes = Boxes([BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in annotations])
        classes = torch.tensor([x["category_id"] for x in annotations])
        overlap = pairwise_iou(boxes, instances.pred_boxes) * (classes[:, None] == instances.pred_classes)
        best, index = overlap.max(dim=1)
        found = instances.pred_keypoints[index, :, :2].double().numpy()
        near = (best >= MIN_OVERLAP).numpy()
        errors[near] = np.linalg.norm(found - truth[..., :2], axis=2)[near]
    errors[truth[..., 2] == 0] = np.nan
    return errors


class KeypointErrorEvaluator(DatasetEvaluator):
    """Mean distance of each keypoint in pixels over the objects that were found, and how many were."""

    def __init__(self, dataset_name: str, count: int, threshold: float = 0.3) -> None:
        """
        Args:
            dataset_name: if its metadata have no ``keypoint_names``, keypoints are called by their numbers.
            count: number of keypoints.
            threshold: detections that score less are not used.
        """
        numbers = [str(index) for index in range(count)]
        self.names = MetadataCatalog.get(dataset_name).get("keypoint_names") or numbers
        self.annotations = {record["image_id"]: record["annotations"] for record in DatasetCatalog.get(dataset_name)}
        self.threshold = threshold
        self.errors: list[np.ndarray] = []

    def reset(self) -> None:
        self.errors = []

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        for x, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            instances = instances[instances.scores > self.threshold]
            self.errors.append(keypoint_errors(self.annotations[x["image_id"]], instances))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``keypoint_error``: pixels by name of the keypoint, their ``mean``, and ``found``, percent of the objects."""
        gathered = comm.gather(self.errors)
        if not comm.is_main_process():
            return None
        errors = np.concatenate([np.zeros((0, len(self.names))), *itertools.chain.from_iterable(gathered)])
        results = {name: _finite_mean(errors[:, index]) for index, name in enumerate(self.names)}
        results["mean"] = _finite_mean(errors)
        results["found"] = _finite_mean(100.0 * ~np.isinf(errors).any(axis=1))
        table = create_small_table(results)
        logging.getLogger(__name__).info(f"pixels off by keypoint, and percent of the objects found:\n{table}")
        return {"keypoint_error": results}


def _finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
