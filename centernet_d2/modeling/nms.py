"""Non-maximum suppression for those who want it: an object may have several peaks. The paper does without."""

from __future__ import annotations

from detectron2.structures import Instances
from torchvision.ops import batched_nms, nms

__all__ = ["NMS_MODES", "suppress"]

NMS_MODES = ("", "class", "agnostic")


def suppress(instances: Instances, mode: str, threshold: float) -> Instances:
    """Drop detections whose box overlaps that of a better one.

    Args:
        instances: one image's, with ``pred_boxes``, ``scores`` and ``pred_classes``.
        mode: "class" compares within a class, "agnostic" across classes, "" drops nothing.
        threshold: intersection over union above which a box goes.

    Returns:
        What is left, best first.
    """
    if not mode:
        return instances
    boxes = instances.pred_boxes.tensor.float()
    if mode == "class":
        return instances[batched_nms(boxes, instances.scores, instances.pred_classes, threshold)]
    return instances[nms(boxes, instances.scores, threshold)]
