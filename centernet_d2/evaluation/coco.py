"""COCO evaluation, optionally with the rounding of the original's result files."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.evaluation import COCOEvaluator

__all__ = ["RoundingCOCOEvaluator", "fill_keypoints", "round_result"]


def round_result(result: dict) -> dict:
    """One COCO result as the original writes it: two decimals for boxes, scores and joints (SPEC 11).

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


def fill_keypoints(evaluator: COCOEvaluator, count: int) -> None:
    """Give zeros to annotations without keypoints, which pycocotools wants everywhere; the file stays as it is.

    Args:
        evaluator: its annotations are changed in memory.
        count: number of keypoints.
    """
    for annotation in evaluator._coco_api.anns.values():
        keypoints = annotation.setdefault("keypoints", [0] * 3 * count)
        annotation.setdefault("num_keypoints", sum(visibility > 0 for visibility in keypoints[2::3]))


class RoundingCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator on rounded results, which gives score ties (SPEC 12, quirk 15)."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        super().process(inputs, outputs)
        for prediction in self._predictions[-len(inputs) :]:
            prediction["instances"] = [round_result(result) for result in prediction["instances"]]
