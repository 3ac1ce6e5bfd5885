import sys

import pytest

from centernet_d2 import load_config
from centernet_d2.config.trunks import find_timm, timm_keys
from centernet_d2.utils.cli import MissingPackage

timm = pytest.importorskip("timm")
CONFIGS = {
    "COCO-Detection/centernet_MobileNetV4_small.yaml": "mobilenetv4_conv_small",
    "COCO-Detection/centernet_RepViT_m1_1.yaml": "repvit_m1_1",
    "COCO-Detection/centernet_ConvNeXt_nano.yaml": "convnext_nano",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_have_the_statistics_of_their_weights(name):
    cfg, keys = load_config(name), timm_keys(CONFIGS[name])
    assert keys == {
        "MODEL.TIMM.NAME": cfg.MODEL.TIMM.NAME,
        "INPUT.FORMAT": cfg.INPUT.FORMAT,
        "MODEL.PIXEL_MEAN": cfg.MODEL.PIXEL_MEAN,
        "MODEL.PIXEL_STD": cfg.MODEL.PIXEL_STD,
    }
    assert cfg.MODEL.TRUNK_WEIGHTS == ""
    # The model zoo page states this license.
    assert timm.get_pretrained_cfg(CONFIGS[name]).license == "apache-2.0"


def test_name_selects_trunk_and_statistics():
    cfg = load_config("timm:tf_mobilenetv3_small_100")
    assert cfg.MODEL.BACKBONE.NAME == "build_timm_upconv_backbone"
    assert cfg.MODEL.TIMM.NAME == "tf_mobilenetv3_small_100"
    assert cfg.MODEL.PIXEL_MEAN == cfg.MODEL.PIXEL_STD == [127.5, 127.5, 127.5]
    assert cfg.INPUT.FORMAT == "RGB"
    other = load_config("timm:tf_mobilenetv3_small_100", ["INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0]])
    assert (other.INPUT.FORMAT, other.MODEL.PIXEL_MEAN) == ("BGR", [1.0, 2.0, 3.0])


def test_names_without_prefix_are_no_networks():
    assert find_timm("timm:convnext_nano.in12k_ft_in1k") == "convnext_nano.in12k_ft_in1k"
    assert find_timm("convnext_nano") is None


@pytest.mark.parametrize("name", ["nothing", "", "hf-hub:timm/resnet18", "local-dir:/tmp", "resnet18.no_tag"])
def test_unknown_network_raises(name):
    with pytest.raises(ValueError, match=f"^MODEL.TIMM.NAME is '{name}', which is not a network of timm"):
        load_config(f"timm:{name}")


def test_missing_timm_raises(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackage, match="need the package timm: pip install timm"):
        load_config("timm:resnet18")
