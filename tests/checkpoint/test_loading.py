"""Weights by name: cached files and downloads."""

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

# Web page that a server returns instead of weights.
PAGE = b"\n<!DOCTYPE html><html><body>Too many users have viewed this file.</body></html>"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        status, headers, body = self.server.responses[self.path]
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
    """Server with valid and invalid responses for a weights file; it records the requested paths."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    half = content[: len(content) // 2]
    length = {"Content-Length": str(len(content))}
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.requests = []
        server.responses = {
            "/complete": (200, length, content),
            "/moved": (302, {"Location": f"{server.url}/complete", "Content-Length": "0"}, b""),
            "/truncated": (200, length, half),
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
    """Download function of torch, which does not detect truncated files, or of gdown."""
    if request.param == "gdown":
        pytest.importorskip("gdown", reason="needs gdown (pyproject.toml: extra 'weights')")
        return fetch_from_drive
    return partial(torch.hub.download_url_to_file, progress=False)


def files(folder):
    """Return the names of all files in a folder except lock files."""
    return sorted(path.name for path in folder.rglob("*") if path.suffix != ".lock")


@pytest.mark.parametrize("response", ["complete", "moved"])
def test_file_is_downloaded_once(server, content, fetch, tmp_path, response):
    path = tmp_path / "new" / "cache" / "a.pth"
    for _ in range(2):
        assert fetch_once(f"{server.url}/{response}", path, fetch=fetch) == path
        assert path.read_bytes() == content
    assert files(path.parent) == ["a.pth"]
    assert server.requests == (["/moved", "/complete"] if response == "moved" else ["/complete"])


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("truncated", ""),
        ("short", "the server returned an incomplete or invalid weights file; the file was deleted"),
        ("page", "the server returned a web page instead of weights"),
        ("gone", "404"),
    ],
)
def test_invalid_download_raises_and_is_deleted(server, fetch, tmp_path, response, reason):
    path = tmp_path / "cache" / "a.pth"
    with pytest.raises(
        FileNotFoundError, match=rf"^a.pth does not exist and could not be downloaded \(.*{reason}"
    ) as error:
        fetch_once(f"{server.url}/{response}", path, fetch=fetch, page="https://a.b/page")
    assert str(error.value).endswith(f": download it from https://a.b/page and save it as {path}")
    assert "\n" not in str(error.value)
    assert server.requests
    assert files(path.parent) == []
    # A second attempt succeeds.
    assert fetch_once(f"{server.url}/complete", path, fetch=fetch) == path


@pytest.mark.parametrize("content", [True], indirect=True, ids=["zip"])
def test_second_process_waits_for_the_first(server, content, tmp_path):
    path, started, resume = tmp_path / "a.pth", threading.Event(), threading.Event()

    def fetch_slowly(url, target):
        started.set()
        assert resume.wait(20)
        torch.hub.download_url_to_file(url, target, progress=False)

    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(fetch_once(f"{server.url}/complete", path, fetch=fetch_slowly)))
        for _ in range(2)
    ]
    threads[0].start()
    assert started.wait(20)
    threads[1].start()
    assert not path.exists()
    resume.set()
    for thread in threads:
        thread.join(30)
    assert paths == [path, path]
    assert server.requests == ["/complete"]


def test_interrupted_download_leaves_no_files(tmp_path):
    def interrupted(url, target):
        with open(target, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_once("http://a.b/c", tmp_path / "a.pth", fetch=interrupted)
    assert files(tmp_path) == []


def test_cache_that_is_a_file_raises(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(
        FileNotFoundError, match=r"could not be downloaded .*cache.* download it from http://a.b/c and save it as"
    ):
        fetch_once("http://a.b/c", tmp_path / "cache" / "a.pth", fetch=lambda *_: pytest.fail("downloaded"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CENTERNET_D2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_weights_of_a_short_name_are_downloaded_once(cache, monkeypatch):
    calls = []

    def download(url, path, **_):
        calls.append(url)
        torch.save({"a": torch.ones(1)}, path)

    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=download))
    for _ in range(2):
        assert find_weights("dla34-coco") == cache / "ctdet_coco_dla_2x.pth"
    assert calls == ["https://drive.google.com/uc?id=18Q3fzzAsha_3Qid6mn4jcIFPeOGUaj1d"]
    assert files(cache) == ["ctdet_coco_dla_2x.pth"]


def test_error_without_gdown_describes_the_manual_download(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(FileNotFoundError) as error:
        find_weights("dla34-coco")
    assert str(error.value) == (
        "ctdet_coco_dla_2x.pth does not exist and could not be downloaded (downloads from Google Drive need gdown: "
        "pip install gdown): download it from https://drive.google.com/file/d/18Q3fzzAsha_3Qid6mn4jcIFPeOGUaj1d "
        f"and save it as {cache}/ctdet_coco_dla_2x.pth"
    )
    (cache / "ctdet_coco_dla_2x.pth").touch()
    assert find_weights("dla34-coco") == cache / "ctdet_coco_dla_2x.pth"


def test_network_problem_is_short(cache, monkeypatch):
    def download(*_, **__):
        raise URLError("<urllib3.connection.HTTPSConnection object at 0x7f>: Failed to resolve")

    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=download))
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded \(no connection to drive.google.com\): down"):
        find_weights("dla34-coco")


def test_local_file_takes_precedence_over_a_name(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetching, "fetch_once", lambda *_, **__: pytest.fail("downloaded"))
    for name, find in (("dla34-coco", find_weights), ("resnet18", find_trunk)):
        (tmp_path / name).touch()
        assert str(find(name)) == name


@pytest.fixture
def torchvision_at(server, content, tmp_path, monkeypatch):
    """Return a function that serves torchvision's ResNet-18 in a file whose name ends in the given digits."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def put(digits):
        server.responses[f"/resnet18-{digits}.pth"] = server.responses["/complete"]
        weights = SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url=f"{server.url}/resnet18-{digits}.pth"))
        monkeypatch.setattr("torchvision.models.get_model_weights", {"resnet18": weights}.__getitem__)
        return tmp_path / "torch" / "hub" / "checkpoints"

    return put


def test_trunk_is_downloaded_to_the_cache_of_torchvision(torchvision_at, server, content):
    digits = hashlib.sha256(content).hexdigest()[:8]
    folder = torchvision_at(digits)
    for _ in range(2):
        assert find_trunk("resnet18") == folder / f"resnet18-{digits}.pth"
    assert len(server.requests) == 1


def test_trunk_with_wrong_hash_raises(torchvision_at):
    folder = torchvision_at("00000000")
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded \(invalid hash value"):
        find_trunk("resnet18")
    assert files(folder) == []


def test_error_without_network_describes_the_manual_download(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(FileNotFoundError) as error:
        find_trunk("resnet50")
    assert str(error.value) == (
        "resnet50-0676ba61.pth does not exist and could not be downloaded (no connection to download.pytorch.org): "
        "download it from https://download.pytorch.org/models/resnet50-0676ba61.pth and save it as "
        f"{tmp_path}/hub/checkpoints/resnet50-0676ba61.pth"
    )


def test_trunk_names_are_models_of_torchvision(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "fetch_once", lambda url, *_, **__: url)
    for name in fetching.TRUNKS:
        assert find_trunk(name).startswith(f"https://download.pytorch.org/models/{name}-")
    with pytest.raises(FileNotFoundError, match="the weights file resnet19 does not exist"):
        find_trunk("resnet19")
