"""Command-line entry points."""

from .. import config as _config  # noqa: F401  # Imports Detectron2 without its notices.
