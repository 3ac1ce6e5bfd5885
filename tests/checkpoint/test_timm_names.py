import pytest
import torch

from centernet_d2.checkpoint import load_trunk
from centernet_d2.modeling import ResNetUpConv, TimmUpConv

timm = pytest.importorskip("timm")
TRUNKS = ("mobilenetv4_conv_small", "repvit_m1_1", "convnext_nano", "resnet10t")


@pytest.fixture
def saved(tmp_path):
    """Function that saves the state dict of a new classifier of timm, and returns the classifier and the path."""

    def save(name, change=lambda state: state):
        classifier = timm.create_model(name)
        torch.save(change(classifier.state_dict()), tmp_path / f"{name}.pth")
        return classifier.eval(), tmp_path / f"{name}.pth"

    return save


@torch.no_grad()
@pytest.mark.parametrize("name", TRUNKS)
def test_weights_of_a_classifier_are_loaded(name, saved):
    classifier, path = saved(name)
    backbone = TimmUpConv(name=name, width=8).eval()
    load_trunk(backbone, path)
    x = torch.randn(1, 3, 64, 64)
    expected = classifier.forward_intermediates(x, intermediates_only=True)[-1]
    torch.testing.assert_close(backbone.trunk(x)[-1], expected)


def test_safetensors_are_loaded(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    classifier, backbone = timm.create_model("resnet10t"), TimmUpConv(name="resnet10t")
    path = tmp_path / "model.safetensors"
    safetensors.save_file(classifier.state_dict(), path)
    load_trunk(backbone, path)
    assert torch.equal(backbone.trunk.layer1[0].conv1.weight, classifier.layer1[0].conv1.weight)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="model.safetensors is not a valid weights file"):
        load_trunk(backbone, path)


def without_a_tensor(state):
    return {name: tensor for name, tensor in state.items() if name != "layer1.0.conv1.weight"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_tensor, r"resnet10t.pth does not match .*first: trunk.layer1.0.conv1.weight is missing\)"),
        (lambda state: {**state, "layer9.weight": torch.ones(2)}, r"first: layer9.weight \(2,\)"),
        (lambda state: {**state, "bn1.weight": torch.ones(2)}, r"first: trunk.bn1.weight \(2,\)\).*MODEL.TIMM.NAME"),
        (lambda state: {**state, "bn1.weight": torch.ones(64, dtype=torch.int64)}, "1 tensors are integers"),
    ],
)
def test_weights_of_another_network_raise(change, message, saved):
    _, path = saved("resnet10t", change)
    with pytest.raises(ValueError, match=message):
        load_trunk(TimmUpConv(name="resnet10t"), path)


def test_weights_of_a_deeper_network_raise(saved):
    _, path = saved("resnet18")
    with pytest.raises(ValueError, match="MODEL.TRUNK_WEIGHTS: .*resnet18.pth does not match the TimmUpConv backbone"):
        load_trunk(TimmUpConv(name="resnet10t"), path)


def test_hub_is_used_on_request_only(monkeypatch):
    weights, create = timm.create_model("resnet10t"), timm.create_model

    def download(name, *, pretrained=False, **options):
        return weights if pretrained else create(name, **options)

    monkeypatch.setattr(timm, "create_model", download)
    backbone = TimmUpConv(name="resnet10t")
    assert not torch.equal(backbone.trunk.layer1[0].conv1.weight, weights.layer1[0].conv1.weight)
    load_trunk(backbone, "timm")
    assert torch.equal(backbone.trunk.layer1[0].conv1.weight, weights.layer1[0].conv1.weight)


def test_failed_download_raises(monkeypatch):
    def fail(name, *, pretrained=False, **options):
        raise OSError("no network")

    backbone = TimmUpConv(name="resnet10t")
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(FileNotFoundError, match=r"of resnet10t could not be downloaded \(no network\): download"):
        load_trunk(backbone, "timm")


def test_hub_needs_a_trunk_of_timm():
    with pytest.raises(FileNotFoundError, match="the weights file timm does not exist"):
        load_trunk(ResNetUpConv(channels=(8, 8, 8)), "timm")
