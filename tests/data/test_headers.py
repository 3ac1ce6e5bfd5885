import json
import os

import pytest
from PIL import Image

from centernet_d2.data import headers
from centernet_d2.data.headers import read_headers


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CENTERNET_D2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "größe"
    folder.mkdir()
    exif = Image.Exif()
    exif[274] = 8
    Image.new("RGB", (60, 40)).save(folder / "a.png")
    Image.new("L", (50, 30)).save(folder / "b.jpg", exif=exif)
    (folder / "c.png").write_bytes(b"nothing")
    return [str(folder / name) for name in ("a.png", "b.jpg", "c.png", "d.png")]


@pytest.fixture
def opened(monkeypatch):
    """The files that are opened."""
    seen, read = [], headers.read_header
    monkeypatch.setattr(headers, "read_header", lambda path: seen.append(os.path.basename(path)) or read(path))
    return seen


def test_headers_come_in_order_and_errors_are_named(cache, paths):
    first, second, broken, missing = read_headers(paths)
    assert (tuple(first), first.upright_size) == ((60, 40, 1), (60, 40))
    assert (tuple(second), second.upright_size) == ((50, 30, 8), (30, 50))
    assert "cannot read the image" in str(broken)
    assert isinstance(missing, FileNotFoundError)
    assert read_headers([]) == []


def test_what_did_not_change_is_not_opened_again(cache, paths, opened):
    before = read_headers(paths)
    assert sorted(opened) == ["a.png", "b.jpg", "c.png", "d.png"]
    opened.clear()
    assert read_headers(paths)[:2] == before[:2]
    assert sorted(opened) == ["c.png", "d.png"]
    opened.clear()
    Image.new("RGB", (70, 40)).save(paths[0])
    os.utime(paths[0], ns=(1, 1))
    assert read_headers(paths[:2])[0].width == 70
    assert opened == ["a.png"]
    opened.clear()
    read_headers(paths[:2])
    assert opened == []
    # Nothing but the one file is left there, and nothing new is beside the images.
    assert len(list(cache.iterdir())) == 1
    assert sorted(os.listdir(os.path.dirname(paths[0]))) == ["a.png", "b.jpg", "c.png"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[1]", b'{"x": 1}', b'{"x": [1, 2, null, 4, 5]}', b'{"x": [Infinity]}', b"[" * 100000],
)
def test_a_broken_cache_is_not_used(cache, paths, content):
    before = read_headers(paths[:2])
    (file,) = cache.iterdir()
    file.write_bytes(content)
    assert read_headers(paths[:2]) == before
    assert len(json.loads(file.read_text())) == 2


def test_a_cache_that_cannot_be_written_is_not_used(cache, paths):
    cache.write_text("a file where the folder should be")
    assert read_headers(paths[:2])[0].width == 60
    assert cache.read_text() == "a file where the folder should be"


def test_a_cache_that_cannot_be_replaced_leaves_nothing_behind(cache, paths, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "replace", refuse)
    assert read_headers(paths[:2])[0].width == 60
    assert list(cache.iterdir()) == []
