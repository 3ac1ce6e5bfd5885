import random
import zipfile

import pytest
import torch

from centernet_d2.checkpoint import CenterNetCheckpointer, load_file
from support.models import stub_model


@pytest.fixture
def saved(tmp_path):
    CenterNetCheckpointer(stub_model(), str(tmp_path), metadata={"names": ["a", "b"]}).save("x")
    return tmp_path / "x.pth"


def test_files_with_a_hash_are_readable_by_other_tools(saved):
    with zipfile.ZipFile(saved) as archive:
        assert archive.testzip() is None
    for options in ({}, {"mmap": True}):
        model = torch.load(saved, weights_only=True, **options)["model"]
        assert all(torch.equal(tensor, load_file(saved)["model"][name]) for name, tensor in model.items())


def test_every_changed_byte_is_detected(saved, tmp_path):
    content, select = saved.read_bytes(), random.Random(0)
    end = len(content) - 73  # The hash and its length.
    for position in [*range(end - 1500, end), *select.sample(range(end), 500)]:
        changed = bytearray(content)
        changed[position] ^= 1 << select.randrange(8)
        (tmp_path / "y.pth").write_bytes(changed)
        with pytest.raises(ValueError, match=r"y.pth is damaged: its content does not match the SHA-256"):
            load_file(tmp_path / "y.pth")


def test_copied_ranges_of_another_checkpoint_are_detected(saved, tmp_path):
    """Replace whole zip entries, whose own checksums remain valid."""
    CenterNetCheckpointer(stub_model(), str(tmp_path), metadata={"names": ["b", "a"]}).save("y")
    other, content = (tmp_path / "y.pth").read_bytes(), saved.read_bytes()
    assert len(content) == len(other)
    (tmp_path / "y.pth").write_bytes(other[:-100] + content[-100:])
    with pytest.raises(ValueError, match="does not match the SHA-256"):
        load_file(tmp_path / "y.pth")


def test_file_without_a_hash_is_loaded(tmp_path):
    torch.save(stub_model().state_dict(), tmp_path / "x.pth")
    load_file(tmp_path / "x.pth", verify=True)


def test_compressed_zeros_are_not_expanded(tmp_path):
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as source,
        zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(ValueError, match=r"x.pth declares 4,\d+,\d+ bytes of data, but its size is"):
        load_file(tmp_path / "x.pth")


def test_tensors_larger_than_their_file_are_rejected(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth declares 4,000,000,000,000 bytes of data"):
        load_file(tmp_path / "x.pth")
