from .mapper import CenterNetDatasetMapper
from .register import register_datasets, register_from_config

__all__ = ["CenterNetDatasetMapper", "register_datasets", "register_from_config"]
