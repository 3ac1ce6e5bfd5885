from .boxes3d import Boxes3D

__all__ = ["Boxes3D"]
