"""CenterNet ("Objects as Points", arXiv 1904.07850) as a Detectron2 plugin.

Importing the package registers the meta-architecture, the backbones and the point heads with Detectron2.
"""

from .quiet import quiet_imports as _quiet_imports

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

with _quiet_imports():
    from . import model_zoo
    from .config import add_centernet_config, load_config
    from .modeling import CenterNet
    from .predictor import Predictor

__version__ = "0.1.0"

__all__ = ["CenterNet", "Predictor", "add_centernet_config", "load_config", "model_zoo"]
