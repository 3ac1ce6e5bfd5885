"""Weights by name: from the cache, or from a server into it."""

import hashlib
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch

from centernet_d2.checkpoint import find_trunk, find_weights
from centernet_d2.checkpoint import loading as fetching
from centernet_d2.checkpoint.loading import fetch_from_drive, fetch_once

# What a server sends: path -> status, headers, body. Filled in by a test.
PAGE = b"\n<!DOCTYPE html><html><body>Too many people have viewed this file.</body></html>"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        status, headers, body = self.server.answers[self.path]
        self.send_response(status)
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(params=[False, True], ids=["torch 0.4", "zip"])
def content(request, tmp_path):
    path = tmp_path / "made.pth"
    torch.save({"state_dict": {"a": torch.arange(5e4)}}, path, _use_new_zipfile_serialization=request.param)
    return path.read_bytes()


@pytest.fixture
def server(content, monkeypatch):
    """A server that sends a file of weights in several ways; it remembers what it was asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    half = content[: len(content) // 2]
    length = {"Content-Length": str(len(content))}
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.asked = []
        server.answers = {
            "/whole": (200, length, content),
            "/moved": (302, {"Location": f"{server.url}/whole", "Content-Length": "0"}, b""),
            "/cut": (200, length, half),
            "/short": (200, {"Content-Length": str(len(half))}, half),
            "/page": (200, {"Content-Length": str(len(PAGE)), "Content-Type": "text/html"}, PAGE),
            "/gone": (404, {"Content-Length": "0"}, b""),
        }
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(params=["torch", "gdown"])
def fetch(request):
    """How bytes come over the net; torch's downloader is there in any case, and does not notice a cut."""
    if request.param == "gdown":
        pytest.importorskip("gdown", reason="needs gdown (setup.py: extra 'weights')")
        return fetch_from_drive
    return partial(torch.hub.download_url_to_file, progress=False)


def files(folder):
    """What is in a folder beside the file that processes wait for each other with."""
    return sorted(path.name for path in folder.rglob("*") if path.suffix != ".lock")


@pytest.mark.parametrize("way", ["whole", "moved"])
def test_what_is_fetched_is_kept(server, content, fetch, tmp_path, way):
    path = tmp_path / "new" / "cache" / "a.pth"
    for _ in range(2):
        assert fetch_once(f"{server.url}/{way}", path, fetch=fetch) == path
        assert path.read_bytes() == content
    assert files(path.parent) == ["a.pth"]
    assert server.asked == (["/moved", "/whole"] if way == "moved" else ["/whole"])


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("cut", ""),
        ("short", "what came is no weights, or a part"),
        ("page", "what came is a web page"),
        ("gone", "404"),
    ],
)
def test_what_is_no_whole_file_of_weights_is_refused_and_deleted(server, fetch, tmp_path, way, reason):
    path = tmp_path / "cache" / "a.pth"
    with pytest.raises(FileNotFoundError, match=rf"^a.pth is not here and could not be fetched \(.*{reason}") as error:
        fetch_once(f"{server.url}/{way}", path, fetch=fetch, page="https://a.b/page")
    assert str(error.value).endswith(f": get it from https://a.b/page and save it as {path}")
    assert "\n" not in str(error.value)
    assert server.asked
    assert files(path.parent) == []
    # The next try starts anew.
    assert fetch_once(f"{server.url}/whole", path, fetch=fetch) == path


@pytest.mark.parametrize("content", [True], indirect=True, ids=["zip"])
def test_a_second_one_waits_for_the_first(server, content, tmp_path):
    path, started, goes_on = tmp_path / "a.pth", threading.Event(), threading.Event()

    def slowly(url, target):
        started.set()
        assert goes_on.wait(20)
        torch.hub.download_url_to_file(url, target, progress=False)

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch_once(f"{server.url}/whole", path, fetch=slowly)))
        for _ in range(2)
    ]
    threads[0].start()
    assert started.wait(20)
    threads[1].start()
    assert not path.exists()
    goes_on.set()
    for thread in threads:
        thread.join(30)
    assert found == [path, path]
    assert server.asked == ["/whole"]


def test_what_is_stopped_leaves_nothing(tmp_path):
    def stopped(url, target):
        with open(target, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_once("http://a.b/c", tmp_path / "a.pth", fetch=stopped)
    assert files(tmp_path) == []


def test_a_cache_that_is_no_folder_is_one_sentence(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(
        FileNotFoundError, match=r"could not be fetched .*cache.* get it from http://a.b/c and save it as"
    ):
        fetch_once("http://a.b/c", tmp_path / "cache" / "a.pth", fetch=lambda *_: pytest.fail("it fetched"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CENTERNET_D2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_short_name_is_fetched_into_the_cache_once(cache, monkeypatch):
    calls = []

    def download(url, path, **_):
        calls.append(url)
        torch.save({"a": torch.ones(1)}, path)

    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=download))
    for _ in range(2):
        assert find_weights("dla34-coco") == cache / "ctdet_coco_dla_2x.pth"
    assert calls == ["https://drive.google.com/uc?id=18Q3fzzAsha_3Qid6mn4jcIFPeOGUaj1d"]
    assert files(cache) == ["ctdet_coco_dla_2x.pth"]


def test_without_gdown_a_sentence_says_where_to_get_the_file_and_where_to_put_it(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(FileNotFoundError) as error:
        find_weights("dla34-coco")
    assert str(error.value) == (
        "ctdet_coco_dla_2x.pth is not here and could not be fetched (gdown, which knows Google Drive, is not "
        "installed: pip install gdown): get it from https://drive.google.com/file/d/18Q3fzzAsha_3Qid6mn4jcIFPeOGUaj1d "
        f"and save it as {cache}/ctdet_coco_dla_2x.pth"
    )
    (cache / "ctdet_coco_dla_2x.pth").touch()
    assert find_weights("dla34-coco") == cache / "ctdet_coco_dla_2x.pth"


def test_a_file_of_the_name_comes_first(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetching, "fetch_once", lambda *_, **__: pytest.fail("it would be fetched"))
    for name, find in (("dla34-coco", find_weights), ("resnet18", find_trunk)):
        (tmp_path / name).touch()
        assert str(find(name)) == name


@pytest.fixture
def torchvision_at(server, content, tmp_path, monkeypatch):
    """A function (digits) that lets torchvision's ResNet-18 be at the server, in a file that ends in them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def put(digits):
        server.answers[f"/resnet18-{digits}.pth"] = server.answers["/whole"]
        weights = SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url=f"{server.url}/resnet18-{digits}.pth"))
        monkeypatch.setattr("torchvision.models.get_model_weights", {"resnet18": weights}.__getitem__)
        return tmp_path / "torch" / "hub" / "checkpoints"

    return put


def test_a_trunk_of_torchvision_goes_where_torchvision_keeps_it(torchvision_at, server, content):
    digits = hashlib.sha256(content).hexdigest()[:8]
    folder = torchvision_at(digits)
    for _ in range(2):
        assert find_trunk("resnet18") == folder / f"resnet18-{digits}.pth"
    assert len(server.asked) == 1


def test_a_trunk_with_other_digits_is_refused(torchvision_at):
    folder = torchvision_at("00000000")
    with pytest.raises(FileNotFoundError, match=r"could not be fetched \(invalid hash value"):
        find_trunk("resnet18")
    assert files(folder) == []


def test_offline_a_sentence_says_where_to_get_the_trunk(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(FileNotFoundError) as error:
        find_trunk("resnet50")
    assert str(error.value) == (
        "resnet50-0676ba61.pth is not here and could not be fetched (<urlopen error Name or service not known>): "
        "get it from https://download.pytorch.org/models/resnet50-0676ba61.pth and save it as "
        f"{tmp_path}/hub/checkpoints/resnet50-0676ba61.pth"
    )


def test_names_of_trunks_are_those_of_torchvision(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "fetch_once", lambda url, *_, **__: url)
    for name in fetching.TRUNKS:
        assert find_trunk(name).startswith(f"https://download.pytorch.org/models/{name}-")
    with pytest.raises(FileNotFoundError, match="the weights file resnet19 does not exist"):
        find_trunk("resnet19")
