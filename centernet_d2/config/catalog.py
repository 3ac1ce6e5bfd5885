"""Names of the project's config files and of the weights released by the reference authors."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "TRAINED",
    "available",
    "find_base",
    "find_config",
    "find_trained",
    "get_base_file",
    "get_config_file",
]


def _root() -> Path:
    """The folder of the configs: installed as centernet_d2.configs, or beside the package in a plain checkout."""
    try:
        from .. import configs
    except ImportError:
        return Path(__file__).resolve().parents[2] / "configs"
    return Path(configs.__file__).parent


def available(suffix: str = ".yaml", *, trained: bool = False) -> list[str]:
    """Names of all configs, such as ``"COCO-Detection/centernet_R_18_1x.yaml"``.

    Args:
        suffix: ".py" for those in Detectron2's LazyConfig, such as ``"lazy/centernet_R_18_1x.py"``.
        trained: instead, the short names of configs with weights of the original's authors, such as ``"dla34-coco"``.
    """
    if trained:
        return [one.name for one in TRAINED]
    root = _root()
    return sorted(path.relative_to(root).as_posix() for path in root.glob(f"*/*{suffix}"))


def get_config_file(name: str) -> str:
    """Path of a config of the model zoo, also by the short name of weights that fit it.

    Raises:
        FileNotFoundError: there is none of this name.
    """
    if trained := find_trained(name):
        name = trained.config
    known = [*available(), *available(".py")]
    if name not in known:
        names = "\n  ".join([*known, *available(trained=True)])
        raise FileNotFoundError(f"there is no config '{name}'; the model zoo has:\n  {names}")
    return str(_root() / name)


def get_base_file(name: str) -> Path:
    """A config that others start from, such as ``"Base-HG-small.yaml"``."""
    return _root() / name


def find_base(config: Path, base: str) -> Path:
    """The file that a ``_BASE_`` names: from the folder of the config, or else among the project's own."""
    named, ours = config.parent / Path(base).expanduser(), _root() / base
    return ours if not named.is_file() and ours.is_file() else named


def find_config(name: str | Path) -> Path:
    """The file of this path or, if there is none, the config of the model zoo of this name or short name.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: it is a LazyConfig, which is a program.
    """
    if Path(name).suffix == ".py":
        raise ValueError(f"config file {name} is a LazyConfig; a YAML file is needed here (docs/python.md)")
    if Path(name).is_file():
        return Path(name)
    if str(name) in available() or find_trained(name):
        return Path(get_config_file(str(name)))
    alike = difflib.get_close_matches(str(name), [*available(), *available(trained=True)], 1)
    hint = f"did you mean {alike[0]}?" if alike else "centernet_d2.model_zoo.available() lists ours"
    raise FileNotFoundError(f"config file {name} does not exist; {hint}")


class Trained(NamedTuple):
    """Weights of the original's authors.

    Attributes:
        name: short, for command lines and MODEL.WEIGHTS.
        config: of the model zoo, that the weights fit.
        file: as the authors call it.
        drive_id: of the file on Google Drive.
    """

    name: str
    config: str
    file: str
    drive_id: str

    @property
    def page(self) -> str:
        """Where people get the file."""
        return f"https://drive.google.com/file/d/{self.drive_id}"

    @property
    def url(self) -> str:
        """Where programs get it."""
        return f"https://drive.google.com/uc?id={self.drive_id}"


# Name, config, file, id. The authors' list gives the id of ctdet_coco_resdcn18 to exdet_coco_dla too: one of the two is
# a slip. If it is ours, loading will say so, as a file of another network is refused. ExtremeNet (exdet_*) is no part
# of this project.
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

TRAINED = tuple(
    Trained(name, f"{config}.yaml", f"{file}.pth", drive_id)
    for name, config, file, drive_id in map(str.split, _TABLE.strip().splitlines())
)


def find_trained(name: str | Path) -> Trained | None:
    """The weights of a short name; None for other names, and where there is a file of this name."""
    found = next((one for one in TRAINED if one.name == str(name)), None)
    return None if found is None or Path(name).is_file() else found
