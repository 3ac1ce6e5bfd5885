"""The weights that the original's authors released, each with a short name and the config that it fits."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["TRAINED", "Trained", "find_trained"]


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
