from .box import BoxHead
from .box3d import Box3DHead
from .center import CenterHead
from .keypoint import KeypointHead
from .point_head import POINT_HEAD_REGISTRY, MapBranches, PointHead, build_point_heads, heads_provide

__all__ = [
    "POINT_HEAD_REGISTRY",
    "Box3DHead",
    "BoxHead",
    "CenterHead",
    "KeypointHead",
    "MapBranches",
    "PointHead",
    "build_point_heads",
    "heads_provide",
]
