"""COCO evaluation, optionally with the rounding of the original's result files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import _evaluate_predictions_on_coco
from detectron2.structures import Instances

from ..modeling.heads import Property
from ..readers.coco import read_json
from ..utils.logging import errors_only
from .faster_coco import FasterCOCOeval

__all__ = ["PointCOCOEvaluator", "complete_ground_truth", "fill_annotations", "round_result", "to_coco"]


def round_result(result: dict) -> dict:
    """One COCO result as the original writes it: two decimals for boxes, scores and joints (original.md: COCO results).

    The third value of every joint becomes the constant 1.
    """
    rounded = {**result, "bbox": _two_decimals(result["bbox"]), "score": _two_decimals([result["score"]])[0]}
    if "keypoints" in result:
        joints = _two_decimals(result["keypoints"])
        joints[2::3] = [1.0] * len(joints[2::3])
        rounded["keypoints"] = joints
    return rounded


def _two_decimals(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.2f}") for value in values]


@contextmanager
def complete_ground_truth(dataset_name: str, num_keypoints: int = 0) -> Iterator[str]:
    """A data set like another one whose COCO file has everything that the COCO evaluation needs.

    Detectron2's evaluator reads the file that the metadata of its data set name. For as long as the context lasts, that
    is a copy; the ground truth stays as it is.

    Args:
        dataset_name: a data set with a COCO file, or one whose dicts can be converted.
        num_keypoints: see :func:`fill_annotations`.

    Yields:
        The name to build an evaluator with.

    Raises:
        ValueError: the file is not JSON.
    """
    metadata = MetadataCatalog.get(dataset_name)
    path = metadata.get("json_file")
    if path and not metadata.get("thing_classes"):
        DatasetCatalog.get(dataset_name)  # Reading the annotations fills in the classes.
    content = read_json(path) if path else convert_to_coco_dict(dataset_name)
    fill_annotations(content, num_keypoints)
    with TemporaryDirectory() as folder:
        copy = os.path.join(folder, "ground_truth.json")
        with open(copy, "w", encoding="utf-8") as file:
            json.dump(content, file)
        name = f"{dataset_name} ({folder})"
        MetadataCatalog.get(name).set(**{**metadata.as_dict(), "name": name, "json_file": copy})
        try:
            yield name
        finally:
            MetadataCatalog.remove(name)


def fill_annotations(content: dict, num_keypoints: int = 0) -> None:
    """Complete the annotations of a COCO file in memory with what may be missing there.

    The area is that of the box, the crowd flag 0, keypoints are not labelled. If an annotation has no id, or 0, which
    pycocotools takes for no match, all are numbered anew.

    Args:
        content: of a COCO file; changed.
        num_keypoints: that annotations without keypoints get, and a count of; 0 leaves keypoints alone.
    """
    annotations = content.get("annotations", ())
    if not all(annotation.get("id") for annotation in annotations):
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
    """Detections of one image in COCO's results format.

    Args:
        instances: as the model gives them.
        image_id: of the image.
        properties: of the model; each writes what belongs to it, see :meth:`Property.to_json`.
        category_ids: of each class; by default the number of the class, from 0.

    Returns:
        One dict per detection: image_id, category_id, score, bbox (x, y, width, height) and what else is predicted.
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
    """Detectron2's COCOEvaluator, whose result file has all that a model predicts."""

    _do_evaluation: bool

    def __init__(
        self,
        dataset_name: str,
        *,
        properties: Sequence[Property],
        round_results: bool = False,
        use_fast_impl: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            dataset_name: of the registered data set.
            properties: of the model.
            round_results: evaluate numbers of two decimals as the original did, which gives score ties; the score of
                every joint is then 1 (original.md: COCO results).
            use_fast_impl: evaluate by faster-coco-eval where it is installed; by pycocotools otherwise, with the same
                figures.
            kwargs: see :class:`detectron2.evaluation.COCOEvaluator`.
        """
        # Detectron2 means a compiled operator of its own.
        super().__init__(dataset_name, use_fast_impl=False, **kwargs)
        self._faster = use_fast_impl and find_spec("faster_coco_eval") is not None
        self._properties = properties
        self._round_results = round_results

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for x, output in zip(inputs, outputs, strict=True):
            results = to_coco(output["instances"], x["image_id"], self._properties)
            if self._round_results:
                results = [round_result(result) for result in results]
            self._predictions.append({"image_id": x["image_id"], "instances": results})

    def _eval_predictions(self, predictions: list[dict], img_ids: Sequence | None = None) -> None:
        results = [result for prediction in predictions for result in prediction["instances"]]
        if not (self._faster and self._do_evaluation and results):
            super()._eval_predictions(predictions, img_ids)
            return
        # Detectron2 has no place for another class, but for a set without annotations it only writes the result file.
        self._do_evaluation = False
        try:
            with errors_only("detectron2.evaluation.coco_evaluation"):  # It would say that there are no annotations.
                super()._eval_predictions(predictions, img_ids)
        finally:
            self._do_evaluation = True
        for task in sorted(self._tasks or self._tasks_from_predictions(results)):
            evaluation = _evaluate_predictions_on_coco(
                self._coco_api,
                results,
                task,
                kpt_oks_sigmas=self._kpt_oks_sigmas,
                cocoeval_fn=partial(FasterCOCOeval, max_dets=self._max_dets_per_image),
                img_ids=img_ids,
            )
            classes = self._metadata.get("thing_classes")
            self._results[task] = self._derive_coco_results(evaluation, task, class_names=classes)
