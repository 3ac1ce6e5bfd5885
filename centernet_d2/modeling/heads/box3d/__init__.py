from .cameras import transform_camera
from .head import Box3DHead
from .prop import Box3DProperty

__all__ = ["Box3DHead", "Box3DProperty", "transform_camera"]
