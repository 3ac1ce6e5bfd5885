import sys

import pytest

from centernet_d2.cli.train import run
from centernet_d2.config.registry import POINT_HEAD_REGISTRY
from conftest import ROOT

EXAMPLES = ROOT / "examples"
# Options of a minimal network and a short training.
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.HOURGLASS.WIDTHS": "[16, 16, 16]",
    "MODEL.HOURGLASS.COUNTS": "[1, 1, 1]",
    "MODEL.CENTERNET.HEAD_CONV": 16,
    "INPUT.AFFINE.SIZE": "[64, 64]",
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 3,
    "SOLVER.STEPS": "[]",
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.DETECTIONS_PER_IMAGE": 20,
}


@pytest.fixture(autouse=True)
def _restore_heads_and_modules(monkeypatch):
    """Unregister the heads and modules that a test imports from a file."""
    heads, modules = dict(POINT_HEAD_REGISTRY), set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name, _ in POINT_HEAD_REGISTRY if name not in heads]:
        del POINT_HEAD_REGISTRY._obj_map[name]
    for name in {"rotated_boxes", "identity", "masks", "tracking"} - modules:
        sys.modules.pop(name, None)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Return a function (example, *flags, **config) that runs train_net.py and returns the exit code."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def start(name, *flags, **config):
        options = {"OUTPUT_DIR": tmp_path / "out", **SMALL, **{k.replace("__", "."): v for k, v in config.items()}}
        pairs = [str(part) for pair in options.items() for part in pair]
        folder = EXAMPLES / name
        files = ["--import", str(folder / f"{name}.py"), "--config-file", str(folder / f"{name}.yaml")]
        return run([*files, *flags, *pairs])

    return start
