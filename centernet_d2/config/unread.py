"""Warning about config keys of Detectron2 that CenterNet ignores."""

from __future__ import annotations

import logging
import operator
from functools import reduce
from types import MappingProxyType

from detectron2.config import CfgNode, get_cfg
from detectron2.utils.logger import log_first_n

__all__ = ["warn_about_unread_keys"]

# Ignored key, or group of keys -> replacement.
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
        "MODEL.ANCHOR_GENERATOR": "none, CenterNet has no anchors",
        "MODEL.BACKBONE.FREEZE_AT": "MODEL.TRUNK_FROZEN_STAGES",
        "TEST.AUG.MIN_SIZES": "TEST.AUG.SCALES",
        "TEST.AUG.MAX_SIZE": "TEST.AUG.SCALES",
    }
)
# Ignored by CenterNet, but Detectron2's DefaultPredictor resizes images according to it unless it is 0.
TEST_SIZE = "INPUT.MIN_SIZE_TEST"


def warn_about_unread_keys(cfg: CfgNode) -> None:
    """Log a warning that lists the ignored keys with values other than the default."""
    defaults = get_cfg()
    ignored = [
        f"{key} (instead: {other})" for key, other in UNREAD.items() if _value(cfg, key) != _value(defaults, key)
    ]
    if (size := _value(cfg, TEST_SIZE)) != 0:
        replacement = "MODEL.CENTERNET.TEST_RESOLUTION; 0 prevents DefaultPredictor from resizing"
        ignored.append(f"{TEST_SIZE} {size} (instead: {replacement})")
    if ignored:
        message = f"CenterNet ignores these config keys: {', '.join(ignored)}"
        log_first_n(logging.WARNING, message, key="message")


def _value(cfg: CfgNode, key: str) -> object:
    return reduce(operator.getitem, key.split("."), cfg)
