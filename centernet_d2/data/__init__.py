from ..config import dependency as _dependency  # noqa: F401  # Imports Detectron2 without its notices.
from .catalog import register_datasets, register_from_config
from .checks import load_checked
from .mapper import CenterNetDatasetMapper

__all__ = ["CenterNetDatasetMapper", "load_checked", "register_datasets", "register_from_config"]
