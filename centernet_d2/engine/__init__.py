from ..config import dependency as _dependency  # noqa: F401  # Imports Detectron2 without its notices.
from .solver import build_optimizer
from .trainer import Trainer

__all__ = ["Trainer", "build_optimizer"]
