"""By how much predictions are off, in pixels or metres: what an average precision does not tell."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

__all__ = ["DEPTH_ERRORS", "ErrorEvaluator", "depth_errors", "keypoint_errors"]

# A detection belongs to an object whose box it overlaps at least this much.
MIN_OVERLAP = 0.5

DEPTH_ERRORS = ("metres", "percent")

# Annotations of one image and its detections -> (N, D) errors of N objects; infinite where an object was not found,
# NaN where a value is not known.
Measure = Callable[[Sequence[dict], Instances], np.ndarray]


def assign(annotations: Sequence[dict], instances: Instances) -> tuple[np.ndarray, np.ndarray]:
    """The detection of its class whose box overlaps that of an object most; several objects may share one.

    Args:
        annotations: Detectron2's, in pixels of the image.
        instances: detections.

    Returns:
        (M,) which of the N objects were found, and (M,) by which detections.
    """
    if not annotations or not len(instances):
        return np.zeros(0, dtype=int), np.zeros(0, dtype=int)
    boxes = Boxes([BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in annotations])
    classes = torch.tensor([x["category_id"] for x in annotations])
    # A box that is no numbers overlaps nothing.
    overlap = pairwise_iou(boxes, instances.pred_boxes).nan_to_num(0) * (classes[:, None] == instances.pred_classes)
    best, detection = overlap.max(dim=1)
    found = (best >= MIN_OVERLAP).nonzero()[:, 0]
    return found.numpy(), detection[found].numpy()


def keypoint_errors(annotations: Sequence[dict], instances: Instances) -> np.ndarray:
    """(N, K + 1) distances in pixels of the K keypoints from their labels, and the mean of an object.

    Objects without labelled keypoints, and crowds, are left out.
    """
    annotations = [x for x in annotations if any((x.get("keypoints") or ())[2::3]) and not x.get("iscrowd", 0)]
    truth = np.array([x["keypoints"] for x in annotations], dtype=np.float64)
    truth = truth.reshape(len(annotations), instances.pred_keypoints.shape[1], 3)
    found, detection = assign(annotations, instances)
    errors = np.full(truth.shape[:2], np.inf)
    places = instances.pred_keypoints[detection, :, :2].double().numpy()
    errors[found] = np.linalg.norm(places - truth[found, :, :2], axis=2)
    errors[truth[..., 2] == 0] = np.nan
    return np.column_stack([errors, np.nanmean(errors, axis=1)])


def depth_errors(annotations: Sequence[dict], instances: Instances) -> np.ndarray:
    """(N, 2) errors of the depth, see DEPTH_ERRORS: in metres, and in percent of the true depth.

    Objects that are not in front of the camera are left out; a detection whose depth is no number finds nothing.
    """
    annotations = [x for x in annotations if not x.get("ignore", False) and x["depth"] > 0]
    truth = np.array([x["depth"] for x in annotations], dtype=np.float64)
    found, detection = assign(annotations, instances)
    errors = np.full((len(truth), 2), np.inf)
    metres = np.abs(instances.pred_boxes3d.location[detection, 2].double().numpy() - truth[found])
    errors[found] = np.column_stack([metres, 100 * metres / truth[found]])
    errors[np.isnan(errors)] = np.inf
    return errors


class ErrorEvaluator(DatasetEvaluator):
    """Mean errors over the objects that were found, and how many were."""

    def __init__(
        self, dataset_name: str, task: str, names: Sequence[str], measure: Measure, threshold: float = 0.3
    ) -> None:
        """
        Args:
            dataset_name: registered data set with annotations.
            task: what the results are called.
            names: of the errors that `measure` gives.
            measure: :func:`keypoint_errors`, :func:`depth_errors` or the like.
            threshold: detections that score less are not used.
        """
        records = DatasetCatalog.get(dataset_name)
        self.annotations = {record["image_id"]: record.get("annotations", []) for record in records}
        self.task = task
        self.names = names
        self.measure = measure
        self.threshold = threshold
        self.errors: list[np.ndarray] = []

    def reset(self) -> None:
        self.errors = []

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        for x, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            instances = instances[instances.scores > self.threshold]
            self.errors.append(self.measure(self.annotations[x["image_id"]], instances))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """The errors by name, and ``found``, percent of the objects; NaN without any."""
        gathered = comm.gather(self.errors)
        if not comm.is_main_process():
            return None
        errors = np.concatenate([np.zeros((0, len(self.names))), *itertools.chain.from_iterable(gathered)])
        results = {name: _finite_mean(errors[:, index]) for index, name in enumerate(self.names)}
        results["found"] = _finite_mean(100.0 * ~np.isinf(errors).any(axis=1))
        table = create_small_table(results)
        logging.getLogger(__name__).info(f"{self.task}, and percent of the objects that were found:\n{table}")
        return {self.task: results}


def _finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
