"""Construction of evaluators, and validation of the config for evaluation."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, PascalVOCDetectionEvaluator
from detectron2.structures import Instances

from ..data.classes import match_classes
from ..data.coco import check_keypoint_names
from ..data.loaded import load_coco_content, load_dataset
from ..modeling.heads import build_properties, heads_provide
from ..readers.keypoints import are_coco_person_names
from ..structures.types import DatasetDict
from ..utils.validation import check_choice
from .coco import PointCOCOEvaluator
from .errors import ErrorEvaluator
from .kitti import KITTIEvaluator
from .kitti_metrics import MIN_OVERLAPS, RULES
from .record import DetectionRecorder

__all__ = ["build_evaluator", "check_evaluation", "main_metric", "validation_config"]

# Supported values of ``evaluator_type`` in the metadata of a dataset.
EVALUATORS = ("coco", "pascal_voc", "kitti")
COCO_KEYPOINTS = 17

logger = logging.getLogger(__name__)


def build_evaluator(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    """Build the evaluator of a dataset, which includes the errors of the properties.

    The ``evaluator_type`` of the dataset selects COCO, Pascal VOC or KITTI evaluation.

    Args:
        cfg: config of the model.
        dataset_name: name of the registered dataset.
        folder: output folder of the results.
    """
    properties = build_properties(cfg)
    kind = evaluator_type(dataset_name)
    if kind == "coco":
        count = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if heads_provide(cfg, "keypoints") else 0
        official = PointCOCOEvaluator(
            dataset_name,
            properties=properties,
            num_keypoints=count,
            round_results=cfg.MODEL.CENTERNET.QUIRKS.ROUND_RESULTS,
            output_dir=folder,
            max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        )
    elif kind == "kitti":
        official = KITTIEvaluator(dataset_name, output_dir=folder, rules=cfg.MODEL.CENTERNET.QUIRKS.KITTI_RULES)
    else:
        official = PascalVOCDetectionEvaluator(dataset_name)
    evaluators = DatasetEvaluators([official, ErrorEvaluator(dataset_name, properties), DetectionRecorder(folder)])
    if not (names := cfg.MODEL.CENTERNET.CLASS_NAMES):
        return evaluators
    numbers = match_classes(dataset_name, MetadataCatalog.get(dataset_name).thing_classes, names)
    return ClassSubsetEvaluator(evaluators, numbers, len(names))


class ClassSubsetEvaluator(DatasetEvaluator):
    """Evaluator for a dataset that labels a subset of the model's classes.

    It passes the detections of these classes, converted to the classes of the dataset, to another evaluator.
    """

    def __init__(self, evaluator: DatasetEvaluator, numbers: Sequence[int], num_classes: int) -> None:
        """
        Args:
            evaluator: evaluator of the dataset.
            numbers: indices of its classes in the model, see :func:`match_classes`.
            num_classes: number of classes of the model.
        """
        self.evaluator = evaluator
        self.own = torch.full((num_classes,), -1)
        self.own[list(numbers)] = torch.arange(len(numbers))

    def reset(self) -> None:
        self.evaluator.reset()

    def process(self, inputs: Sequence[DatasetDict], outputs: Sequence[dict]) -> None:
        self.evaluator.process(inputs, [{**x, "instances": self._translate(x["instances"])} for x in outputs])

    def _translate(self, instances: Instances) -> Instances:
        own = self.own.to(instances.pred_classes.device)[instances.pred_classes]
        chosen = instances[own >= 0]
        chosen.pred_classes = own[own >= 0]
        return chosen

    def evaluate(self) -> dict | None:
        return self.evaluator.evaluate()


def check_evaluation(cfg: CfgNode, dataset_name: str) -> None:
    """Validate the config for the evaluation on a dataset, before training.

    Raises:
        ValueError: the dataset has no evaluator, the model does not predict the required fields, or keypoint names or
            sigmas do not match the model.
    """
    kind = evaluator_type(dataset_name)
    if not heads_provide(cfg, "boxes"):
        raise ValueError("evaluation requires boxes; add BoxHead to MODEL.CENTERNET.HEADS, or clear DATASETS.TEST")
    if kind == "kitti" and not heads_provide(cfg, "boxes3d"):
        raise ValueError(f"evaluation on '{dataset_name}' requires 3-D boxes; add Box3DHead to MODEL.CENTERNET.HEADS")
    if kind == "kitti":
        check_choice("MODEL.CENTERNET.QUIRKS.KITTI_RULES", cfg.MODEL.CENTERNET.QUIRKS.KITTI_RULES, RULES)
    _check_records(dataset_name, kind, cfg.TEST.DETECTIONS_PER_IMAGE)
    if kind != "coco" or not heads_provide(cfg, "keypoints"):
        return
    count, sigmas = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, cfg.TEST.KEYPOINT_OKS_SIGMAS
    if len(sigmas) not in (0, count):
        raise ValueError(f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} values, but there are {count} keypoints")
    if not sigmas and count != COCO_KEYPOINTS:
        raise ValueError(
            f"TEST.KEYPOINT_OKS_SIGMAS is empty, which selects the sigmas of COCO's {COCO_KEYPOINTS} keypoints, but "
            f"there are {count} keypoints. Set one value per keypoint; 0.05 is a reasonable start"
        )
    own = cfg.MODEL.CENTERNET.KEYPOINTS.NAMES
    if not sigmas and own and not are_coco_person_names(own):
        logger.warning(
            "TEST.KEYPOINT_OKS_SIGMAS is empty, which selects the sigmas of COCO's keypoints of a person, but "
            f"MODEL.CENTERNET.KEYPOINTS.NAMES are others ({', '.join(own[:3])}, ...). Set one value per keypoint; 0.05 "
            "is a reasonable start"
        )
    metadata = MetadataCatalog.get(dataset_name)
    path, names = metadata.get("json_file"), metadata.get("keypoint_names")
    # Files of DATASETS.REGISTER are validated when they are read.
    if path and names and dataset_name not in [entry[0] for entry in cfg.DATASETS.REGISTER]:
        check_keypoint_names(path, load_coco_content(dataset_name).get("categories", ()), names)


def _check_records(dataset_name: str, kind: str, limit: int) -> None:
    """Require the keys for the evaluation; warn about images with more objects than can be detected."""
    records = load_dataset(dataset_name)
    required = ["image_id"]
    if kind == "coco" and not MetadataCatalog.get(dataset_name).get("json_file"):
        required += ["height", "width"]
    for index, record in enumerate(records):
        if missing := [key for key in required if key not in record]:
            raise ValueError(
                f"{dataset_name}: record {index} ({record['file_name']}) has no {' and no '.join(missing)}, which the "
                "evaluation requires"
            )
    counts = [len(record.get("annotations", ())) for record in records]
    if exceeding := sum(count > limit for count in counts):
        most = max(counts)
        logger.warning(
            f"dataset '{dataset_name}': {exceeding} of {len(records)} images have more than {limit} objects, up to "
            f"{most} ({records[counts.index(most)]['file_name']}), but only {limit} are detected "
            "(TEST.DETECTIONS_PER_IMAGE), which limits all metrics. "
            f"Set it to {math.ceil(most / 100) * 100}"
        )


def validation_config(cfg: CfgNode) -> CfgNode:
    """Return the config of evaluations during training.

    Its DATASETS.TEST is DATASETS.VAL, if set.

    Raises:
        ValueError: a dataset of DATASETS.VAL is not in DATASETS.TEST.
    """
    if unknown := sorted(set(cfg.DATASETS.VAL) - set(cfg.DATASETS.TEST)):
        raise ValueError(f"DATASETS.VAL contains {', '.join(unknown)}, but DATASETS.TEST does not: add it there")
    if not cfg.DATASETS.VAL:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = cfg.DATASETS.VAL
    return cfg


def main_metric(cfg: CfgNode) -> str:
    """Return the name of the main metric of the first validation dataset.

    The name is a key of the flattened results of :meth:`Trainer.test`.
    """
    dataset_name = (*cfg.DATASETS.VAL, *cfg.DATASETS.TEST)[0]
    kind = evaluator_type(dataset_name)
    if kind == "kitti":
        classes = MetadataCatalog.get(dataset_name).thing_classes
        chosen = "Car" if "Car" in classes else classes[0]
        metric = f"bev/{chosen}_moderate_R40@{MIN_OVERLAPS['bev'][chosen][-1]}"
    elif kind == "pascal_voc":
        metric = "bbox/AP50"
    else:
        metric = "keypoints/AP" if heads_provide(cfg, "keypoints") else "bbox/AP"
    return f"{dataset_name}/{metric}" if cfg.DATASETS.VAL or len(cfg.DATASETS.TEST) > 1 else metric


def evaluator_type(dataset_name: str) -> str:
    """Return the evaluator type of a dataset, one of EVALUATORS.

    Raises:
        ValueError: the evaluator type is unknown.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATORS:
        raise ValueError(
            f"the dataset '{dataset_name}' has evaluator_type {kind!r}, but must have one of {', '.join(EVALUATORS)}. "
            "Set MetadataCatalog.get(name).evaluator_type, or override Trainer.build_evaluator"
        )
    return kind
