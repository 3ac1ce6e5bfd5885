import errno
import os
import resource
import stat

import pytest
import torch

from centernet_d2.utils.files import is_inside, remove_leftovers, unused_folder, write_atomically


def write_too_much(file):
    """Exceed the file size limit, for which torch raises RuntimeError instead of OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        torch.save({"a": torch.rand(20_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_on_a_full_disk(file):
    file.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def write_on_a_read_only_disk(file):
    raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_too_much, "File too large"),
        (write_on_a_full_disk, "No space left on device"),
        (write_on_a_read_only_disk, "Read-only file system"),
    ],
)
def test_write_error_keeps_existing_file(tmp_path, write, reason):
    path = tmp_path / "model.pth"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match=rf"model.pth cannot be written \({reason}\); an existing file is unchanged"):
        write_atomically(path, write)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, RuntimeError])
def test_exception_in_write_keeps_existing_file(tmp_path, error):
    def write(file):
        file.write(b"half")
        raise error

    path = tmp_path / "model.pth"
    path.write_bytes(b"before")
    with pytest.raises(error):
        write_atomically(path, write)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]


def test_incomplete_file_has_temporary_name(tmp_path):
    seen = []
    write_atomically(tmp_path / "model.pth", lambda file: seen.extend(path.name for path in tmp_path.iterdir()))
    assert seen == [".model.pth.tmp"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_file_is_synced_before_rename_and_folder_after(tmp_path, monkeypatch):
    path, steps, fsync, replace = tmp_path / "model.pth", [], os.fsync, os.replace

    def synced(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("folder" if is_folder else f"{os.fstat(descriptor).st_size} bytes")
        fsync(descriptor)

    def replaced(old, new):
        steps.append("name")
        replace(old, new)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr("os.replace", replaced)
    write_atomically(path, lambda file: file.write(b"weights"))
    assert steps == ["7 bytes", "name", "folder"]


def test_symbolic_links_are_replaced(tmp_path):
    outside, folder = tmp_path / "outside.pth", tmp_path / "folder"
    folder.mkdir()
    outside.write_bytes(b"mine")
    for name in ("model.pth", ".model.pth.tmp"):
        (folder / name).symlink_to(outside)
    write_atomically(folder / "model.pth", lambda file: file.write(b"new"))
    assert outside.read_bytes() == b"mine"
    assert not (folder / "model.pth").is_symlink()
    assert (folder / "model.pth").read_bytes() == b"new"


def test_remove_leftovers(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    folder = tmp_path / "folder"
    (folder / ".sub.tmp").mkdir(parents=True)
    for name in (".model_0000001.pth.tmp", "model_0000001.pth", "notes.tmp"):
        (folder / name).write_bytes(b"")
    (folder / ".last_checkpoint.tmp").symlink_to(outside)
    remove_leftovers(folder)
    assert {path.name for path in folder.iterdir()} == {"model_0000001.pth", "notes.tmp", ".sub.tmp"}
    assert outside.read_bytes() == b"mine"


def test_is_inside(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (folder / "a.pth", tmp_path / "b.pth"):
        path.write_bytes(b"")
    links = {
        "in": folder / "a.pth",
        "out": tmp_path / "b.pth",
        "up": "../b.pth",
        "nowhere": "gone.pth",
        "dir": tmp_path,
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    assert {path.name for path in folder.iterdir() if is_inside(path)} == {"a.pth", "in"}
    (tmp_path / "link").symlink_to(folder)
    assert is_inside(tmp_path / "link" / "a.pth")


def test_unused_folder_is_numbered(tmp_path):
    assert unused_folder(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").mkdir()
    assert unused_folder(tmp_path / "demo") == tmp_path / "demo-3"
