"""2-D box head: width and height of an object, regressed at its center."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.structures import Boxes, BoxMode, Instances
from torch import Tensor

from ...config.registry import POINT_HEAD_REGISTRY
from ...imaging.geometry import Geometry, apply_affine, size_tensor
from ...structures.points import Peaks, Points
from ...structures.types import Fields, Maps, Targets
from ...utils.validation import check_choice
from ..losses import REGRESSION_LOSSES, regression_loss
from .point_head import PointHead, Property

__all__ = ["BoxHead", "BoxProperty"]


class BoxProperty(Property):
    """2-D box property; boxes are read and drawn by the framework for every model."""

    name = "box"
    fields = ("pred_boxes",)

    def to_json(self, instances: Instances) -> list[dict[str, Any]]:
        """Return ``bbox`` in COCO format: x, y, width, height."""
        boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        return [{"bbox": box} for box in boxes.tolist()]


@POINT_HEAD_REGISTRY.register()
class BoxHead(PointHead):
    """Head that regresses width and height of boxes (paper, section 4).

    Sizes are in map pixels; the map is linear.
    """

    property_type = BoxProperty
    original_names = {"size": "wh"}
    keys = {
        "num_classes": "MODEL.CENTERNET.NUM_CLASSES",
        "class_specific": "MODEL.CENTERNET.CLASS_SPECIFIC_SIZE",
        "loss": "MODEL.CENTERNET.SIZE_LOSS",
        "weight": "MODEL.CENTERNET.SIZE_WEIGHT",
        "clip": "MODEL.CENTERNET.QUIRKS.CLIP_BOXES",
        "loss_slots": "MODEL.CENTERNET.QUIRKS.LOSS_SLOTS",
        "size_as_point": "MODEL.CENTERNET.QUIRKS.SIZE_AS_POINT",
    }
    requires = ("centers", "classes")
    provides = ("boxes",)
    converters = {"pred_boxes": Boxes}

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        class_specific: bool = False,
        loss: str = "l1",
        weight: float = 0.1,
        clip: bool = True,
        loss_slots: int = 0,
        size_as_point: bool = False,
        **common: Any,
    ) -> None:
        """
        Args:
            num_classes: number of classes; only used for class-specific sizes.
            class_specific: predict a size per class, in channels 2c and 2c + 1 for class c, instead of one size.
            loss: "l1" or "smooth_l1" (ablation in the paper). Class-specific sizes always use "l1", as in the
                reference implementation.
            weight: weight of the loss.
            clip: clip decoded boxes to the image, and discard detections whose box then has no positive width and
                height. The reference implementation does neither.
            loss_slots: see :class:`CenterHead`.
            size_as_point: transform sizes to the original image like points, including the translation, as the
                reference implementation does for 3-D boxes (original.md: 3-D results). Boxes on KITTI become about
                one pixel too tall.
            common: see :class:`PointHead`.

        Raises:
            ValueError: if the loss is unknown.
        """
        check_choice("loss", loss, REGRESSION_LOSSES)
        super().__init__({"size": 2 * num_classes if class_specific else 2}, **common)
        self.class_specific = class_specific
        self.loss = "l1" if class_specific else loss
        self.weight = weight
        self.clip = clip
        self.loss_slots = loss_slots
        self.size_as_point = size_as_point

    def targets(self, gt: Sequence[Instances], points: Points) -> Targets:
        size = points.boxes[:, 2:] - points.boxes[:, :2]
        if not self.class_specific:
            return {"size": points.target(size)}
        mask = torch.nn.functional.one_hot(points.classes.clamp(min=0), self.maps["size"] // 2).repeat_interleave(
            2, dim=1
        )
        return {"size": points.target(size.repeat(1, mask.shape[1] // 2) * mask, mask * points.weight[:, None])}

    def losses(self, maps: Maps, targets: Targets) -> dict[str, Tensor]:
        target = targets["size"]
        slots = self.loss_slots * len(maps["size"])
        loss = regression_loss(target.gather(maps["size"]), target.value, target.weight, self.loss, slots)
        return {"loss_size": self.weight * loss}

    def unflip(self, maps: Maps) -> dict[str, Tensor | None]:
        return {"size": maps["size"].flip(-1)}

    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """Decode (B, K, 4) XYXY boxes in map pixels.

        Predicted sizes may be negative; they are not clamped.
        """
        size = peaks.gather(maps["size"])
        if self.class_specific:
            index = fields["classes"][..., None, None].expand(-1, -1, 1, 2)
            size = size.unflatten(2, (-1, 2)).gather(2, index).squeeze(2)
        centers = fields["centers"]
        return {"boxes": torch.cat([centers - size / 2, centers + size / 2], dim=2)}

    def to_image(self, fields: Fields, geometry: Geometry) -> Fields:
        corners = apply_affine(fields["boxes"].unflatten(1, (2, 2)), geometry.to_image)
        if self.size_as_point:
            shift = geometry.to_image[:, 2].to(corners) / 2
            corners = corners + torch.stack([-shift, shift])
        if self.clip:
            corners = torch.minimum(corners.clamp(min=0), size_tensor(geometry.image_size).to(corners).flip(0))
        return {"pred_boxes": corners.flatten(1)}

    def valid(self, produced: Fields) -> Tensor | None:
        boxes = produced["pred_boxes"]
        return (boxes[:, 2:] > boxes[:, :2]).all(dim=1) if self.clip else None
