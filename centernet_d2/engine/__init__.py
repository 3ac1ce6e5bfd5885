from .. import config as _config  # noqa: F401  # Imports Detectron2 without its warnings.
from .solver import build_optimizer
from .trainer import Trainer

__all__ = ["Trainer", "build_optimizer"]
