"""pycocotools' evaluation with its slow steps done by faster-coco-eval."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from detectron2.utils.logger import log_first_n
from pycocotools.coco import COCO

__all__ = ["FasterCOCOeval"]

# faster-coco-eval keeps ids in double precision.
MAX_ID = 2**53


class FasterCOCOeval(COCOevalMaxDets):
    """A COCOeval of pycocotools whose matches and curves are those of faster-coco-eval.

    Annotations, parameters and summary stay with pycocotools. All figures are the same, but for the last digit of
    double precision. If faster-coco-eval fails, a warning says why, and pycocotools does everything.
    """

    params: Any
    eval: dict

    def __init__(self, truth: COCO, found: COCO, task: str, max_dets: Sequence[int] = (1, 10, 100)) -> None:
        """
        Args:
            truth: the ground truth.
            found: detections, as ``truth.loadRes`` gives them.
            task: bbox, segm or keypoints.
            max_dets: three limits of detections per image, for all tasks but keypoints. They are kept here, as
                Detectron2 takes another class for a last one that is not 100.
        """
        super().__init__(truth, found, task)
        self._max_dets = list(max_dets)

    def evaluate(self) -> None:
        """Match, and draw the curves, which pycocotools leaves to :meth:`accumulate`."""
        if self.params.iouType != "keypoints":
            self.params.maxDets = self._max_dets
        try:
            self._evaluate_faster()
        except Exception as error:  # Releases that nobody tried may fail in any way; that shall not end a training.
            log_first_n(logging.WARNING, f"pycocotools evaluates, since faster-coco-eval fails: {error}", key="message")
            super().evaluate()

    def accumulate(self, p: object = None) -> None:
        if not self.eval:
            super().accumulate(p)

    def _evaluate_faster(self) -> None:
        from faster_coco_eval import COCOeval_faster, __version__

        ids = (*self.cocoGt.imgs, *self.cocoGt.anns, *self.cocoGt.cats)
        if not all(isinstance(one, int) and 0 <= one < MAX_ID for one in ids):
            raise ValueError("it needs ids that are whole numbers from 0 to 2^53")
        faster = COCOeval_faster(iouType=self.params.iouType, print_function=print)
        # Its constructor would ask for more than pycocotools' COCO has, and choose the categories of keypoints itself.
        faster.cocoGt, faster.cocoDt = self.cocoGt, self.cocoDt
        vars(faster.params).update(vars(self.params))
        faster.evaluate()
        faster.accumulate()
        self.params, self.eval = faster.params, faster.eval
        logging.getLogger(__name__).debug(f"{self.params.iouType} is evaluated by faster-coco-eval {__version__}")
