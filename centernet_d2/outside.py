"""Heads and data sets that live outside the package, imported because the user of a command line says so."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

__all__ = ["import_outside"]


def import_outside(names: Iterable[str]) -> list[ModuleType]:
    """Import modules by name, or files by their path: their folder then is on ``sys.path``, their stem the name.

    What is imported already stays as it is, so every process may call this, and more than once. No config does.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no such module, or another one has the name of the file.
    """
    return [_import_file(Path(name)) if _is_path(name) else _import_module(name) for name in names]


def _is_path(name: str) -> bool:
    return name.endswith(".py") or "/" in name or "\\" in name


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # The module is there, but something that it needs is not.
        raise ValueError(f"--import {name}: there is no module of this name; a file needs its path and .py") from None


def _import_file(path: Path) -> ModuleType:
    path = path.resolve()
    source = path / "__init__.py" if path.is_dir() else path
    if not source.is_file():
        raise FileNotFoundError(f"--import {path}: there is no such Python file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = _import_module(path.stem)
    if module.__file__ is None or Path(module.__file__).resolve() != source:
        raise ValueError(f"--import {path}: the name '{path.stem}' is that of {module.__file__}; rename the file")
    return module
