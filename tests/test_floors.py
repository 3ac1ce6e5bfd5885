"""The house: imports go down, and shared rooms know no property by its name (docs/architecture.md)."""

import ast
import re

import pytest

from conftest import ROOT

PACKAGE = ROOT / "centernet_d2"
# From the ground up; rooms of one floor may know each other, but not in a circle.
FLOORS = (
    (
        "numbers",
        "quiet",
        "registry",
        "config_files",
        "config",
        "geometry",
        "transforms",
        "images",
        "outside",
        "paths",
        "signals",
        "trained",
        "unread_keys",
    ),
    ("structures", "layers", "command_line"),
    ("visualization",),
    ("modeling",),
    ("data",),
    ("checkpoint", "evaluation", "model_zoo"),
    ("predictor", "engine"),
    ("demo",),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

PROPERTIES = re.compile("keypoint|box3d|boxes3d|rotation_y", re.IGNORECASE)
# Rooms that are about properties, or about the formats of other people.
OWN_ROOMS = (
    "modeling/heads/",
    "structures/",
    "evaluation/",
    "data/datasets/",
    "data/folders/",
    "data/register.py",
    "checkpoint/original.py",
    "trained.py",
)
# What is left: the table of contents of the heads, and a filter that Detectron2 has and names so.
LISTED = {
    "modeling/__init__.py": {"Box3DHead", "KeypointHead"},
    "engine/trainer.py": {
        "filter_images_with_few_keypoints",
        "KEYPOINT_ON",
        "ROI_KEYPOINT_HEAD",
        "MIN_KEYPOINTS_PER_IMAGE",
        "no image of DATASETS.TRAIN is left; DATALOADER.FILTER_EMPTY_ANNOTATIONS and "
        "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE say which are used",
    },
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path):
    """The rooms of this package that a module imports, those for type checkers included."""
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


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in modules()} - {"__init__"}
    assert rooms == set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_do_not_go_up(path):
    room = room_of(path)
    if room == "__init__":
        return
    # The configs are data, shipped as a package.
    above = {other for other in imported_rooms(path) if other != "configs" and LEVEL[other] > LEVEL[room]}
    assert not above, f"{room} imports {above} from above"


def test_rooms_of_one_floor_import_each_other_in_no_circle():
    known = {room: set() for room in LEVEL}
    for path in modules():
        if (room := room_of(path)) in LEVEL:
            known[room] |= {other for other in imported_rooms(path) if other in LEVEL and other != room}
    left = dict(known)
    while free := [room for room, others in left.items() if not others & left.keys()]:
        for room in free:
            del left[room]
    assert not left, f"these import each other: {left}"


def words(path):
    """Names and texts in the code of a module, without its docstrings."""
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


def shared_rooms():
    names = {path: path.relative_to(PACKAGE).as_posix() for path in modules()}
    own = {path: name for path, name in names.items() if not name.startswith(OWN_ROOMS)}
    scripts = [*(ROOT / "tools").glob("*.py"), ROOT / "train_net.py", ROOT / "demo.py"]
    # Tools that draw the project's own data sets and the pictures of a page are about them.
    about = {"draw_dataset.py", "draw_conventions.py"}
    return {**own, **{path: f"{path.name}" for path in scripts if path.name not in about}}


@pytest.mark.parametrize(("path", "name"), list(shared_rooms().items()), ids=list(shared_rooms().values()))
def test_shared_rooms_name_no_property(path, name):
    found = {word for word in words(path) if PROPERTIES.search(word)}
    assert found == LISTED.get(name, set())
