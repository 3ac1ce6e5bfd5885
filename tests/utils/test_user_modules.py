import argparse
import contextlib
import sys
from pathlib import Path

import pytest

from centernet_d2.utils import cli
from centernet_d2.utils.cli import import_user_modules


@pytest.fixture(autouse=True)
def _restore_imports(monkeypatch):
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path):
    """Folder with a module that counts its executions, its dependency, a package, and invalid modules."""
    root = tmp_path / "mine"
    (root / "user_pack").mkdir(parents=True)
    count = f"with open({str(tmp_path / 'runs')!r}, 'a') as file:\n    file.write('x')\n"
    (root / "user_heads.py").write_text(f"import user_helper\nVALUE = user_helper.VALUE\n{count}")
    (root / "user_helper.py").write_text("VALUE = 7\n")
    (root / "user_pack" / "__init__.py").write_text("VALUE = 8\n")
    (root / "user_pack" / "inner.py").write_text("VALUE = 9\n")
    (root / "user_needs.py").write_text("import not_installed_anywhere\n")
    (root / "user_wrong.py").write_text("VALUE = undefined_name\n")
    (root / "argparse.py").write_text("VALUE = 0\n")
    return root


def runs(tmp_path):
    return len((tmp_path / "runs").read_text())


def test_file_is_imported_once_and_folder_added_to_path(folder, tmp_path, monkeypatch):
    path = folder / "user_heads.py"
    (first,) = import_user_modules([str(path)])
    assert (first.__name__, first.VALUE, Path(first.__file__)) == ("user_heads", 7, path)
    assert sys.path.count(str(folder)) == 1
    assert sys.path[-1] == str(folder)  # At the end, so that it shadows no other module.
    monkeypatch.chdir(tmp_path)
    again = import_user_modules([str(path), "mine/user_heads.py", "./mine/../mine/user_heads.py", "user_heads"])
    assert all(module is first for module in again)
    assert runs(tmp_path) == 1
    assert sys.path.count(str(folder)) == 1


def test_modules_and_packages_are_imported_by_name_or_folder(folder):
    sys.path.append(str(folder))
    (inner, package) = import_user_modules(["user_pack.inner", str(folder / "user_pack")])
    assert (inner.VALUE, package.VALUE) == (9, 8)
    assert package is sys.modules["user_pack"]
    assert import_user_modules([]) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine/nowhere.py", "draw: --import {root}/mine/nowhere.py: the Python file does not exist"),
        ("mine/nowhere/", "draw: --import {root}/mine/nowhere: the Python file does not exist"),
        ("nowhere.py", "draw: --import {root}/nowhere.py: the Python file does not exist"),
        ("mine", "draw: --import mine: no module has this name; to import a file, specify its path including .py"),
        (
            "nowhere_at_all",
            "draw: --import nowhere_at_all: no module has this name; to import a file, ",
        ),
        ("pytest.nowhere", "draw: --import pytest.nowhere: no module has this name"),
        (
            "mine/argparse.py",
            "draw: --import {root}/mine/argparse.py: the module name 'argparse' already belongs to {argparse}; rename",
        ),
    ],
)
def test_missing_module_is_reported_in_one_line(folder, tmp_path, monkeypatch, capsys, name, message):
    monkeypatch.chdir(tmp_path)
    (folder / "__init__.py").unlink(missing_ok=True)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    parser = argparse.ArgumentParser(prog="draw.py")
    assert cli.run(parser, lambda args: pytest.fail("main was called"), ["--import", name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message.format(root=tmp_path, argparse=argparse.__file__))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("user_needs.py", ModuleNotFoundError, "No module named 'not_installed_anywhere'"),
        ("user_wrong.py", NameError, "name 'undefined_name' is not defined"),
    ],
)
def test_error_in_module_keeps_message_and_traceback(folder, name, error, message):
    parser = argparse.ArgumentParser(prog="draw.py")
    with pytest.raises(error, match=message) as caught:
        cli.run(parser, lambda args: None, ["--import", str(folder / name)])
    assert str(folder / name) in [str(entry.path) for entry in caught.traceback]


def test_imported_modules_can_add_options(folder):
    def extend(parser):
        parser.add_argument("--value", type=int, default=sys.modules["user_heads"].VALUE)

    def main(args):
        seen.append((args.imports, args.value))

    seen = []
    files = [str(folder / name) for name in ("user_heads.py", "user_pack")]
    argv = ["--import", files[0], "--import", files[1]]
    for more in ([], ["--value", "3"]):
        parser = argparse.ArgumentParser(prog="draw.py")
        assert cli.run(parser, main, [*argv, *more], extend=extend) == 0
    assert seen == [(files, 7), (files, 3)]


def test_help_all_lists_options_of_imported_modules(folder, capsys):
    def help_with_heads(*argv):
        parser = argparse.ArgumentParser(prog="draw.py")
        with contextlib.suppress(SystemExit):
            assert cli.run(parser, pytest.fail, argv, extend=lambda parser: parser.add_argument("--tilt")) == 0
        return capsys.readouterr().out

    assert "--tilt" in help_with_heads("--help-all", "--import", str(folder / "user_heads.py"))
    assert "--tilt" not in help_with_heads("--help", "--import", str(folder / "user_heads.py"))
