import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from centernet_d2 import load_config
from centernet_d2.evaluation.build import check_evaluation
from conftest import ROOT


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([0.05], "TEST.KEYPOINT_OKS_SIGMAS has 1 values for 4 keypoints"),
        ([], "TEST.KEYPOINT_OKS_SIGMAS is empty, which stands for COCO's 17 keypoints, but there are 4"),
        ([0.05] * 4, None),
    ],
)
def test_sigmas_must_fit(sigmas, message):
    DatasetCatalog.register("some", list)
    MetadataCatalog.get("some").evaluator_type = "coco"
    cfg = load_config(ROOT / "configs" / "Shapes" / "centernet_HG_kites.yaml", ["TEST.KEYPOINT_OKS_SIGMAS", sigmas])
    if message is None:
        check_evaluation(cfg, "some")
    else:
        with pytest.raises(ValueError, match=message):
            check_evaluation(cfg, "some")
    # Nothing but keypoints needs them.
    cfg.MODEL.CENTERNET.HEADS = ["CenterHead", "BoxHead"]
    check_evaluation(cfg, "some")
