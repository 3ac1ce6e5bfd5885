import importlib.util
import logging
import os
import random
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger

from support.released import write_released

ROOT = Path(__file__).resolve().parent.parent
# What is too large for the repository; CONTRIBUTING.md says what is in there.
EXTRA_DATA = Path(os.environ.get("CENTERNET_D2_TEST_DATA") or ROOT.parent / "shared")

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Fixtures of tiny trainings.
pytest_plugins = ["support.training"]


def pytest_addoption(parser):
    parser.addoption(
        "--reference", default=None, help="folder of recorded vectors (default: the extra data, else tests/golden)"
    )


def reference_folder(config) -> Path:
    chosen = config.getoption("--reference")
    if chosen:
        if not any(Path(chosen).glob("*/*")):
            raise pytest.UsageError(f"--reference {chosen} has no recorded files")
        return Path(chosen)
    recorded = EXTRA_DATA / "reference" / "golden"
    return recorded if recorded.is_dir() else ROOT / "tests" / "golden"


def pytest_configure(config):
    if os.environ.get("CENTERNET_D2_TEST_DATA") and not EXTRA_DATA.is_dir():
        raise pytest.UsageError(f"CENTERNET_D2_TEST_DATA is {EXTRA_DATA}, which is no folder")


def pytest_generate_tests(metafunc):
    if "reference_file" in metafunc.fixturenames:
        folder = reference_folder(metafunc.config)
        files = sorted([*folder.glob("*/*.npz"), *folder.glob("keys/*.txt")])
        metafunc.parametrize("reference_file", files, ids=[f"{path.parent.name}/{path.name}" for path in files])


@pytest.fixture(scope="session")
def shared():
    """The folder of extra data; without it, tests that need it are left out."""
    if not EXTRA_DATA.is_dir():
        pytest.skip("needs extra data: CENTERNET_D2_TEST_DATA, see CONTRIBUTING.md")
    return EXTRA_DATA


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """Nothing is read from or written to the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CENTERNET_D2_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Each test draws the same random numbers, alone and after any other."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """A cache with the file of r18-coco, its weights made up: the one of the authors cannot be had here."""
    folder = tmp_path_factory.mktemp("released")
    write_released(folder, "r18-coco")
    return folder


@contextmanager
def data_sets_forgotten():
    """What is registered in this context is gone after it; also for fixtures that run before a test."""
    catalogs = (DatasetCatalog, MetadataCatalog)
    before = [set(catalog.list()) for catalog in catalogs]
    try:
        yield
    finally:
        for catalog, names in zip(catalogs, before, strict=True):
            for name in set(catalog.list()) - names:
                catalog.remove(name)


@pytest.fixture(autouse=True)
def _data_sets_are_forgotten():
    with data_sets_forgotten():
        yield


@pytest.fixture(autouse=True)
def _log_handlers_are_forgotten(monkeypatch):
    """A run in a test logs as in a new process; handlers of others write to what was standard output then."""
    setup_logger.cache_clear()
    for name in ("fvcore", "detectron2", "centernet_d2"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])


@pytest.fixture(scope="session")
def load_script():
    """Import a script of the project by its path (Detectron2 installs a package called tools, so not by its name)."""

    def load(path: str):
        spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
