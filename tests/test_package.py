import runpy
import shutil
import subprocess
import sys
import zipfile

import detectron2.checkpoint
import detectron2.engine.defaults

import centernet_d2
from centernet_d2 import model_zoo
from conftest import ROOT


def test_without_detectron2_one_sentence_says_how_to_get_it():
    # None in sys.modules makes an import fail as if the package were not installed.
    script = "import sys; sys.modules['detectron2'] = None; import centernet_d2"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "ImportError: centernet_d2 is a plugin for Detectron2, which is not installed" in result.stderr


def test_beside_a_clone_the_package_is_found_and_not_the_folder_of_the_clone(tmp_path):
    # Both steps need a process of their own: setuptools builds in the current folder, and what an import finds depends
    # on how Python was started.
    clone, site = tmp_path / "centernet_d2", tmp_path / "site"
    for name in ("centernet_d2", "configs"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, clone)
    build = f"from setuptools.build_meta import build_editable; build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    find = (
        f"import site; site.addsitedir({str(site)!r}); import importlib.util as u; print(u.find_spec('centernet_d2'))"
    )
    # Without the packages of this environment (-S), which may have the project installed already.
    command = [sys.executable, "-E", "-S", "-c", find]
    found = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert f"origin='{clone}/centernet_d2/__init__.py'" in found


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
