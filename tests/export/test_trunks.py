"""Exported files of models with trunks of timm: the same detections as the model."""

import pytest
import torch

from centernet_d2.export import export_model
from centernet_d2.modeling import TimmUpConv
from support.models import stub_heads, stub_model

pytest.importorskip("timm", reason="needs the extra [timm]")


@pytest.mark.parametrize(
    "name",
    [
        "mobilenetv4_conv_small",
        "repvit_m1_1",
        "convnext_nano",
        # About 20 seconds.
        pytest.param("mobileone_s0", marks=pytest.mark.long),
    ],
)
def test_file_has_the_detections_of_the_model(name, images, tmp_path):
    torch.manual_seed(0)
    model = stub_model(stub_heads())
    model.backbone = TimmUpConv(name=name, width=4)
    calibrate(model)
    report = export_model(model.eval(), tmp_path, images=images)
    result = report["verification"]
    assert result["compared"] >= 100
    assert result["unmatched"] <= 0.01 * result["compared"]
    assert result["value_error"] < 0.05


@torch.no_grad()
def calibrate(model):
    """Set the statistics of batch norms: with their initial values, maps of deep random trunks are constant."""
    model.backbone.train()
    for _ in range(40):
        model.backbone(torch.randn(4, 3, 64, 64))
