"""Half precision, int8 and OpenVINO of a small network with deformable convolutions."""

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from centernet_d2 import Predictor
from centernet_d2.export import accuracy, export_model, exporting
from centernet_d2.export.detect import Detector
from centernet_d2.export.metadata import hash_weights
from centernet_d2.layers.deform_conv import DeformConv
from centernet_d2.modeling import BoxHead, CenterHead, CenterNet
from support.models import StubBackbone, widen_boxes


class SmallBackbone(StubBackbone):
    """Backbone with all types of convolutions."""

    def __init__(self):
        super().__init__(channels=16)
        layers = [nn.Conv2d(3, 256, 8, stride=8), nn.BatchNorm2d(256), nn.ReLU(), DeformConv(256, 256)]
        layers += [nn.BatchNorm2d(256), nn.ReLU(), nn.ConvTranspose2d(256, 64, 4, stride=2, padding=1)]
        layers += [nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 16, 3, padding=1), nn.Tanh()]
        self.convolutions = nn.ModuleList([nn.Sequential(*layers)])

    def forward(self, x):
        return {"stack_0": self.convolutions[0](x)}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    common = {"num_classes": 3, "in_channels": 16, "head_conv": 8, "init": "default"}
    heads = {"CenterHead": CenterHead(**common), "BoxHead": BoxHead(**common)}
    widen_boxes(heads["BoxHead"], 4.0)
    return CenterNet(
        backbone=SmallBackbone(),
        heads=heads,
        pixel_mean=[110.0] * 3,
        pixel_std=[70.0] * 3,
        test_resolution="fixed",
        fixed_size=(64, 64),
    ).eval()


@pytest.fixture(scope="module")
def quantized(model, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    export_model(model, folder, images=images, precision="int8", max_drop=None)
    return onnx.load(folder / "model.onnx")


def test_only_convolutions_inside_the_network_are_quantized(model, quantized):
    convolutions = [node for node in quantized.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    precise = {node.input[1] for node in convolutions if not node.input[1].endswith("_DequantizeLinear_Output")}
    names = {name for name in precise if "heads." in name or "conv_offset_mask" in name}
    assert names == precise
    assert {name.split(".")[-2] for name in precise if "heads." in name} == {"2"}
    assert len(precise) == 3 + 1  # The maps of the heads, and the offsets of the deformable convolution.
    assert len(convolutions) - len(precise) == 3 + 3  # The backbone and the first convolutions of the heads.
    dequantized = {node.input[0] for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    scales = {x.name: x for x in quantized.graph.initializer if x.name.endswith("_scale") and x.dims[:1] == [16]}
    assert scales  # One scale per channel.
    assert dequantized


def test_metadata_are_kept(quantized):
    metadata = json.loads({prop.key: prop.value for prop in quantized.metadata_props}["centernet_d2"])
    assert metadata["precision"] == "int8"
    assert metadata["outputs"] == ["scores", "classes", "boxes"]


def test_loss_of_accuracy_is_limited(model, images, tmp_path, monkeypatch):
    values = iter([("bbox/AP", 60.0), ("bbox/AP", 58.5)] * 2)
    monkeypatch.setattr(exporting, "load_records", lambda *_: images)
    monkeypatch.setattr(exporting, "evaluate", lambda *_: next(values))
    monkeypatch.setattr(exporting, "_write", lambda graph, path, *_: path.write_bytes(b""))
    monkeypatch.setattr(exporting, "ExportedModel", lambda *_: None)
    with pytest.raises(ValueError, match=r"bbox/AP drops from 60.00 to 58.50, by more than 1; use float32"):
        export_model(model, tmp_path, cfg=object(), precision="int8")
    assert not list(tmp_path.iterdir())
    report = export_model(model, tmp_path, cfg=object(), precision="int8", max_drop=2.0)
    assert report["evaluation"] == {"metric": "bbox/AP", "before": 60.0, "after": 58.5, "max_drop": 2.0}


def test_calibration_needs_images(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "write_onnx", lambda *_: None)
    with pytest.raises(ValueError, match="int8 needs images to calibrate"):
        export_model(model, tmp_path, precision="int8", max_drop=None)


def test_float16_has_half_the_size(model, images, tmp_path):
    report = export_model(model, tmp_path, images=images, precision="float16", check=False, max_drop=None)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert 2 * weights < (tmp_path / "model.onnx").stat().st_size < 3 * weights
    # The metadata describe the weights before the conversion.
    assert report["weights_sha256"] == hash_weights(model)
    found = Detector(tmp_path / "model.onnx")(images[1]["file_name"], 0)
    expected = Predictor(model)(images[1]["file_name"], threshold=0)["instances"]
    np.testing.assert_allclose(found.scores[:5], expected.scores[:5], atol=0.01)


@pytest.mark.parametrize("options", [{"deform_conv": "onnx"}, {"file_format": "openvino"}], ids=["onnx", "openvino"])
def test_deformable_convolutions(model, images, tmp_path, options):
    if "file_format" in options:
        pytest.importorskip("openvino", reason="needs the extra [openvino]")
    report = export_model(model, tmp_path, images=images, **options)
    assert report["verification"]["compared"] > 100
    if "deform_conv" in options:
        nodes = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
        assert nodes.count("DeformConv") == 1
        return
    detector = Detector(tmp_path / "model.xml")
    assert detector.metadata["outputs"] == ["scores", "classes", "boxes"]
    assert np.isfinite(detector(images[1]["file_name"], 0).boxes).all()


def test_datasets_that_are_not_available_have_no_images():
    assert accuracy.load_records(None, "TEST") == []
