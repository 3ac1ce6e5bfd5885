import logging
import os
import pickle
import zipfile

import pytest
import torch
import torchvision

from centernet_d2.checkpoint import CenterNetCheckpointer, checkpoint_files, load_file, load_trunk
from centernet_d2.modeling import ResNetUpConv
from support.models import stub_model


class CodeExecution:
    """Object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("zip_format", [True, False])
def test_files_with_python_objects_raise(tmp_path, zip_format):
    path = tmp_path / "code.pth"
    torch.save({"model": CodeExecution(tmp_path / "executed")}, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(ValueError, match=r"code.pth is not a valid weights file"):
        load_file(path)
    assert not (tmp_path / "executed").exists()


def test_pickles_raise(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": {}}))
    with pytest.raises(ValueError, match="is a pickle"):
        CenterNetCheckpointer(stub_model()).load(str(path))


@pytest.mark.parametrize("content", [b"", b"not a weights file"])
def test_damaged_file_raises(tmp_path, content):
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.pth is not a valid weights file"):
        load_file(path)


def test_truncated_file_raises(tmp_path):
    path = tmp_path / "short.pth"
    torch.save({"a": torch.rand(1000)}, path)
    assert zipfile.is_zipfile(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"short.pth is not a valid weights file"):
        load_file(path)


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth does not exist"):
        load_file(tmp_path / "nowhere.pth")


def weights_with(**changes):
    """Return the weights of the stub model with added or replaced entries."""
    return {"model": {**stub_model().state_dict(), **changes}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "contains no weights: save the model's state_dict"),
        (torch.zeros(2), "contains a Tensor, not a dict"),
        ([torch.zeros(2)], "contains a list, not a dict"),
        ({"model": None}, "'model' in .*x.pth is a NoneType, not a dict of weights: save"),
        ({"model": {}}, "'model' in .*x.pth contains no weights"),
        ({"model": torch.zeros(2)}, "'model' in .*x.pth is a Tensor, not a dict"),
        ({"state_dict": [1]}, "'state_dict' in .*x.pth is a list"),
        ({0: torch.zeros(2), 1: torch.zeros(2)}, "2 keys that are not strings, for example 0"),
        ({"a": {"b": torch.zeros(2)}}, r"1 of 1 entries are not valid weights: a \(dict instead of a tensor\)"),
        (weights_with(a=torch.tensor([1.0, float("nan"), float("inf")])), r"a \(2 of 3 values are NaN or infinite\)"),
        (weights_with(a=torch.full((2,), 1e300, dtype=torch.float64)), r"a \(2 of 2 values are NaN or infinite\)"),
        (weights_with(a=torch.zeros(1, dtype=torch.complex64)), r"a \(complex64\)"),
        (weights_with(a=torch.eye(3).to_sparse()), r"a \(sparse\)"),
        (weights_with(a=torch.zeros(1, device="meta")), r"a \(without values\)"),
        (weights_with(a=torch.zeros(2).to(torch.float8_e4m3fn)), r"a \(float8_e4m3fn\)"),
        (weights_with(a=3), r"a \(int instead of a tensor\)"),
        ({str(i): torch.tensor(float("nan")) for i in range(9)}, r"9 of 9 entries .* and 6 more\. Use another"),
    ],
)
def test_invalid_weights_raise(tmp_path, content, message):
    try:
        torch.save(content, tmp_path / "x.pth")
    except KeyError as error:  # torch 2.1 has float8, but cannot save it.
        pytest.skip(str(error))
    with pytest.raises(ValueError, match=message) as error:
        CenterNetCheckpointer(stub_model()).load(str(tmp_path / "x.pth"))
    assert "x.pth" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integer_weights_raise(tmp_path, dtype):
    state = stub_model().state_dict()
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    torch.save({**state, name: state[name].to(dtype)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"x.pth: 1 tensors are integers.* First tensor: {name} \({str(dtype)[6:]}\)"):
        CenterNetCheckpointer(stub_model()).load(str(tmp_path / "x.pth"))


def test_half_precision_weights_load(tmp_path):
    source, target = stub_model().half().state_dict(), stub_model()
    torch.save(source, tmp_path / "x.pth")
    CenterNetCheckpointer(target).load(str(tmp_path / "x.pth"))
    assert all(
        torch.equal(tensor.half(), source[name]) for name, tensor in target.state_dict().items() if name in source
    )


def test_non_finite_trunk_weights_raise(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    state["conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"conv1.weight \(1 of 9408 values are NaN or infinite\)"):
        load_trunk(ResNetUpConv(depth=18), tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("path", "message"),
    [("nope.pth", "nope.pth does not exist"), ("", "is a folder, not a weights file: set the path to a .pth")],
)
def test_path_without_a_file_raises(tmp_path, path, message):
    with pytest.raises(FileNotFoundError, match=message):
        CenterNetCheckpointer(stub_model()).load(str(tmp_path / path))


class State:
    """Checkpointable object with a fixed training state."""

    def state_dict(self):
        return {"iteration": 7}

    def load_state_dict(self, state):
        self.loaded = state


@pytest.mark.parametrize("trainer", [{}, {"trainer": None}, {"trainer": {"iteration": None}}])
def test_last_checkpoint_without_training_state_raises(tmp_path, trainer):
    checkpointer = CenterNetCheckpointer(stub_model(), str(tmp_path), trainer=State())
    torch.save({"model": stub_model().state_dict(), **trainer}, tmp_path / "x.pth")
    checkpointer.tag_last_checkpoint("x.pth")
    with pytest.raises(ValueError, match=r"x.pth contains weights, but no training state .*set MODEL.WEIGHTS to this"):
        checkpointer.resume_or_load("")
    checkpointer.resume_or_load(str(tmp_path / "x.pth"), resume=False)
    checkpointer.save("y")
    checkpointer.resume_or_load("")
    assert checkpointer.checkpointables["trainer"].loaded == {"iteration": 7}


@pytest.mark.parametrize("content", [b"gone.pth", b"", b"\xff\xfe"])
def test_last_checkpoint_without_a_valid_file_name_raises(tmp_path, content):
    (tmp_path / "last_checkpoint").write_bytes(content)
    with pytest.raises(FileNotFoundError, match=r"last_checkpoint contains .* not in the folder: write the name of an"):
        CenterNetCheckpointer(stub_model(), str(tmp_path)).resume_or_load("")


class Counter(State):
    """Training state of an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def state_dict(self):
        return {"iteration": self.iteration, "optimizer": {}}

    def load_state_dict(self, state):
        self.loaded = {"iteration": state["iteration"]}
        state["optimizer"]


def two_checkpoints(folder):
    """Save checkpoints of iterations 0 and 1; return a checkpointer to resume with."""
    for iteration in (0, 1):
        checkpointer = CenterNetCheckpointer(stub_model(), str(folder), trainer=Counter(iteration))
        checkpointer.save(f"model_000000{iteration}", iteration=iteration)
        os.utime(folder / f"model_000000{iteration}.pth", ns=(iteration, iteration))
    assert (folder / "last_checkpoint").read_text() == "model_0000001.pth"
    return CenterNetCheckpointer(stub_model(), str(folder), trainer=Counter(None))


def truncate(folder):
    path = folder / "model_0000001.pth"
    path.write_bytes(path.read_bytes()[:-100])


def flip_bit(folder):
    content = bytearray((folder / "model_0000001.pth").read_bytes())
    content[content.index(b"PK\x03\x04", len(content) // 2) - 200] ^= 4  # In a tensor value.
    (folder / "model_0000001.pth").write_bytes(bytes(content))


def link_to_outside(folder):
    (folder / "model_0000001.pth").rename(folder.parent / "outside.pth")
    (folder / "model_0000001.pth").symlink_to(folder.parent / "outside.pth")


def reference_outside(folder):
    link_to_outside(folder)
    (folder / "last_checkpoint").write_text("../outside.pth")
    (folder / "model_0000001.pth").unlink()


def damage_directory(folder):
    """Damage the signature of the first entry of the zip directory."""
    path = folder / "model_0000001.pth"
    path.write_bytes(path.read_bytes().replace(b"PK\x01\x02", b"PK\x01\x03", 1))


def damage_directory_without_hash(folder):
    path = folder / "model_0000001.pth"
    torch.save(torch.load(path, weights_only=True), path)
    damage_directory(folder)


def remove_optimizer(folder):
    """Remove a part of the training state that only the trainer needs."""
    path = folder / "model_0000001.pth"
    torch.save({**torch.load(path, weights_only=True), "trainer": {"iteration": 1}}, path)


def remove_state(folder):
    torch.save({"model": stub_model().state_dict()}, folder / "model_0000001.pth")


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_bit,
        link_to_outside,
        reference_outside,
        remove_state,
        remove_optimizer,
        damage_directory,
        damage_directory_without_hash,
        lambda folder: (folder / "model_0000001.pth").write_bytes(b""),
        lambda folder: (folder / "model_0000001.pth").unlink(),
    ],
)
def test_resume_falls_back_to_the_previous_checkpoint(tmp_path, damage, caplog):
    folder = tmp_path / "out"
    folder.mkdir()
    checkpointer = two_checkpoints(folder)
    damage(folder)
    checkpointer.resume_or_load("")
    assert checkpointer.checkpointables["trainer"].loaded == {"iteration": 0}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith(f"resuming from {folder}/model_0000000.pth, the newest checkpoint that can be read: ")
    assert "\n" not in warning


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"gone.pth", b"model_0000001.pth\0", b"x" * 300, b"x" * 10_000, None]
)
def test_resume_with_invalid_last_checkpoint_uses_the_newest_checkpoint(tmp_path, content):
    checkpointer = two_checkpoints(tmp_path)
    (tmp_path / "last_checkpoint").unlink()
    if content is not None:
        (tmp_path / "last_checkpoint").write_bytes(content)
    assert checkpointer.has_checkpoint()
    checkpointer.resume_or_load("")
    assert checkpointer.checkpointables["trainer"].loaded == {"iteration": 1}


@pytest.mark.parametrize("times", [(1, 2, 3, 4), (4, 3, 2, 1), (5, 5, 5, 5)])
def test_checkpoints_are_ordered_by_iteration(tmp_path, times):
    for name, iteration in {"0000100": 100, "0000020": 20, "0000003": 3}.items():
        torch.save({"iteration": iteration}, tmp_path / f"model_{name}.pth")
    torch.save({"iteration": 20}, tmp_path / "model_final.pth")  # Of a training that was continued later.
    for path, time in zip(sorted(tmp_path.iterdir()), times, strict=True):
        os.utime(path, ns=(time, time))
    assert [path.stem[6:] for path in checkpoint_files(tmp_path)] == ["0000100", "final", "0000020", "0000003"]


def test_resume_prefers_iterations_before_the_damaged_last_checkpoint(tmp_path):
    """Resume a training whose last_checkpoint was set back by the user, before it reached the old iterations."""
    checkpointer = two_checkpoints(tmp_path)
    checkpointer.checkpointables["trainer"].iteration = 9
    checkpointer.save("model_0000009", iteration=9)
    (tmp_path / "model_0000001.pth").write_bytes(b"")
    checkpointer.tag_last_checkpoint("model_0000001.pth")
    checkpointer.resume_or_load("")
    assert checkpointer.checkpointables["trainer"].loaded == {"iteration": 0}


def test_error_for_unreadable_checkpoints_names_the_last_one(tmp_path):
    checkpointer = two_checkpoints(tmp_path)
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="model_0000001.pth is not a valid weights file"):
        checkpointer.resume_or_load("")


def test_other_weights_and_temporary_files_are_not_checkpoints(tmp_path):
    for name in ("resnet18.pth", "model_best.pth", "model_ema.pth", ".model_0000001.pth.tmp"):
        torch.save(stub_model().state_dict(), tmp_path / name)
    checkpointer = CenterNetCheckpointer(stub_model(), str(tmp_path), trainer=State())
    assert not checkpointer.has_checkpoint()
    checkpointer.resume_or_load("")


def test_last_checkpoint_is_written_after_the_checkpoint(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("centernet_d2.utils.files.os.replace", lambda _, path: written.append(path.name))
    CenterNetCheckpointer(stub_model(), str(tmp_path), trainer=State()).save("model_final")
    CenterNetCheckpointer(stub_model(), str(tmp_path)).save("model_best")
    assert written == ["model_final.pth", "last_checkpoint", "model_best.pth"]


@pytest.mark.parametrize("zip_format", [True, False])
def test_load_restores_saved_weights(tmp_path, zip_format):
    source, target = stub_model(), stub_model()
    path = tmp_path / "model.pth"
    torch.save({"model": source.state_dict()}, path, _use_new_zipfile_serialization=zip_format)
    CenterNetCheckpointer(target).load(str(path))
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


def test_torchvision_classifier_as_model_weights_initializes_the_trunk(tmp_path):
    resnet = torchvision.models.resnet18(weights=None)
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    model = stub_model()
    model.backbone = ResNetUpConv(depth=18, channels=(8, 8, 8))
    CenterNetCheckpointer(model).load(str(tmp_path / "resnet18.pth"))
    assert torch.equal(model.backbone.layer3[0].conv1.weight, resnet.layer3[0].conv1.weight)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_trunk_weights_must_match_the_backbone(tmp_path, norm):
    resnet = torchvision.models.resnet18(weights=None)
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    backbone = ResNetUpConv(depth=18, trunk_norm=norm)
    load_trunk(backbone, tmp_path / "resnet18.pth")
    for name, tensor in resnet.state_dict().items():
        if not name.startswith("fc.") and name in backbone.state_dict():
            assert torch.equal(backbone.state_dict()[name], tensor), name
    with pytest.raises(ValueError, match=r"does not match the ResNetUpConv backbone.*first: "):
        load_trunk(ResNetUpConv(depth=50), tmp_path / "resnet18.pth")


def test_imagenet_weights_match_resnet18(shared):
    backbone = ResNetUpConv(depth=18)
    before = backbone.conv1.weight.clone()
    load_trunk(backbone, shared / "data" / "weights" / "resnet18_imagenet1k.pth")
    assert not torch.equal(backbone.conv1.weight, before)
