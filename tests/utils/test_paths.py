import pytest

from centernet_d2 import Predictor, load_config, model_zoo
from centernet_d2.checkpoint import CenterNetCheckpointer, load_file
from centernet_d2.data.catalog import register_datasets
from centernet_d2.utils.files import cache_folder, leaves_folder
from support.models import stub_model

URLS = ("https://example.org/model.pth", "http://127.0.0.1:9/a", "detectron2://ImageNetPretrained/a.pkl")


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("a.jpg", "/data/cats/images", False),
        ("sub/a.jpg", "/data/cats/images", False),
        ("../images/a.jpg", "/data/cats/labels", False),
        ("../train/a.jpg", "/data/cats/valid/", False),
        ("../images/../../dogs/a.jpg", "/data/cats/images", True),
        ("../../dogs/a.jpg", "/data/cats/images", True),
        ("../../cats/a.jpg", "/data/cats/images", False),
        ("../../cats2/a.jpg", "/data/cats/images", True),
        ("../../../../../etc/passwd", "/data/cats/images", True),
        ("../etc/passwd", "/data", True),
        ("/etc/passwd", "/data/cats/images", False),
        ("..a/b.jpg", "/data", False),
    ],
)
def test_leaves_folder(name, folder, expected):
    assert leaves_folder(name, folder) is expected


@pytest.mark.parametrize("url", URLS)
def test_urls_raise_and_are_not_opened(url, monkeypatch):
    def fetch(*_, **__):
        pytest.fail("the URL was opened")

    monkeypatch.setattr("iopath.common.file_io.PathManager.get_local_path", fetch)
    monkeypatch.setattr("iopath.common.file_io.PathManager.open", fetch)
    zoo = model_zoo.available()[0]
    calls = {
        "the weights file": lambda: load_file(url),
        "the weights": lambda: CenterNetCheckpointer(stub_model()).load(url),
        "the weights file ": lambda: Predictor(zoo, device="cpu", overrides=["MODEL.WEIGHTS", url]),
        "the config file": lambda: load_config(url),
        "DATASETS.REGISTER": lambda: register_datasets([["a", url, "images"]]),
        "the image": lambda: Predictor(stub_model())(url),
    }
    for what, call in calls.items():
        with pytest.raises(FileNotFoundError, match=f"{what}.*{url} is a URL, but URLs are not supported"):
            call()


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CENTERNET_D2_CACHE", "~/own")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("CENTERNET_D2_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "centernet_d2"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "centernet_d2"
