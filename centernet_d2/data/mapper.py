"""From a dataset dict to what the model reads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data.transforms import AugInput, Transform, TransformList
from detectron2.structures import Instances

from ..config import check_choice, check_keys, read_choice
from ..images import read_image
from ..modeling.heads import Property, build_properties
from .augmentations import build_augmentations
from .checks import ALL_CLASSES, EXCLUDED, shows_something

__all__ = ["CenterNetDatasetMapper"]

CROWD_POLICIES = ("object", "ignore")


class CenterNetDatasetMapper(DatasetMapper):
    """Detectron2's mapper with our augmentations, keeping what it drops: crowd regions, and what the properties read.

    Annotations with ``ignore`` are regions to ignore; their category may be ALL_CLASSES. Those that are EXCLUDED are
    left out.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        num_classes: int,
        properties: Sequence[Property] = (),
        crowd: str = "object",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            is_train: whether annotations are wanted.
            num_classes: classes of the model.
            properties: of the points; they make the ``gt_*`` fields beside boxes and classes.
            crowd: "object" keeps crowd annotations as objects, "ignore" marks them in ``gt_ignore``.
            kwargs: see :class:`detectron2.data.DatasetMapper`.

        Raises:
            ValueError: unknown crowd policy.
        """
        super().__init__(is_train, **kwargs)
        check_choice("crowd", crowd, CROWD_POLICIES)
        self.num_classes = num_classes
        self.properties = list(properties)
        self.crowd = crowd

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        check_keys(cfg)
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.CENTERNET.NUM_CLASSES,
            "properties": build_properties(cfg),
            "crowd": read_choice(cfg, "INPUT.CROWD", CROWD_POLICIES),
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """See :class:`detectron2.data.DatasetMapper`, whose reading cuts 16-bit images off at 255; ours scales them.

        An image without annotations has no objects.

        Raises:
            OSError: the image cannot be read; the message names it.
        """
        dataset_dict = copy.deepcopy({"annotations": [], **dataset_dict})
        image = read_image(dataset_dict["file_name"], self.image_format)
        utils.check_image_size(dataset_dict, image)
        inputs = AugInput(image)
        transforms = self.augmentations(inputs)
        dataset_dict["image"] = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        if self.is_train:
            size = inputs.image.shape[:2]
            dataset_dict["instances"] = self.annotate(dataset_dict, transforms, size)
            for prop in self.properties:
                own = {key: dataset_dict[key] for key in prop.input_keys if key in dataset_dict}
                dataset_dict.update(prop.carry(own, transforms.transforms))
        del dataset_dict["annotations"]
        return dataset_dict

    def annotate(self, record: dict, transforms: TransformList, size: tuple[int, int]) -> Instances:
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
        boxes = [
            utils.transform_instance_annotations(
                {name: x[name] for name in ("bbox", "bbox_mode", "category_id")}, transforms, size
            )
            for x in annotations
        ]
        instances = utils.annotations_to_instances(boxes, size)
        if self.crowd == "ignore" or any("ignore" in x for x in annotations):
            ignore = [x.get("ignore", self.crowd == "ignore" and bool(x.get("iscrowd", 0))) for x in annotations]
            instances.gt_ignore = torch.tensor(ignore, dtype=torch.bool)
        annotate_properties(instances, self.properties, {**record, "annotations": annotations}, transforms.transforms)
        # Where centers are not known, what else is known may belong to a box that is anywhere.
        return instances if instances.has("gt_blind") else utils.filter_empty_instances(instances)


def annotate_properties(
    instances: Instances, properties: Sequence[Property], record: dict, transforms: Sequence[Transform]
) -> None:
    """Add what properties say of the annotations of an image; ``gt_weight`` is the product of what they say.

    Raises:
        ValueError: two properties give the same field.
    """
    for prop in properties:
        for name, value in prop.annotate(record, transforms, instances.image_size).items():
            if name == "gt_weight" and instances.has(name):
                value = value * instances.gt_weight
            elif instances.has(name):
                raise ValueError(f"the property {prop.name} gives {name}, which an earlier one gives too")
            instances.set(name, value)
