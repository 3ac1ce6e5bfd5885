import pickle
import zipfile

import pytest
import torch
import torchvision

from centernet_d2.checkpoint import CenterNetCheckpointer, load_file, load_trunk
from centernet_d2.modeling import ResNetUpConv
from support.models import stub_model


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("zip_format", [True, False])
def test_files_that_would_execute_code_are_refused(tmp_path, zip_format):
    path = tmp_path / "evil.pth"
    torch.save({"model": Evil(tmp_path / "executed")}, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(ValueError, match=r"evil.pth is not a file of plain weights"):
        load_file(path)
    assert not (tmp_path / "executed").exists()


def test_pickles_are_refused_by_name(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": {}}))
    with pytest.raises(ValueError, match="is a pickle"):
        CenterNetCheckpointer(stub_model()).load(str(path))


@pytest.mark.parametrize("content", [b"", b"nothing of the kind"])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.pth is not a file of plain weights"):
        load_file(path)


def test_a_file_cut_short_is_named(tmp_path):
    path = tmp_path / "short.pth"
    torch.save({"a": torch.rand(1000)}, path)
    assert zipfile.is_zipfile(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"short.pth is not a file of plain weights"):
        load_file(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth does not exist"):
        load_file(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("zip_format", [True, False])
def test_a_model_survives_a_round_trip(tmp_path, zip_format):
    source, target = stub_model(), stub_model()
    path = tmp_path / "model.pth"
    torch.save({"model": source.state_dict()}, path, _use_new_zipfile_serialization=zip_format)
    CenterNetCheckpointer(target).load(str(path))
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


def test_a_torchvision_classifier_fills_the_trunk_named_by_model_weights(tmp_path):
    resnet = torchvision.models.resnet18(weights=None)
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    model = stub_model()
    model.backbone = ResNetUpConv(depth=18, channels=(8, 8, 8))
    CenterNetCheckpointer(model).load(str(tmp_path / "resnet18.pth"))
    assert torch.equal(model.backbone.layer3[0].conv1.weight, resnet.layer3[0].conv1.weight)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_trunk_weights_load_strictly(tmp_path, norm):
    resnet = torchvision.models.resnet18(weights=None)
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    backbone = ResNetUpConv(depth=18, trunk_norm=norm)
    load_trunk(backbone, tmp_path / "resnet18.pth")
    for name, tensor in resnet.state_dict().items():
        if not name.startswith("fc.") and name in backbone.state_dict():
            assert torch.equal(backbone.state_dict()[name], tensor), name
    with pytest.raises(ValueError, match=r"does not fit the ResNetUpConv backbone.*first: "):
        load_trunk(ResNetUpConv(depth=50), tmp_path / "resnet18.pth")


def test_the_shared_imagenet_weights_fit(shared):
    backbone = ResNetUpConv(depth=18)
    before = backbone.conv1.weight.clone()
    load_trunk(backbone, shared / "data" / "weights" / "resnet18_imagenet1k.pth")
    assert not torch.equal(backbone.conv1.weight, before)
