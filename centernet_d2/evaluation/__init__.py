from .build import build_evaluator
from .coco import PointCOCOEvaluator
from .errors import ErrorEvaluator
from .kitti import KITTIEvaluator

__all__ = ["ErrorEvaluator", "KITTIEvaluator", "PointCOCOEvaluator", "build_evaluator"]
