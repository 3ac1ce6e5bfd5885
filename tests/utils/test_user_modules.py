import argparse
import sys
from pathlib import Path

import pytest

from centernet_d2.utils import cli
from centernet_d2.utils.cli import import_user_modules


@pytest.fixture(autouse=True)
def _imports_are_forgotten(monkeypatch):
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path):
    """A file that counts how often it is run, beside one that it needs; a package; files that cannot be imported."""
    root = tmp_path / "mine"
    (root / "pack_of_mine").mkdir(parents=True)
    count = f"with open({str(tmp_path / 'runs')!r}, 'a') as file:\n    file.write('x')\n"
    (root / "heads_of_mine.py").write_text(f"import helper_of_mine\nVALUE = helper_of_mine.VALUE\n{count}")
    (root / "helper_of_mine.py").write_text("VALUE = 7\n")
    (root / "pack_of_mine" / "__init__.py").write_text("VALUE = 8\n")
    (root / "pack_of_mine" / "inner.py").write_text("VALUE = 9\n")
    (root / "needs_of_mine.py").write_text("import not_installed_anywhere\n")
    (root / "wrong_of_mine.py").write_text("VALUE = undefined_name\n")
    (root / "argparse.py").write_text("VALUE = 0\n")
    return root


def runs(tmp_path):
    return len((tmp_path / "runs").read_text())


def test_a_file_is_imported_once_with_its_folder_on_the_path(folder, tmp_path, monkeypatch):
    path = folder / "heads_of_mine.py"
    (first,) = import_user_modules([str(path)])
    assert (first.__name__, first.VALUE, Path(first.__file__)) == ("heads_of_mine", 7, path)
    assert sys.path.count(str(folder)) == 1
    assert sys.path[-1] == str(folder)  # behind everything, so that it hides nothing
    monkeypatch.chdir(tmp_path)
    again = import_user_modules(
        [str(path), "mine/heads_of_mine.py", "./mine/../mine/heads_of_mine.py", "heads_of_mine"]
    )
    assert all(module is first for module in again)
    assert runs(tmp_path) == 1
    assert sys.path.count(str(folder)) == 1


def test_modules_and_packages_are_imported_by_name_and_by_folder(folder):
    sys.path.append(str(folder))
    (inner, package) = import_user_modules(["pack_of_mine.inner", str(folder / "pack_of_mine")])
    assert (inner.VALUE, package.VALUE) == (9, 8)
    assert package is sys.modules["pack_of_mine"]
    assert import_user_modules([]) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine/nowhere.py", "draw: --import {root}/mine/nowhere.py: this Python file does not exist"),
        ("mine/nowhere/", "draw: --import {root}/mine/nowhere: this Python file does not exist"),
        ("nowhere.py", "draw: --import {root}/nowhere.py: this Python file does not exist"),
        ("mine", "draw: --import mine: there is no module of this name; for a file, give its path with .py"),
        ("nowhere_at_all", "draw: --import nowhere_at_all: there is no module of this name; for a file, give its path"),
        ("pytest.nowhere", "draw: --import pytest.nowhere: there is no module of this name"),
        (
            "mine/argparse.py",
            "draw: --import {root}/mine/argparse.py: the module name 'argparse' already belongs to {argparse}; rename",
        ),
    ],
)
def test_what_cannot_be_found_is_one_sentence(folder, tmp_path, monkeypatch, capsys, name, message):
    monkeypatch.chdir(tmp_path)
    (folder / "__init__.py").unlink(missing_ok=True)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    parser = argparse.ArgumentParser(prog="draw.py")
    assert cli.run(parser, lambda args: pytest.fail("it ran"), ["--import", name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message.format(root=tmp_path, argparse=argparse.__file__))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("needs_of_mine.py", ModuleNotFoundError, "No module named 'not_installed_anywhere'"),
        ("wrong_of_mine.py", NameError, "name 'undefined_name' is not defined"),
    ],
)
def test_an_error_within_the_file_keeps_its_own_words_and_traceback(folder, name, error, message):
    parser = argparse.ArgumentParser(prog="draw.py")
    with pytest.raises(error, match=message) as caught:
        cli.run(parser, lambda args: None, ["--import", str(folder / name)])
    assert str(folder / name) in [str(entry.path) for entry in caught.traceback]


def test_a_command_line_imports_first_and_may_grow_by_what_was_imported(folder):
    def extend(parser):
        parser.add_argument("--value", type=int, default=sys.modules["heads_of_mine"].VALUE)

    def main(args):
        seen.append((args.imports, args.value))

    seen = []
    files = [str(folder / name) for name in ("heads_of_mine.py", "pack_of_mine")]
    argv = ["--import", files[0], "--import", files[1]]
    for more in ([], ["--value", "3"]):
        parser = argparse.ArgumentParser(prog="draw.py")
        assert cli.run(parser, main, [*argv, *more], extend=extend) == 0
    assert seen == [(files, 7), (files, 3)]


def test_the_help_names_the_options_of_what_was_imported(folder, capsys):
    parser = argparse.ArgumentParser(prog="draw.py")
    with pytest.raises(SystemExit) as stop:
        cli.run(
            parser,
            lambda args: None,
            ["--help", "--import", str(folder / "heads_of_mine.py")],
            extend=lambda parser: parser.add_argument("--tilt"),
        )
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--tilt" in out
    assert "--import MODULE_OR_FILE" in out
