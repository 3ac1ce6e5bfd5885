"""Catalog of configs, models in the package and weights of the reference authors."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "BUNDLED",
    "RELEASED",
    "SAMPLE",
    "SMALL",
    "available",
    "find_base",
    "find_bundled",
    "find_config",
    "find_released",
    "get_base_file",
    "get_config_file",
]

# Name of the small network for own data, which is not in the model zoo.
SMALL = "small"
# Models whose checkpoints are in the folder ``assets`` of the package.
BUNDLED = ("cells",)
ASSETS = Path(__file__).resolve().parents[1] / "assets"
# Image that none of these models was trained on.
SAMPLE = ASSETS / "cells.jpg"


def _root() -> Path:
    """Return the config folder: centernet_d2.configs if installed, else ``configs`` next to the package."""
    try:
        from .. import configs
    except ImportError:
        return Path(__file__).resolve().parents[2] / "configs"
    return Path(configs.__file__).parent


def available(suffix: str = ".yaml", *, trained: bool = False) -> list[str]:
    """List the configs of the model zoo.

    Args:
        suffix: ``".yaml"`` to list configs such as ``"COCO-Detection/centernet_R_18_1x.yaml"``, or ``".py"`` to list
            LazyConfigs such as ``"lazy/centernet_R_18_1x.py"``.
        trained: list the short names of trained models instead, such as ``"cells"`` (in the package) or
            ``"dla34-coco"`` (released weights).
    """
    if trained:
        return [*BUNDLED, *(weights.name for weights in RELEASED)]
    root = _root()
    return sorted(path.relative_to(root).as_posix() for path in root.glob(f"*/*{suffix}"))


def get_config_file(name: str) -> str:
    """Return the path of a config in the model zoo.

    Args:
        name: one of :func:`available`, including short names of released weights.

    Raises:
        FileNotFoundError: the config does not exist.
    """
    if released := find_released(name):
        name = released.config
    known = [*available(), *available(".py")]
    if name not in known:
        names = "\n  ".join([*known, *available(trained=True)])
        raise FileNotFoundError(f"config '{name}' is not in the model zoo. Available configs:\n  {names}")
    return str(_root() / name)


def get_base_file(name: str) -> Path:
    """Return the path of a base config, such as ``"Base-HG-small.yaml"``."""
    return _root() / name


def find_base(config: Path, base: str) -> Path:
    """Return the path of a ``_BASE_`` file.

    The path is relative to the config file; if no such file exists, it is relative to the configs of this project.
    A home folder, ``~`` or ``~user``, is expanded if the user exists.
    """
    relative, own = config.parent / os.path.expanduser(base), _root() / base
    return own if not os.path.isfile(relative) and os.path.isfile(own) else relative


def find_config(name: str | Path) -> Path:
    """Return the path of a config file or of a config in the model zoo.

    Raises:
        FileNotFoundError: no file, folder or config in the model zoo has this name.
        ValueError: the file is a LazyConfig, or the name is a model in the package.
    """
    if find_bundled(name):
        raise ValueError(f"{name} is a trained model, not a config: use --model {name}, or Predictor('{name}')")
    if Path(name).suffix == ".py":
        raise ValueError(f"config file {name} is a LazyConfig; use a YAML file (see docs/python.md)")
    if os.path.isfile(name):
        return Path(name)
    if str(name) in available() or find_released(name):
        return Path(get_config_file(str(name)))
    siblings = [str(path) for path in Path(name).parent.iterdir()] if os.path.isdir(Path(name).parent) else []
    similar = difflib.get_close_matches(str(name), [*available(), *available(trained=True), *siblings], 1)
    hint = f"did you mean {similar[0]}?" if similar else "--list-models lists the names of configs and weights"
    raise FileNotFoundError(f"config file, run or model {name} does not exist; {hint}")


class ReleasedWeights(NamedTuple):
    """Weights released with the reference implementation.

    Attributes:
        name: short name, for command lines and MODEL.WEIGHTS.
        config: matching config of the model zoo.
        file: file name chosen by the reference authors.
        drive_id: Google Drive ID of the file.
    """

    name: str
    config: str
    file: str
    drive_id: str

    @property
    def page(self) -> str:
        """Download page, for browsers."""
        return f"https://drive.google.com/file/d/{self.drive_id}"

    @property
    def url(self) -> str:
        """Download URL, for programs."""
        return f"https://drive.google.com/uc?id={self.drive_id}"


# Name, config, file, ID. The list of the reference authors contains the ID of ctdet_coco_resdcn18 twice, also for
# exdet_coco_dla, so one of the two is wrong. If it is this one, loading fails, because weights of another network are
# rejected. ExtremeNet (exdet_*) is not part of this project.
_TABLE = """
r18-coco           COCO-Detection/centernet_R_18_1x         ctdet_coco_resdcn18        1RtFps3kQAyLjQyzCao7pPDclOBQ64Vyp
r101-coco          COCO-Detection/centernet_R_101_1x        ctdet_coco_resdcn101       1tKkSyzC3iWmM6XTYNJrC4XLCIToDmnHz
dla34-coco         COCO-Detection/centernet_DLA_34_2x       ctdet_coco_dla_2x          18Q3fzzAsha_3Qid6mn4jcIFPeOGUaj1d
dla34-coco-1x      COCO-Detection/centernet_DLA_34_1x       ctdet_coco_dla_1x          1xqFsdA3DANMq1MfnXG8n7nQPe4AfXTHv
hg104-coco         COCO-Detection/centernet_HG_104          ctdet_coco_hg              13F904yXltGIqa_K3g3-FLleaNX0n7c9O
dla34-coco-pose    COCO-Keypoints/centernet_DLA_34_3x       multi_pose_dla_3x          1mC2PAQT_RuHi_9ZMZgkt4rg7BSY2_Lkd
dla34-coco-pose-1x COCO-Keypoints/centernet_DLA_34_1x       multi_pose_dla_1x          1WKqVdkIew43SxLTSxi81a-_f4Q9v2Fx5
hg104-coco-pose    COCO-Keypoints/centernet_HG_104_3x       multi_pose_hg_3x           17-YS11iguOQKwPPHUg8LzakLzrgKSLfA
hg104-coco-pose-1x COCO-Keypoints/centernet_HG_104_1x       multi_pose_hg_1x           1neg1zfVjRTS45FCdk5hgIV-TxJ0McAew
r18-voc-384        PascalVOC-Detection/centernet_R_18_384   ctdet_pascal_resdcn18_384  1mpeslWUt0aJqx99_-UcCzJ7GBcD6sCA-
r18-voc-512        PascalVOC-Detection/centernet_R_18_512   ctdet_pascal_resdcn18_512  1ILnmGrJQiDK2Ib-D7TzBs2fq5bfju-Bd
r101-voc-384       PascalVOC-Detection/centernet_R_101_384  ctdet_pascal_resdcn101_384 1-Qy4zMhzmBk9fMF0u2s5zNI0Uj9latsk
r101-voc-512       PascalVOC-Detection/centernet_R_101_512  ctdet_pascal_resdcn101_512 1TiJkPaofzUaEMLi5wr9TIIUY8G2VewCQ
dla34-voc-384      PascalVOC-Detection/centernet_DLA_34_384 ctdet_pascal_dla_384       19J7WoUZKYiSEU7vrhZInz5C2m0-9zmC1
dla34-voc-512      PascalVOC-Detection/centernet_DLA_34_512 ctdet_pascal_dla_512       1Iqqr_VLtG8T3tUzy-EuMaeuCtFuv6pEU
dla34-kitti-3dop   KITTI-3D/centernet_3d_DLA_34_3dop        ddd_3dop                   1LrAzVJqlZECVuyr_NJI_4xd88mA1fL5b
dla34-kitti-subcnn KITTI-3D/centernet_3d_DLA_34_subcnn      ddd_sub                    1ZUsUqrM_yTjxaJuDBxm0WTKXj1snVuvP
"""

RELEASED = tuple(
    ReleasedWeights(name, f"{config}.yaml", f"{file}.pth", drive_id)
    for name, config, file, drive_id in map(str.split, _TABLE.strip().splitlines())
)


def find_bundled(name: str | Path) -> Path | None:
    """Return the checkpoint of a model in the package, or None.

    The result is None if the name is unknown, or if a file or folder with this name exists.
    """
    return None if str(name) not in BUNDLED or os.path.exists(name) else ASSETS / f"{name}.pth"


def find_released(name: str | Path) -> ReleasedWeights | None:
    """Return the released weights with a short name, or None.

    The result is None if the name is unknown, or if a file with this name exists.
    """
    released = next((weights for weights in RELEASED if weights.name == str(name)), None)
    return None if released is None or os.path.isfile(name) else released
