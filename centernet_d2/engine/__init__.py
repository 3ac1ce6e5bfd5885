from .setup import setup
from .trainer import Trainer

__all__ = ["Trainer", "setup"]
