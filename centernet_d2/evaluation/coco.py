"""COCO evaluation, optionally with the rounding of the reference implementation."""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import _evaluate_predictions_on_coco
from detectron2.structures import Instances
from pycocotools.coco import COCO

from ..data.loaded import load_coco_content, load_dataset
from ..modeling.heads import Property
from ..structures.types import DatasetDict
from .faster_coco import KEYPOINT_DETS, FasterCOCOeval, box_metrics

__all__ = ["BOX_METRICS", "PointCOCOEvaluator", "build_ground_truth", "fill_annotations", "round_result", "to_coco"]

# File in the output folder with the result of :func:`box_metrics`, or null.
BOX_METRICS = "box_metrics.json"


def round_result(result: dict) -> dict:
    """Round a COCO result like the result files of the reference implementation.

    Boxes, scores and keypoints are rounded to two decimals, and the score of every keypoint is set to 1
    (original.md: COCO results).
    """
    rounded = {**result, "bbox": _two_decimals(result["bbox"]), "score": _two_decimals([result["score"]])[0]}
    if "keypoints" in result:
        keypoints = _two_decimals(result["keypoints"])
        keypoints[2::3] = [1.0] * len(keypoints[2::3])
        rounded["keypoints"] = keypoints
    return rounded


def _two_decimals(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.2f}") for value in values]


def build_ground_truth(dataset_name: str, num_keypoints: int = 0) -> COCO:
    """Build the ground truth of the COCO evaluation; the dataset is not modified.

    Args:
        dataset_name: name of a dataset with a COCO file, or with dataset dicts that can be converted.
        num_keypoints: see :func:`fill_annotations`.

    Raises:
        ValueError: the COCO file is damaged.
    """
    coco = COCO()
    coco.dataset = load_coco_content(dataset_name)
    fill_annotations(coco.dataset, num_keypoints)
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def fill_annotations(content: dict, num_keypoints: int = 0) -> None:
    """Add missing values to the annotations of a COCO file in memory.

    The default area is the area of the box, the default crowd flag is 0, and default keypoints are unlabeled.
    Annotations are renumbered if ids are missing, repeated, strings, or 0, which pycocotools interprets as "no match".

    Args:
        content: content of a COCO file, modified in place.
        num_keypoints: number of keypoints to add to annotations without keypoints; 0 does not add keypoints.
    """
    annotations = content.get("annotations", ())
    ids = [annotation.get("id") for annotation in annotations]
    if not all(isinstance(one, int) and one for one in ids) or len(set(ids)) < len(ids):
        for index, annotation in enumerate(annotations):
            annotation["id"] = index + 1
    for annotation in annotations:
        if annotation.get("area") is None:
            width, height = annotation["bbox"][2:]
            annotation["area"] = max(width, 0) * max(height, 0)
        if annotation.get("iscrowd") is None:
            annotation["iscrowd"] = 0
        if num_keypoints:
            keypoints = annotation["keypoints"] = annotation.get("keypoints") or [0] * 3 * num_keypoints
            if annotation.get("num_keypoints") is None:
                annotation["num_keypoints"] = sum(visibility > 0 for visibility in keypoints[2::3])


def to_coco(
    instances: Instances,
    image_id: int | str,
    properties: Sequence[Property],
    category_ids: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Convert the detections of one image to COCO's results format.

    Args:
        instances: detections of the model.
        image_id: id of the image.
        properties: properties of the model, which convert their fields, see :meth:`Property.to_json`.
        category_ids: category id of each class; by default, the class index.

    Returns:
        One dict per detection with image_id, category_id, score, bbox (x, y, width, height) and the values of the
        properties.
    """
    instances = instances.to("cpu")
    parts = [prop.to_json(instances) for prop in properties]
    results: list[dict[str, Any]] = [{"image_id": image_id} for _ in range(len(instances))]
    for result, *own in zip(results, *parts, strict=True):
        for part in own:
            result.update(part)
        if category_ids:
            result["category_id"] = category_ids[result["category_id"]]
    return results


class PointCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator with result files that contain all properties.

    It also keeps the ground truth in memory and supports faster-coco-eval.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        properties: Sequence[Property],
        num_keypoints: int = 0,
        round_results: bool = False,
        use_fast_impl: bool = True,
        output_dir: str | None = None,
        max_dets_per_image: int = 100,
        kpt_oks_sigmas: Sequence[float] = (),
    ) -> None:
        """
        Args:
            dataset_name: name of the registered dataset.
            properties: properties of the model.
            num_keypoints: number of keypoints of the model; annotations without keypoints get this number of unlabeled
                keypoints.
            round_results: round results to two decimals, like the reference implementation. This causes ties between
                scores, and the score of every keypoint is 1 (original.md: COCO results).
            use_fast_impl: use faster-coco-eval if it is installed; pycocotools returns the same metrics.
            output_dir: folder for result files, or None for no files.
            max_dets_per_image: maximum number of detections per image for box metrics.
            kpt_oks_sigmas: sigmas of the keypoints; empty for the sigmas of COCO.
        """
        # Detectron2's constructor would parse the annotation file again, so its attributes are set here.
        self._logger = logging.getLogger("detectron2.evaluation.coco_evaluation")
        self._distributed = True
        self._output_dir = output_dir
        self._max_dets_per_image = [1, 10, max_dets_per_image]
        self._kpt_oks_sigmas = kpt_oks_sigmas
        self._metadata = MetadataCatalog.get(dataset_name)
        if not self._metadata.get("thing_classes"):
            load_dataset(dataset_name)  # Sets `thing_classes`.
        self._coco_api = build_ground_truth(dataset_name, num_keypoints)
        self._faster = use_fast_impl and find_spec("faster_coco_eval") is not None
        self._properties = properties
        self._round_results = round_results

    def process(self, inputs: list[DatasetDict], outputs: list[dict[str, Instances]]) -> None:
        for x, output in zip(inputs, outputs, strict=True):
            results = to_coco(output["instances"], x["image_id"], self._properties)
            if self._round_results:
                results = [round_result(result) for result in results]
            self._predictions.append({"image_id": x["image_id"], "instances": results})

    def _max_keypoint_dets(self) -> int:
        """Return COCO's limit, or the limit of boxes if an image has more objects with keypoints."""
        labeled = (x["image_id"] for x in self._coco_api.dataset.get("annotations", ()) if x.get("num_keypoints"))
        most = max(Counter(labeled).values(), default=0)
        if most <= KEYPOINT_DETS:
            return KEYPOINT_DETS
        limit = max(KEYPOINT_DETS, self._max_dets_per_image[-1])
        self._logger.info(
            f"An image has {most} objects with keypoints, more than COCO's limit of {KEYPOINT_DETS} detections; the "
            f"metrics of keypoints use up to {limit} detections per image (TEST.DETECTIONS_PER_IMAGE)"
        )
        return limit

    def _eval_predictions(self, predictions: list[dict], img_ids: Sequence | None = None) -> None:
        """Write the result file, and evaluate it if the dataset has annotations."""
        results = [result for prediction in predictions for result in prediction["instances"]]
        if ids := self._metadata.get("thing_dataset_id_to_contiguous_id"):
            category_ids = {index: one for one, index in ids.items()}
            for result in results:
                result["category_id"] = category_ids[result["category_id"]]
        if self._output_dir:
            path = Path(self._output_dir) / "coco_instances_results.json"
            self._logger.info(f"Saving results to {path}")
            path.write_text(json.dumps(results))
        if "annotations" not in self._coco_api.dataset:
            self._logger.info("Annotations are not available for evaluation.")
            return
        self._logger.info(f"Evaluating with {'faster-coco-eval' if self._faster else 'the official COCO API'} ...")
        evaluation_class = partial(
            FasterCOCOeval,
            max_dets=self._max_dets_per_image,
            max_keypoint_dets=self._max_keypoint_dets(),
            accelerate=self._faster,
        )
        for task in self._tasks_from_predictions(results):
            if task == "segm" and not all("segmentation" in one for one in self._coco_api.dataset["annotations"]):
                self._logger.warning("masks are not evaluated, because some annotations have no 'segmentation'")
                continue
            evaluation = None
            if results:
                evaluation = _evaluate_predictions_on_coco(
                    self._coco_api,
                    results,
                    task,
                    kpt_oks_sigmas=self._kpt_oks_sigmas,
                    img_ids=img_ids,
                    cocoeval_fn=evaluation_class,
                )
            names = self._metadata.get("thing_classes")
            if task == "bbox" and self._output_dir:
                self._save_box_metrics(evaluation, names or (), Path(self._output_dir))
            self._results[task] = self._derive_coco_results(evaluation, task, class_names=names)

    def _save_box_metrics(self, evaluation: FasterCOCOeval | None, names: Sequence[str], folder: Path) -> None:
        """Save the metrics for the report; null if the report has to compute its own.

        The report uses unrounded detections, and converts datasets without a file in another way.
        """
        metrics = None
        if evaluation is not None and not self._round_results and self._metadata.get("json_file"):
            metrics = box_metrics(evaluation, names) if len(names) == len(evaluation.params.catIds) else None
        folder.joinpath(BOX_METRICS).write_text(json.dumps(metrics))
