from ...config.registry import POINT_HEAD_REGISTRY
from .box import BoxHead, BoxProperty
from .box3d import Box3DHead, Box3DProperty
from .branches import MapBranches
from .build import build_properties, heads_provide
from .center import CenterHead, CenterProperty
from .keypoint import KeypointHead, KeypointProperty, KeypointSchema
from .point_head import PointHead, Property, unflip_vectors

__all__ = [
    "POINT_HEAD_REGISTRY",
    "Box3DHead",
    "Box3DProperty",
    "BoxHead",
    "BoxProperty",
    "CenterHead",
    "CenterProperty",
    "KeypointHead",
    "KeypointProperty",
    "KeypointSchema",
    "MapBranches",
    "PointHead",
    "Property",
    "build_properties",
    "heads_provide",
    "unflip_vectors",
]
