"""Import of Detectron2 without its notices; an error explains the installation."""

from ..utils.cli import MissingPackage
from ..utils.logging import quiet_imports

__all__ = ["INSTALL_DETECTRON2"]

# Without dependencies, because the wheel requires NumPy 1; this package declares what Detectron2 imports. The wheel is
# tagged for Python 3.10 because of a compiled module that this project does not use.
INSTALL_DETECTRON2 = (
    "pip install --no-deps --only-binary=:all: --python-version 3.10 --target "
    '"$(python -c \'import sysconfig; print(sysconfig.get_path("purelib"))\')" sal-detectron2==0.7.2'
)

try:
    with quiet_imports():
        import detectron2.engine  # noqa: F401
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "detectron2":
        raise
    raise MissingPackage(
        f"Detectron2 is not installed in this environment. Install it with:\n  {INSTALL_DETECTRON2}"
    ) from error
