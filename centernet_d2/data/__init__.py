from .checks import load_checked
from .mapper import CenterNetDatasetMapper
from .register import register_datasets, register_from_config

__all__ = ["CenterNetDatasetMapper", "load_checked", "register_datasets", "register_from_config"]
