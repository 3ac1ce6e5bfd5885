"""Package layers: no upward imports, and no property names in shared packages (docs/architecture.md)."""

import ast
import re

import pytest

from conftest import ROOT

PACKAGE = ROOT / "centernet_d2"
# From bottom to top. Packages of one layer may import each other without cycles, except for those in INDEPENDENT.
LAYERS = (
    ("utils",),
    ("structures", "imaging", "config"),
    ("layers", "readers"),
    ("modeling",),
    ("data", "checkpoint"),
    ("evaluation", "model_zoo"),
    ("export",),
    ("engine", "report", "predictor"),
    ("autoconfig",),
    ("cli",),
)
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
INDEPENDENT = {"engine", "report", "predictor"}

PROPERTIES = re.compile("keypoint|box3d|boxes3d|rotation_y|camera", re.IGNORECASE)
# Packages for specific properties, file formats or metrics.
SPECIFIC = (
    "modeling/heads/",
    "structures/",
    "evaluation/",
    "readers/",
    "data/coco.py",
    "data/loaded.py",
    "data/kitti.py",
    "data/catalog.py",
    "checkpoint/reference_names.py",
    "config/catalog.py",
    "autoconfig/task.py",
)
# Modules in which a camera is a video source.
VIDEO_CAMERA_MODULES = {"cli/detect.py", "cli/detection.py", "cli/sources.py"}
# The list of heads, and names of Detectron2's keypoint filter.
ALLOWED_NAMES = {
    "modeling/__init__.py": {"Box3DHead", "KeypointHead"},
    "engine/trainer.py": {
        "filter_images_with_few_keypoints",
        "KEYPOINT_ON",
        "ROI_KEYPOINT_HEAD",
        "MIN_KEYPOINTS_PER_IMAGE",
        "no image of DATASETS.TRAIN is left after filtering: add annotations, or change "
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS or MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE",
    },
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def package_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_packages(path):
    """Yield the packages of the project that a module imports, including imports for type checkers."""
    parts = ("centernet_d2", *path.relative_to(PACKAGE).with_suffix("").parts)
    parent = parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = parent[: len(parent) - node.level + 1] if node.level else ()
            target = (*base, *(node.module.split(".") if node.module else ()))
            names = [target] if len(target) > 1 else [(*target, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        yield from (name[1] for name in names if name[0] == "centernet_d2" and len(name) > 1)


def test_every_package_has_a_layer():
    packages = {package_of(path) for path in modules()} - {"__init__"}
    assert packages == set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_do_not_go_up(path):
    package = package_of(path)
    if package == "__init__":
        return
    # The configs are data, installed as a package.
    above = {other for other in imported_packages(path) if other != "configs" and LEVEL[other] > LEVEL[package]}
    assert not above, f"{package} imports {above} of a higher layer"


def test_engine_and_predictor_do_not_import_each_other():
    for path in modules():
        if (package := package_of(path)) in INDEPENDENT:
            assert not INDEPENDENT & set(imported_packages(path)) - {package}, path


def test_packages_of_one_layer_have_no_circular_imports():
    known = {package: set() for package in LEVEL}
    for path in modules():
        if (package := package_of(path)) in LEVEL:
            known[package] |= {other for other in imported_packages(path) if other in LEVEL and other != package}
    left = dict(known)
    while free := [package for package, others in left.items() if not others & left.keys()]:
        for package in free:
            del left[package]
    assert not left, f"circular imports: {left}"


def words(path):
    """Yield the names and strings in the code of a module, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(id(first.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value
        for field in ("id", "attr", "arg", "name", "module", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value


def shared_modules():
    names = {path: path.relative_to(PACKAGE).as_posix() for path in modules()}
    own = {path: name for path, name in names.items() if not name.startswith(SPECIFIC)}
    scripts = [*(ROOT / "tools").glob("*.py"), ROOT / "train_net.py", ROOT / "demo.py"]
    # Tools that draw synthetic datasets and figures of the documentation use properties.
    specific = {"draw_dataset.py", "draw_conventions.py"}
    return {**own, **{path: f"{path.name}" for path in scripts if path.name not in specific}}


@pytest.mark.parametrize(("path", "name"), list(shared_modules().items()), ids=list(shared_modules().values()))
def test_shared_modules_name_no_property(path, name):
    matches = {word for word in words(path) if PROPERTIES.search(word)}
    if name in VIDEO_CAMERA_MODULES:
        matches = {word for word in matches if PROPERTIES.search(word.lower().replace("camera", ""))}
    assert matches == ALLOWED_NAMES.get(name, set())
