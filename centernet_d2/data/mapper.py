"""From a dataset dict to what the model reads."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data.transforms import AugInput, AugmentationList, Transform, TransformList
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..config.arguments import configurable, read_keys
from ..config.keys import check_keys
from ..imaging.reading import read_image
from ..modeling.heads import Property, build_properties
from ..structures.types import DatasetDict
from ..utils.validation import check_choice
from .augmentations import ColorJitter, build_augmentations
from .checks import ALL_CLASSES, EXCLUDED, corners, shows_something

__all__ = ["CenterNetDatasetMapper"]

CROWD_POLICIES = ("object", "ignore")


class CenterNetDatasetMapper(DatasetMapper):
    """Detectron2's mapper with our augmentations, keeping what it drops: crowd regions, and what the properties read.

    Annotations with ``ignore`` are regions to ignore; their category may be ALL_CLASSES. Those that are EXCLUDED are
    left out.
    """

    #: Argument -> config key.
    keys: ClassVar[Mapping[str, str]] = {
        "image_format": "INPUT.FORMAT",
        "num_classes": "MODEL.CENTERNET.NUM_CLASSES",
        "crowd": "MODEL.CENTERNET.QUIRKS.CROWD",
    }

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        num_classes: int,
        properties: Sequence[Property] = (),
        crowd: str = "object",
        defer_color: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            is_train: whether annotations are wanted.
            num_classes: classes of the model.
            properties: of the points; they make the ``gt_*`` fields beside boxes and classes.
            crowd: "object" keeps crowd annotations as objects, "ignore" marks them in ``gt_ignore``.
            defer_color: a :class:`ColorJitter` that comes last only writes its (3, 4) matrix into the sample, as
                ``color``; the image stays uint8, and the model has to apply it, as CenterNet does on its device.
            kwargs: see :class:`detectron2.data.DatasetMapper`.

        Raises:
            ValueError: unknown crowd policy.
        """
        super().__init__(is_train, **kwargs)
        check_choice("crowd", crowd, CROWD_POLICIES)
        self.num_classes = num_classes
        self.properties = list(properties)
        self.crowd = crowd
        self.defer_color = defer_color

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        check_keys(cfg)
        return {
            **read_keys(cfg, cls.keys),
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "properties": build_properties(cfg),
            "defer_color": cfg.MODEL.META_ARCHITECTURE == "CenterNet",  # Others may not know of it.
        }

    def __call__(self, dataset_dict: DatasetDict) -> dict:
        """See :class:`detectron2.data.DatasetMapper`, whose reading cuts 16-bit images off at 255; ours scales them.

        An image without annotations has no objects.

        Raises:
            OSError: the image cannot be read; the message names it.
        """
        annotations = dataset_dict.get("annotations", [])
        # They are only read, and there may be many.
        sample = copy.deepcopy({key: value for key, value in dataset_dict.items() if key != "annotations"})
        image = read_image(sample["file_name"], self.image_format)
        utils.check_image_size(sample, image)
        inputs = AugInput(image)
        transforms, color = self.augment(inputs)
        sample["image"] = _channels_first(inputs.image)
        if color is not None:
            sample["color"] = torch.from_numpy(color)
        if self.is_train:
            size = inputs.image.shape[:2]
            sample["instances"] = self.annotate({**sample, "annotations": annotations}, transforms, size)
            for prop in self.properties:
                own = {key: sample[key] for key in prop.input_keys if key in sample}
                sample.update(prop.carry(own, transforms.transforms))
        return sample

    def augment(self, inputs: AugInput) -> tuple[TransformList, np.ndarray | None]:
        """Change an image; all that was drawn for it, and the (3, 4) matrix of colours if its pixels wait for that."""
        steps = self.augmentations.augs
        if not (self.defer_color and steps and isinstance(steps[-1], ColorJitter)):
            return self.augmentations(inputs), None
        transforms = AugmentationList(steps[:-1])(inputs).transforms
        color = steps[-1].get_transform(inputs.image)
        return TransformList([*transforms, color]), color.matrix(inputs.image)

    def annotate(self, record: DatasetDict, transforms: TransformList, size: tuple[int, int]) -> Instances:
        """The annotations of an image, in their order, as ``gt_*`` fields; objects outside the image are dropped.

        Args:
            record: the image in Detectron2's format; ``width`` and ``height`` are those before the transforms.
            transforms: what the image went through.
            size: (height, width) of the image after that.

        Raises:
            ValueError: an object has a class that the model does not know.
        """
        annotations = [x for x in record["annotations"] if x["category_id"] != EXCLUDED]
        # Before the transforms, which put the corners of a box in order and may move it into the window.
        before = (record.get("width", np.inf), record.get("height", np.inf))
        annotations = list(compress(annotations, shows_something(annotations, before)))
        if any(not (ALL_CLASSES if x.get("ignore") else 0) <= x["category_id"] < self.num_classes for x in annotations):
            raise ValueError(
                f"{record['file_name']} has objects of a class that MODEL.CENTERNET.NUM_CLASSES = "
                f"{self.num_classes} does not know"
            )
        boxes = transforms.apply_box(corners(annotations)).clip(0, [size[1], size[0]] * 2)
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.from_numpy(boxes.astype(np.float32)))
        instances.gt_classes = torch.tensor([x["category_id"] for x in annotations], dtype=torch.int64)
        if self.crowd == "ignore" or any("ignore" in x for x in annotations):
            ignore = [x.get("ignore", self.crowd == "ignore" and bool(x.get("iscrowd", 0))) for x in annotations]
            instances.gt_ignore = torch.tensor(ignore, dtype=torch.bool)
        annotate_properties(instances, self.properties, {**record, "annotations": annotations}, transforms.transforms)
        # Where centers are not known, what else is known may belong to a box that is anywhere.
        return instances if instances.has("gt_blind") else utils.filter_empty_instances(instances)


def _channels_first(image: np.ndarray) -> Tensor:
    """(H, W, C) -> (C, H, W)."""
    if image.dtype != np.uint8:
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    planes = np.empty((image.shape[2], *image.shape[:2]), dtype=np.uint8)
    cv2.split(image, list(planes))  # Several times as fast as NumPy.
    return torch.from_numpy(planes)


def annotate_properties(
    instances: Instances, properties: Sequence[Property], record: DatasetDict, transforms: Sequence[Transform]
) -> None:
    """Add what properties say of the annotations of an image; ``gt_weight`` is the product of what they say.

    Raises:
        ValueError: two properties give the same field, or one has another length than the annotations.
    """
    for prop in properties:
        for name, value in prop.annotate(record, transforms, instances.image_size).items():
            if len(value) != len(instances):
                raise ValueError(
                    f"{record.get('file_name', 'an image')}: the property {prop.name} gives {len(value)} {name} for "
                    f"{len(instances)} annotations"
                )
            if name == "gt_weight" and instances.has(name):
                value = value * instances.gt_weight
            elif instances.has(name):
                raise ValueError(f"the property {prop.name} gives {name}, which an earlier one gives too")
            instances.set(name, value)
