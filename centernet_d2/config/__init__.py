"""Config keys, config loading and the catalog of configs."""

from ..utils.logging import quiet_imports as _quiet_imports

try:
    with _quiet_imports():
        import detectron2.engine  # noqa: F401
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "detectron2":
        raise
    raise ImportError(
        "centernet_d2 is a plugin for Detectron2, which is not installed. Install torch first, then run "
        "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git' "
        "(pure-Python alternatives: see README.md, Install)."
    ) from error

from .keys import add_centernet_config
from .loading import load_config

__all__ = ["add_centernet_config", "load_config"]
