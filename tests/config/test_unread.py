import logging
from collections import Counter

import pytest
from detectron2.config import get_cfg

from centernet_d2 import add_centernet_config, load_config
from centernet_d2.config.unread import warn_about_unread_keys
from centernet_d2.modeling import CenterNet

ZOO = "Shapes/centernet_R_18_shapes.yaml"


@pytest.fixture
def warnings(caplog, monkeypatch):
    """Function that returns the logged warnings, with the counter of log_first_n reset."""
    monkeypatch.setattr("detectron2.utils.logger._LOG_COUNTER", Counter())
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("key", "value", "instead"),
    [
        ("INPUT.MIN_SIZE_TRAIN", (640,), "INPUT.AFFINE.SIZE"),
        ("INPUT.MAX_SIZE_TRAIN", 1000, "INPUT.AFFINE.SIZE"),
        ("INPUT.CROP.ENABLED", True, "INPUT.AFFINE"),
        ("INPUT.MIN_SIZE_TEST", 600, "MODEL.CENTERNET.TEST_RESOLUTION"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.CENTERNET.NUM_CLASSES"),
        ("MODEL.RETINANET.NUM_CLASSES", 3, "MODEL.CENTERNET.NUM_CLASSES"),
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.5, "MODEL.CENTERNET.SCORE_THRESH_TEST"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32]], "CenterNet has no anchors"),
    ],
)
def test_ignored_key_is_reported_with_replacement(warnings, key, value, instead):
    warn_about_unread_keys(load_config(ZOO, [key, value]))
    (message,) = warnings()
    assert key.removesuffix(".ENABLED").removesuffix(".SIZES") in message
    assert instead in message


def test_building_models_warns_once(warnings):
    keys = ["MODEL.ROI_HEADS.NUM_CLASSES", 3, "INPUT.MIN_SIZE_TRAIN", (640,), "MODEL.UPCONV.CHANNELS", [16, 16, 16]]
    cfg = load_config(ZOO, keys)
    CenterNet(cfg)
    CenterNet(cfg)
    (message,) = warnings()
    assert "MODEL.ROI_HEADS.NUM_CLASSES" in message
    assert "INPUT.MIN_SIZE_TRAIN" in message


def test_unchanged_keys_are_not_reported(warnings):
    warn_about_unread_keys(load_config(ZOO))
    assert warnings() == []
    cfg = get_cfg()
    add_centernet_config(cfg)
    warn_about_unread_keys(cfg)
    (message,) = warnings()
    assert message.count("(instead:") == 1
    assert "INPUT.MIN_SIZE_TEST 800" in message
