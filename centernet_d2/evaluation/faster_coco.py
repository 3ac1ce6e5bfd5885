"""COCO evaluation of pycocotools, accelerated by faster-coco-eval."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from detectron2.utils.logger import log_first_n
from pycocotools.coco import COCO

__all__ = ["FasterCOCOeval"]

# faster-coco-eval stores ids in double precision.
MAX_ID = 2**53


class FasterCOCOeval(COCOevalMaxDets):
    """COCOeval of pycocotools that computes matches and curves by faster-coco-eval.

    pycocotools handles annotations, parameters and the summary. All metrics are equal up to rounding errors in double
    precision. If faster-coco-eval fails, the error is logged as a warning and pycocotools is used.
    """

    params: Any
    eval: dict

    def __init__(self, truth: COCO, detections: COCO, task: str, max_dets: Sequence[int] = (1, 10, 100)) -> None:
        """
        Args:
            truth: the ground truth.
            detections: output of ``truth.loadRes``.
            task: bbox, segm or keypoints.
            max_dets: three limits of detections per image, for all tasks except keypoints. They are an argument
                because Detectron2 replaces this class if the last limit is not 100.
        """
        super().__init__(truth, detections, task)
        self._max_dets = list(max_dets)

    def evaluate(self) -> None:
        """Compute matches and curves; pycocotools computes curves in :meth:`accumulate`."""
        if self.params.iouType != "keypoints":
            self.params.maxDets = self._max_dets
        try:
            self._evaluate_faster()
        except Exception as error:  # Untested releases may fail in any way, which must not end training.
            message = f"faster-coco-eval failed, so pycocotools is used: {error}"
            log_first_n(logging.WARNING, message, key="message")
            super().evaluate()

    def accumulate(self, p: object = None) -> None:
        if not self.eval:
            super().accumulate(p)

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
