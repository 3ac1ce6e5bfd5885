"""Which evaluator a data set has, and whether a model and a config suit it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, PascalVOCDetectionEvaluator
from detectron2.structures import Instances

from ..data.classes import match_classes
from ..data.coco import check_keypoint_names
from ..data.loaded import load_coco_content
from ..modeling.heads import build_properties, heads_provide
from ..structures.types import DatasetDict
from ..utils.validation import check_choice
from .coco import PointCOCOEvaluator
from .errors import ErrorEvaluator
from .kitti import KITTIEvaluator
from .kitti_metrics import MIN_OVERLAPS, RULES

__all__ = ["build_evaluator", "check_evaluation", "main_metric"]

# Values of ``evaluator_type`` in the metadata of a data set.
EVALUATORS = ("coco", "pascal_voc", "kitti")
COCO_KEYPOINTS = 17


def build_evaluator(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    """The metric of a data set by its ``evaluator_type`` (COCO, Pascal VOC, KITTI), and what properties measure.

    Args:
        cfg: of the model.
        dataset_name: registered.
        folder: for results.
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
    evaluators = DatasetEvaluators([official, ErrorEvaluator(dataset_name, properties)])
    if not (names := cfg.MODEL.CENTERNET.CLASS_NAMES):
        return evaluators
    numbers = match_classes(dataset_name, MetadataCatalog.get(dataset_name).thing_classes, names)
    return OwnClassesEvaluator(evaluators, numbers, len(names))


class OwnClassesEvaluator(DatasetEvaluator):
    """An evaluator of a data set that labels some of a model's classes: it gets detections of these, by its numbers."""

    def __init__(self, evaluator: DatasetEvaluator, numbers: Sequence[int], num_classes: int) -> None:
        """
        Args:
            evaluator: of the data set.
            numbers: of its classes in the model, see :func:`match_classes`.
            num_classes: of the model.
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
    """Everything that would otherwise fail at the first evaluation on a data set.

    Raises:
        ValueError: it has no evaluator, the model does not predict what is to be evaluated, or names or sigmas are for
            other keypoints.
    """
    kind = evaluator_type(dataset_name)
    if not heads_provide(cfg, "boxes"):
        raise ValueError("evaluation needs boxes: add BoxHead to MODEL.CENTERNET.HEADS, or empty DATASETS.TEST")
    if kind == "kitti" and not heads_provide(cfg, "boxes3d"):
        raise ValueError(f"evaluation on '{dataset_name}' needs 3-D boxes: add Box3DHead to MODEL.CENTERNET.HEADS")
    if kind == "kitti":
        check_choice("MODEL.CENTERNET.QUIRKS.KITTI_RULES", cfg.MODEL.CENTERNET.QUIRKS.KITTI_RULES, RULES)
    if kind != "coco" or not heads_provide(cfg, "keypoints"):
        return
    count, sigmas = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, cfg.TEST.KEYPOINT_OKS_SIGMAS
    if len(sigmas) not in (0, count):
        raise ValueError(f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} values for {count} keypoints")
    if not sigmas and count != COCO_KEYPOINTS:
        raise ValueError(
            f"TEST.KEYPOINT_OKS_SIGMAS is empty, which stands for COCO's {COCO_KEYPOINTS} keypoints, but there are "
            f"{count}; 0.05 for each is a sensible start"
        )
    metadata = MetadataCatalog.get(dataset_name)
    path, names = metadata.get("json_file"), metadata.get("keypoint_names")
    # Files of DATASETS.REGISTER were checked when they were read.
    if path and names and dataset_name not in [entry[0] for entry in cfg.DATASETS.REGISTER]:
        check_keypoint_names(path, load_coco_content(dataset_name).get("categories", ()), names)


def main_metric(cfg: CfgNode) -> str:
    """The name of the metric that counts on the first of DATASETS.TEST, in what :meth:`Trainer.test` returns."""
    dataset_name = cfg.DATASETS.TEST[0]
    kind = evaluator_type(dataset_name)
    if kind == "kitti":
        classes = MetadataCatalog.get(dataset_name).thing_classes
        chosen = "Car" if "Car" in classes else classes[0]
        metric = f"bev/{chosen}_moderate_R40@{MIN_OVERLAPS['bev'][chosen][-1]}"
    elif kind == "pascal_voc":
        metric = "bbox/AP50"
    else:
        metric = "keypoints/AP" if heads_provide(cfg, "keypoints") else "bbox/AP"
    return metric if len(cfg.DATASETS.TEST) == 1 else f"{dataset_name}/{metric}"


def evaluator_type(dataset_name: str) -> str:
    """One of EVALUATORS.

    Raises:
        ValueError: it is none of these.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATORS:
        raise ValueError(
            f"the data set '{dataset_name}' has evaluator_type {kind!r}; known are {', '.join(EVALUATORS)}. "
            "Set it with MetadataCatalog.get(name).evaluator_type, or override Trainer.build_evaluator"
        )
    return kind
