"""COCO evaluation of pycocotools, accelerated by faster-coco-eval."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from detectron2.utils.logger import log_first_n
from pycocotools.coco import COCO

__all__ = ["KEYPOINT_DETS", "FasterCOCOeval", "box_metrics"]

# Limit of detections per image in COCO's metrics of keypoints.
KEYPOINT_DETS = 20
# faster-coco-eval stores ids in double precision.
MAX_ID = 2**53
# Size classes of COCO, in the order of its results.
SIZES = ("all", "small", "medium", "large")


class FasterCOCOeval(COCOevalMaxDets):
    """COCOeval of pycocotools that computes matches and curves by faster-coco-eval.

    pycocotools handles annotations, parameters and the summary. All metrics are equal up to rounding errors in double
    precision. If faster-coco-eval fails, the error is logged as a warning and pycocotools is used.
    """

    params: Any
    eval: dict

    def __init__(
        self,
        truth: COCO,
        detections: COCO,
        task: str,
        max_dets: Sequence[int] = (1, 10, 100),
        *,
        max_keypoint_dets: int = KEYPOINT_DETS,
        accelerate: bool = True,
    ) -> None:
        """
        Args:
            truth: the ground truth.
            detections: output of ``truth.loadRes``.
            task: bbox, segm or keypoints.
            max_dets: three limits of detections per image, for all tasks except keypoints. They are an argument
                because Detectron2 replaces this class if the last limit is not 100.
            max_keypoint_dets: limit of detections per image for keypoints.
            accelerate: use faster-coco-eval; otherwise pycocotools.
        """
        super().__init__(truth, detections, task)
        self._max_dets = [max_keypoint_dets] if task == "keypoints" else list(max_dets)
        self._accelerate = accelerate

    def evaluate(self) -> None:
        """Compute matches and curves; pycocotools computes curves in :meth:`accumulate`."""
        self.params.maxDets = self._max_dets
        if not self._accelerate:
            super().evaluate()
            return
        try:
            self._evaluate_faster()
        except Exception as error:  # Untested releases may fail in any way, which must not end training.
            message = f"faster-coco-eval failed, so pycocotools is used: {error}"
            log_first_n(logging.WARNING, message, key="message")
            super().evaluate()

    def accumulate(self, p: object = None) -> None:
        if not self.eval:
            super().accumulate(p)

    def summarize(self) -> None:
        limits = self.params.maxDets
        if self.params.iouType == "keypoints":  # The summary of pycocotools selects the metrics of this limit.
            self.params.maxDets = [KEYPOINT_DETS]
        super().summarize()
        self.params.maxDets = limits

    def _evaluate_faster(self) -> None:
        from faster_coco_eval import COCOeval_faster, __version__

        ids = (*self.cocoGt.imgs, *self.cocoGt.anns, *self.cocoGt.cats)
        if not all(isinstance(one, int) and 0 <= one < MAX_ID for one in ids):
            raise ValueError("ids must be integers from 0 to 2^53")
        faster = COCOeval_faster(iouType=self.params.iouType, print_function=print)
        # The constructor requires attributes that pycocotools' COCO does not have, and selects keypoint categories.
        faster.cocoGt, faster.cocoDt = self.cocoGt, self.cocoDt
        vars(faster.params).update(vars(self.params))
        faster.evaluate()
        faster.accumulate()
        self.params, self.eval = faster.params, faster.eval
        logging.getLogger(__name__).debug(f"evaluated {self.params.iouType} with faster-coco-eval {__version__}")


def box_metrics(evaluation: FasterCOCOeval, class_names: Sequence[str]) -> dict[str, Any]:
    """Return COCO's metrics of boxes in percent, None where there are no objects.

    Args:
        evaluation: accumulated evaluation of boxes.
        class_names: names of the classes, in the order of the category ids.

    Returns:
        ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, ``recall`` by the number of detections per image, and
        ``classes``, a list of dicts with the metrics of each class.
    """
    precision, recall = (evaluation.eval[name] for name in ("precision", "recall"))
    objects = Counter(one["category_id"] for one in evaluation.cocoGt.anns.values() if not one["iscrowd"])
    recalls = {str(most): _percent(recall[:, :, 0, row]) for row, most in enumerate(evaluation.params.maxDets)}
    by_class = [
        {
            "name": name,
            "objects": objects[category_id],
            **_averages(precision[:, :, index : index + 1]),
            "recall": _percent(recall[:, index, 0, -1]),
        }
        for index, (name, category_id) in enumerate(zip(class_names, evaluation.params.catIds, strict=True))
    ]
    return {**_averages(precision), "recall": recalls, "classes": by_class}


def _averages(precision: np.ndarray) -> dict[str, float | None]:
    """Return the metrics of (IoUs, recalls, classes, sizes, limits) precisions."""
    values = {"AP": precision[..., 0, -1], "AP50": precision[0, ..., 0, -1], "AP75": precision[5, ..., 0, -1]}
    values.update({f"AP{name[0]}": precision[..., row, -1] for row, name in enumerate(SIZES) if row})
    return {name: _percent(one) for name, one in values.items()}


def _percent(values: np.ndarray) -> float | None:
    """Return the mean of the defined values; COCO marks undefined values by -1."""
    defined = values[values > -1]
    return float(defined.mean() * 100) if len(defined) else None
