import logging
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata

import detectron2.checkpoint
import detectron2.engine.defaults
import pytest
from setuptools.config.pyprojecttoml import load_file

import centernet_d2
from centernet_d2 import model_zoo
from centernet_d2.utils import logging as log_filters
from conftest import ROOT


def test_import_without_detectron2_explains_installation():
    # None in sys.modules makes an import fail as if the package were not installed.
    script = "import sys; sys.modules['detectron2'] = None; import centernet_d2; centernet_d2.Predictor"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "MissingPackage: Detectron2 is not installed in this environment" in result.stderr


@pytest.mark.parametrize("page", ["README.md", "CITATION.cff", "CHANGELOG.md"])
def test_copies_of_the_version(page):
    version = re.escape(centernet_d2.__version__)
    assert re.search(rf"(badge/version-|^version: |^## ){version}\b", (ROOT / page).read_text(encoding="utf-8"), re.M)


def run_fresh(script):
    """Run a script in a new process and return its standard output."""
    command = [sys.executable, "-W", "ignore", "-c", script]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_build_model_from_detectron2_config():
    assert "CenterNet CenterHead BoxHead" in run_fresh("""
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from centernet_d2 import add_centernet_config

cfg = get_cfg()
add_centernet_config(cfg)
cfg.merge_from_file("configs/COCO-Detection/centernet_R_18_1x.yaml")
cfg.MODEL.DEVICE = "cpu"
model = build_model(cfg)
print(type(model).__name__, *model.heads)
""")


def test_instantiate_lazy_config():
    assert "CenterNet 80" in run_fresh("""
from detectron2.config import LazyConfig, instantiate

model = instantiate(LazyConfig.load("configs/lazy/centernet_R_18_1x.py").model)
print(type(model).__name__, model.num_classes)
""")


def test_readers_and_utils_import_without_torch_and_detectron2():
    run_fresh("""
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "detectron2", "fvcore"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import centernet_d2.readers, centernet_d2.utils

for package in (centernet_d2.readers, centernet_d2.utils):
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    assert names
    for name in names:
        importlib.import_module(f"{package.__name__}.{name}")
""")


def test_each_public_name_registers_everything():
    accesses = [f"import centernet_d2; centernet_d2.{name}" for name in centernet_d2.__all__]
    # One process imports the dependencies; each statement runs in a fork, which has not imported centernet_d2.
    run_fresh(f"""
import os, sys, traceback
import torch, torchvision, detectron2.engine
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

def check(statement):
    assert not [name for name in sys.modules if name.startswith("centernet_d2")]
    exec(statement)
    from centernet_d2.config.registry import POINT_HEAD_REGISTRY
    assert "CenterNet" in META_ARCH_REGISTRY
    for name in ("resnet_upconv", "dla", "hourglass"):
        assert f"build_{{name}}_backbone" in BACKBONE_REGISTRY
    for name in ("CenterHead", "BoxHead", "KeypointHead", "Box3DHead"):
        assert name in POINT_HEAD_REGISTRY

for statement in {[*accesses, "import centernet_d2.modeling"]!r}:
    if (child := os.fork()) == 0:
        try:
            check(statement)
        except BaseException:
            print(statement, file=sys.stderr)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, statement
""")


def test_matplotlib_is_imported_only_for_figures():
    # A new process, because other tests draw.
    run_fresh("""
import sys
from centernet_d2 import Predictor, model_zoo
import centernet_d2.cli.detection, centernet_d2.cli.training, centernet_d2.engine, centernet_d2.evaluation

Predictor(model_zoo.get("Shapes/centernet_HG_shapes.yaml", device="cpu"))
assert not {"matplotlib", "detectron2.utils.visualizer"} & sys.modules.keys()
""")


def test_import_shows_no_warnings_of_dependencies():
    # A new process, because everything is imported here already. Without sockets, network access would fail.
    script = "import socket, sys; socket.socket.connect = socket.getaddrinfo = None; "
    script += (
        "import centernet_d2.engine, centernet_d2.cli.detection, logging; logging.getLogger('x').warning('heard'); "
    )
    script += "assert 'gdown' not in sys.modules"
    command = [sys.executable, "-W", "default", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in result.stderr.splitlines() if "torch.jit" in line or "CUDA" in line or "pkg_res" in line]
    assert (lines, result.stdout) == ([], "")
    assert "heard" in result.stderr


def test_only_category_id_warning_is_suppressed(caplog):
    log = logging.getLogger("detectron2.data.datasets.coco")
    log_filters.drop_mapping_notice()
    with caplog.at_level(logging.WARNING, log.name):
        log.warning("Category ids in annotations are not in [1, #categories]! We'll apply a mapping for you.")
        log.warning("something else")
    assert "something else" in caplog.text
    assert "Category ids" not in caplog.text


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Result of `pip install -e` for a clone called centernet_d2: the clone, and the site-packages folder."""
    folder = tmp_path_factory.mktemp("installed")
    clone, site = folder / "centernet_d2", folder / "site"
    for name in ("centernet_d2", "configs"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, clone)
    build = f"from setuptools.build_meta import build_editable; build_editable({str(folder)!r})"
    # A separate process, because setuptools builds in the current folder.
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return clone, site


def test_installed_package_is_found_next_to_clone(installed):
    clone, site = installed
    find = (
        f"import site; site.addsitedir({str(site)!r}); import importlib.util as u; print(u.find_spec('centernet_d2'))"
    )
    # A separate process without site-packages (-S), where the project may already be installed.
    command = [sys.executable, "-E", "-S", "-c", find]
    found = subprocess.run(command, cwd=clone.parent, check=True, capture_output=True, text=True).stdout
    assert f"origin='{clone}/centernet_d2/__init__.py'" in found


def test_installed_version_matches_package(installed):
    (distribution,) = metadata.distributions(path=[str(installed[1])])
    assert (distribution.name, distribution.version) == ("centernet_d2", centernet_d2.__version__)


@pytest.mark.parametrize(
    ("command", "arguments"), [("centernet-train", []), ("centernet-detect", ["x.png", "--json", "r.json"])]
)
def test_installed_commands_print_their_name(installed, monkeypatch, capsys, command, arguments):
    (distribution,) = metadata.distributions(path=[str(installed[1])])
    (entry,) = distribution.entry_points.select(group="console_scripts", name=command)
    main = entry.load()
    monkeypatch.setattr("sys.argv", [f"/usr/bin/{command}"])
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    shown = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert shown.startswith(f"usage: {command} ")
    assert "demo.py" not in shown
    assert "train_net.py" not in shown
    assert main([*arguments, "--config-file", "no.yaml"]) == 1
    assert f"{command}: " in capsys.readouterr().err


def test_installed_commands_print_help(installed, monkeypatch, capsys):
    (distribution,) = metadata.distributions(path=[str(installed[1])])
    commands = distribution.entry_points.select(group="console_scripts")
    assert {"centernet-train", "centernet-benchmark"} <= commands.names
    for entry in commands:
        monkeypatch.setattr("sys.argv", [f"/usr/bin/{entry.name}"])
        with pytest.raises(SystemExit, match="0"):
            entry.load()(["--help"])
        assert capsys.readouterr().out.startswith(f"usage: {entry.name} ")


def test_import_does_not_modify_detectron2():
    assert centernet_d2.Predictor
    checkpointer = detectron2.engine.defaults.DetectionCheckpointer
    assert checkpointer is detectron2.checkpoint.DetectionCheckpointer
    assert checkpointer.__module__ == "detectron2.checkpoint.detection_checkpoint"


def test_wheel_contains_all_configs():
    options = load_file(ROOT / "pyproject.toml")["tool"]["setuptools"]
    root = ROOT / "configs"
    packed = {path for pattern in options["package-data"]["centernet_d2.configs"] for path in root.glob(pattern)}
    files = {path for suffix in ("yaml", "py") for path in root.rglob(f"*.{suffix}")}
    assert files - packed == {root / "__init__.py"}
    assert {root / name for name in model_zoo.available(".py")} <= packed
