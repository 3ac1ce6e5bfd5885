"""Keys of Detectron2 that a CenterNet does not read, and what counts instead."""

from __future__ import annotations

import logging
import operator
from functools import reduce
from types import MappingProxyType

from detectron2.config import CfgNode, get_cfg
from detectron2.utils.logger import log_first_n

__all__ = ["warn_of_unread_keys"]

# A key, or a group of them -> what counts instead.
UNREAD = MappingProxyType(
    {
        "INPUT.MIN_SIZE_TRAIN": "INPUT.AFFINE.SIZE",
        "INPUT.MAX_SIZE_TRAIN": "INPUT.AFFINE.SIZE",
        "INPUT.CROP": "INPUT.AFFINE",
        "INPUT.MAX_SIZE_TEST": "MODEL.CENTERNET.TEST_RESOLUTION",
        "MODEL.ROI_HEADS.NUM_CLASSES": "MODEL.CENTERNET.NUM_CLASSES",
        "MODEL.RETINANET.NUM_CLASSES": "MODEL.CENTERNET.NUM_CLASSES",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "MODEL.CENTERNET.SCORE_THRESH_TEST",
        "MODEL.RETINANET.SCORE_THRESH_TEST": "MODEL.CENTERNET.SCORE_THRESH_TEST",
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": "TEST.NMS and TEST.NMS_THRESH",
        "MODEL.RETINANET.NMS_THRESH_TEST": "TEST.NMS and TEST.NMS_THRESH",
        "MODEL.ANCHOR_GENERATOR": "nothing: there are no anchors",
        "MODEL.BACKBONE.FREEZE_AT": "nothing: no layer is frozen",
        "TEST.AUG.MIN_SIZES": "TEST.AUG.SCALES",
        "TEST.AUG.MAX_SIZE": "TEST.AUG.SCALES",
    }
)
# The one key whose default does not suit a CenterNet: Detectron2's DefaultPredictor resizes images by it.
TEST_SIZE = "INPUT.MIN_SIZE_TEST"


def warn_of_unread_keys(cfg: CfgNode) -> None:
    """Name, in one warning, the keys of a config that were set to something, but do nothing."""
    defaults = get_cfg()
    found = [f"{key} (instead: {other})" for key, other in UNREAD.items() if _value(cfg, key) != _value(defaults, key)]
    if (size := _value(cfg, TEST_SIZE)) != 0:
        found.append(f"{TEST_SIZE} {size} (instead: MODEL.CENTERNET.TEST_RESOLUTION; DefaultPredictor resizes by it)")
    if found:
        message = f"a CenterNet does not read these keys of the config: {', '.join(found)}"
        log_first_n(logging.WARNING, message, key="message")


def _value(cfg: CfgNode, key: str) -> object:
    return reduce(operator.getitem, key.split("."), cfg)
