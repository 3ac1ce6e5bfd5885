"""From a dataset dict to what the model reads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import compress

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data.transforms import AugInput, TransformList

from ..config import check_choice
from ..modeling.heads.point_head import POINT_HEAD_REGISTRY, Annotator, lookup
from .augmentations import build_augmentations
from .boxes3d import carry_camera
from .checks import ALL_CLASSES, EXCLUDED, shows_something
from .images import read_image

__all__ = ["CenterNetDatasetMapper"]

CROWD_POLICIES = ("object", "ignore")


class CenterNetDatasetMapper(DatasetMapper):
    """Detectron2's mapper with our augmentations, keeping what it drops: crowd regions and the heads' own fields.

    Annotations with ``ignore`` are regions to ignore; their category may be ALL_CLASSES. Those that are EXCLUDED are
    left out. The ``camera`` of an image, a (3, 4) projection matrix, goes through its transforms; each of its objects
    has it as ``gt_camera``.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        num_classes: int,
        annotators: Sequence[Annotator] = (),
        crowd: str = "object",
        **kwargs: object,
    ) -> None:
        """
        Args:
            is_train: whether annotations are wanted.
            num_classes: classes of the model.
            annotators: see :meth:`centernet_d2.modeling.PointHead.build_annotator`.
            crowd: "object" keeps crowd annotations as objects, "ignore" marks them in ``gt_ignore``.
            kwargs: see :class:`detectron2.data.DatasetMapper`.

        Raises:
            ValueError: unknown crowd policy.
        """
        super().__init__(is_train, **kwargs)
        check_choice("INPUT.CROWD", crowd, CROWD_POLICIES)
        self.num_classes = num_classes
        self.annotators = annotators
        self.crowd = crowd

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, object]:
        heads = [lookup(POINT_HEAD_REGISTRY, name, "MODEL.CENTERNET.HEADS") for name in cfg.MODEL.CENTERNET.HEADS]
        annotators = [head.build_annotator(cfg) for head in heads]
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.CENTERNET.NUM_CLASSES,
            "annotators": [annotator for annotator in annotators if annotator],
            "crowd": cfg.INPUT.CROWD,
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
            self._transform_annotations(dataset_dict, transforms, inputs.image.shape[:2])
        else:
            del dataset_dict["annotations"]
        return dataset_dict

    def _transform_annotations(
        self, dataset_dict: dict, transforms: TransformList, image_shape: tuple[int, int]
    ) -> None:
        """Replace ``annotations`` by ``instances``, in annotation order; objects outside the image are dropped.

        ``width`` and ``height`` are those of the image before its transforms.
        """
        annotations = [x for x in dataset_dict.pop("annotations") if x["category_id"] != EXCLUDED]
        # Before the transforms, which put the corners of a box in order and may move it into the window.
        size = (dataset_dict.get("width", np.inf), dataset_dict.get("height", np.inf))
        annotations = list(compress(annotations, shows_something(annotations, size)))
        if any(not (ALL_CLASSES if x.get("ignore") else 0) <= x["category_id"] < self.num_classes for x in annotations):
            raise ValueError(
                f"{dataset_dict['file_name']} has objects of a class that MODEL.CENTERNET.NUM_CLASSES = "
                f"{self.num_classes} does not know"
            )
        fields = [annotate(annotations, transforms.transforms, image_shape) for annotate in self.annotators]
        boxes = [
            utils.transform_instance_annotations(
                {name: x[name] for name in ("bbox", "bbox_mode", "category_id")}, transforms, image_shape
            )
            for x in annotations
        ]
        instances = utils.annotations_to_instances(boxes, image_shape)
        if self.crowd == "ignore" or any("ignore" in x for x in annotations):
            ignore = [x.get("ignore", self.crowd == "ignore" and bool(x.get("iscrowd", 0))) for x in annotations]
            instances.gt_ignore = torch.tensor(ignore, dtype=torch.bool)
        if "camera" in dataset_dict:
            camera = carry_camera(dataset_dict["camera"], transforms.transforms)
            dataset_dict["camera"] = torch.from_numpy(camera).float()
            instances.gt_camera = dataset_dict["camera"].expand(len(annotations), 3, 4)
        for name, value in (item for one in fields for item in one.items()):
            instances.set(name, value)
        if any(getattr(transform, "rotates", False) for transform in transforms.transforms):
            # Boxes do not turn with the image, so centers and what belongs to them are not known (SPEC 6.5).
            instances.gt_weight = torch.zeros(len(instances))
            instances.gt_blind = torch.ones(len(instances), dtype=torch.bool)
            dataset_dict["instances"] = instances
        else:
            dataset_dict["instances"] = utils.filter_empty_instances(instances)
