import logging
import runpy
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata

import detectron2.checkpoint
import detectron2.engine.defaults
import pytest

import centernet_d2
from centernet_d2 import model_zoo
from centernet_d2.utils import logging as quiet
from conftest import ROOT


def test_without_detectron2_one_sentence_says_how_to_get_it():
    # None in sys.modules makes an import fail as if the package were not installed.
    script = "import sys; sys.modules['detectron2'] = None; import centernet_d2; centernet_d2.Predictor"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "ImportError: centernet_d2 is a plugin for Detectron2, which is not installed" in result.stderr


def run_fresh(script):
    """Run a script in a new process, in which nothing is imported yet; raise its standard error if it fails."""
    command = [sys.executable, "-W", "ignore", "-c", script]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_detectron2_builds_a_model_from_its_own_config():
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


def test_detectron2_instantiates_a_lazy_config():
    assert "CenterNet 80" in run_fresh("""
from detectron2.config import LazyConfig, instantiate

model = instantiate(LazyConfig.load("configs/lazy/centernet_R_18_1x.py").model)
print(type(model).__name__, model.num_classes)
""")


def test_readers_and_utils_work_without_torch_and_detectron2():
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


def test_an_import_says_nothing_of_others():
    # A process of its own, as here everything is imported already.
    # Nor does it reach for the net.
    script = "import socket, sys; socket.socket.connect = socket.getaddrinfo = None; "
    script += "import centernet_d2.engine, centernet_d2.cli.detect, logging; logging.getLogger('x').warning('heard'); "
    script += "assert 'gdown' not in sys.modules"
    command = [sys.executable, "-W", "default", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    told = [line for line in result.stderr.splitlines() if "torch.jit" in line or "CUDA" in line or "pkg_res" in line]
    assert (told, result.stdout) == ([], "")
    assert "heard" in result.stderr


def test_a_notice_on_category_ids_is_dropped_and_nothing_else(caplog):
    log = logging.getLogger("detectron2.data.datasets.coco")
    quiet.drop_mapping_notice()
    with caplog.at_level(logging.WARNING, log.name):
        log.warning("Category ids in annotations are not in [1, #categories]! We'll apply a mapping for you.")
        log.warning("something else")
    assert "something else" in caplog.text
    assert "Category ids" not in caplog.text


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What `pip install -e` makes of a clone called centernet_d2: the clone, and the folder of installed packages."""
    folder = tmp_path_factory.mktemp("installed")
    clone, site = folder / "centernet_d2", folder / "site"
    for name in ("centernet_d2", "configs"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, clone)
    build = f"from setuptools.build_meta import build_editable; build_editable({str(folder)!r})"
    # A process of its own, because setuptools builds in the current folder.
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return clone, site


def test_beside_a_clone_the_package_is_found_and_not_the_folder_of_the_clone(installed):
    clone, site = installed
    find = (
        f"import site; site.addsitedir({str(site)!r}); import importlib.util as u; print(u.find_spec('centernet_d2'))"
    )
    # A process of its own, without the packages of this environment (-S), which may have the project installed already.
    command = [sys.executable, "-E", "-S", "-c", find]
    found = subprocess.run(command, cwd=clone.parent, check=True, capture_output=True, text=True).stdout
    assert f"origin='{clone}/centernet_d2/__init__.py'" in found


def test_what_is_installed_has_the_version_that_the_package_says(installed):
    (distribution,) = metadata.distributions(path=[str(installed[1])])
    assert (distribution.name, distribution.version) == ("centernet_d2", centernet_d2.__version__)


@pytest.mark.parametrize(
    ("command", "usage", "arguments"),
    [
        ("centernet-train", "[--config-file FILE] [--resume]", []),
        ("centernet-detect", "[--camera NUMBER] (--config-file CONFIG | --model NAME)", ["x.png", "--json", "r.json"]),
    ],
)
def test_installed_commands_have_their_own_name_in_help_and_errors(
    installed, monkeypatch, capsys, command, usage, arguments
):
    (distribution,) = metadata.distributions(path=[str(installed[1])])
    (entry,) = distribution.entry_points.select(group="console_scripts", name=command)
    main = entry.load()
    monkeypatch.setattr("sys.argv", [f"/usr/bin/{command}"])
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert shown.startswith(f"usage: {command} [-h] ")
    assert usage in " ".join(shown.split())
    assert ",".join(model_zoo.available(trained=True)) in "".join(shown.split())
    assert "demo.py" not in shown
    assert "train_net.py" not in shown
    assert main([*arguments, "--config-file", "no.yaml"]) == 1
    assert f"{command}: " in capsys.readouterr().err


def test_every_installed_command_prints_its_help(installed, monkeypatch, capsys):
    (distribution,) = metadata.distributions(path=[str(installed[1])])
    commands = distribution.entry_points.select(group="console_scripts")
    assert {"centernet-train", "centernet-benchmark"} <= commands.names
    for entry in commands:
        monkeypatch.setattr("sys.argv", [f"/usr/bin/{entry.name}"])
        with pytest.raises(SystemExit, match="0"):
            entry.load()(["--help"])
        assert capsys.readouterr().out.startswith(f"usage: {entry.name} [-h] ")


def test_an_import_leaves_detectron2_what_it_is():
    assert centernet_d2.Predictor
    theirs = detectron2.engine.defaults.DetectionCheckpointer
    assert theirs is detectron2.checkpoint.DetectionCheckpointer
    assert theirs.__module__ == "detectron2.checkpoint.detection_checkpoint"


def test_every_config_is_in_the_wheel(monkeypatch):
    said = {}
    monkeypatch.setattr("setuptools.setup", lambda **options: said.update(options))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    root = ROOT / said["package_dir"]["centernet_d2.configs"]
    packed = {path for pattern in said["package_data"]["centernet_d2.configs"] for path in root.glob(pattern)}
    files = {path for suffix in ("yaml", "py") for path in root.rglob(f"*.{suffix}")}
    assert files - packed == {root / "__init__.py"}
    assert {root / name for name in model_zoo.available(".py")} <= packed
