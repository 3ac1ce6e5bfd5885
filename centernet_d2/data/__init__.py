from .mapper import CenterNetDatasetMapper
from .register import register_datasets

__all__ = ["CenterNetDatasetMapper", "register_datasets"]
