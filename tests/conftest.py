import importlib.util
import logging
import os
import random
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger

from support.released import write_released

ROOT = Path(__file__).resolve().parent.parent
# Test data that is too large for the repository, described in CONTRIBUTING.md.
EXTRA_DATA = Path(os.environ.get("CENTERNET_D2_TEST_DATA") or ROOT.parent / "shared")

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Fixtures for tiny trainings.
pytest_plugins = ["support.training"]


def pytest_addoption(parser):
    parser.addoption(
        "--reference",
        default=None,
        help="folder of recorded reference outputs (default: extra data, else tests/golden)",
    )


def reference_folder(config) -> Path:
    chosen = config.getoption("--reference")
    if chosen:
        if not any(Path(chosen).glob("*/*")):
            raise pytest.UsageError(f"--reference {chosen} contains no recorded files")
        return Path(chosen)
    recorded = EXTRA_DATA / "reference" / "golden"
    return recorded if recorded.is_dir() else ROOT / "tests" / "golden"


def pytest_configure(config):
    if os.environ.get("CENTERNET_D2_TEST_DATA") and not EXTRA_DATA.is_dir():
        raise pytest.UsageError(f"CENTERNET_D2_TEST_DATA is {EXTRA_DATA}, which is not a folder")
    # The first backward pass decides about the threads of autograd. After an export, which registers a stand-in for a
    # missing GPU, it would start a thread for it, and forked processes (support.processes) could not use autograd.
    torch.ones(1, requires_grad=True).backward()


def pytest_generate_tests(metafunc):
    if "reference_file" in metafunc.fixturenames:
        folder = reference_folder(metafunc.config)
        files = sorted([*folder.glob("*/*.npz"), *folder.glob("keys/*.txt")])
        metafunc.parametrize("reference_file", files, ids=[f"{path.parent.name}/{path.name}" for path in files])


@pytest.fixture(scope="session")
def shared():
    """Folder of extra data; tests that require it are skipped if it does not exist."""
    if not EXTRA_DATA.is_dir():
        pytest.skip("needs extra data: CENTERNET_D2_TEST_DATA, see CONTRIBUTING.md")
    return EXTRA_DATA


@pytest.fixture(scope="session", autouse=True)
def _temporary_cache(tmp_path_factory):
    """Use a temporary cache instead of the cache of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CENTERNET_D2_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _fixed_seeds():
    """Seed random number generators, so that results do not depend on the order of tests."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """Cache folder with a file of r18-coco, whose weights are random instead of the released ones."""
    folder = tmp_path_factory.mktemp("released")
    write_released(folder, "r18-coco")
    return folder


@contextmanager
def restore_catalogs():
    """Remove the datasets that are registered in this context."""
    catalogs = (DatasetCatalog, MetadataCatalog)
    before = [set(catalog.list()) for catalog in catalogs]
    try:
        yield
    finally:
        for catalog, names in zip(catalogs, before, strict=True):
            for name in set(catalog.list()) - names:
                catalog.remove(name)


@pytest.fixture(autouse=True)
def _same_precision_everywhere(monkeypatch):
    """Let Predictor use float32 by default, so that results do not depend on the machine."""
    monkeypatch.setattr("centernet_d2.predictor.fast_precision", lambda device: "float32")


@pytest.fixture(autouse=True)
def _restore_catalogs():
    with restore_catalogs():
        yield


@pytest.fixture(autouse=True)
def _reset_log_handlers(monkeypatch):
    """Remove log handlers, which would write to the captured standard output of earlier tests."""
    setup_logger.cache_clear()
    for name in ("fvcore", "detectron2", "centernet_d2"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])


@pytest.fixture(autouse=True)
def _no_reports(request, monkeypatch):
    """Skip reports and sheets of trainings in this process, which take most of the time of a tiny training.

    Tests with the marker ``reports`` write them, as do trainings in other processes.
    """
    if request.node.get_closest_marker("reports"):
        return
    for name in ("start_report", "finish_report", "report_evaluation"):
        monkeypatch.setattr(f"centernet_d2.cli.training.{name}", lambda *_: None)
    monkeypatch.setattr("centernet_d2.cli.training.training_sheets", lambda *_, **__: nullcontext())


@pytest.fixture(scope="session")
def load_script():
    """Function that imports a script by path, because Detectron2 installs a package called tools."""

    def load(path: str):
        spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
