from .deform_conv import DeformConv

__all__ = ["DeformConv"]
