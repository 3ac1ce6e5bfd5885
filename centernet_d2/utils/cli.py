"""Exit codes, error reporting and imports of user modules for command lines."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from .logging import drop_mapping_notice, drop_pixel_notice
from .signals import Stopped
from .text import escape_record, printable

__all__ = ["Failure", "MissingPackage", "error_message", "import_user_modules", "is_expected", "run"]


class MissingPackage(ImportError):
    """Error about a required package; its message contains the command for pip."""


# Errors caused by the installation, options, configs, files, data or divergence. All other errors are bugs and keep
# their traceback.
EXPECTED = (MissingPackage, OSError, ValueError, KeyError, FloatingPointError, MemoryError)


class Failure(Exception):
    """Error of another process, with its message and exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def run(
    parser: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
    *,
    prepare: Callable[[argparse.Namespace], None] | None = None,
    extend: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """Parse a command line and run it.

    ``--help`` and invalid options end the process before slow imports. With `extend`, only the options that are known
    without user modules are parsed first.

    Args:
        parser: argument parser; the options ``--import`` and ``--debug`` are added.
        main: function of the parsed options; may return an exit code.
        argv: arguments; by default the arguments of the process.
        prepare: function of the options that are known before `extend`; runs before user modules are imported.
        extend: function that adds options which depend on imported user modules.

    Returns:
        The exit code: 1 after an expected error, whose message is printed to standard error (with ``--debug``, it is
        raised), 130 after Ctrl-C, and 143 after a SIGTERM that was deferred during training.
    """
    _add_common_options(parser, all_help=extend is not None)
    args = _parse(parser, argv) if extend is None else parser.parse_known_intermixed_args(argv)[0]
    drop_mapping_notice()
    drop_pixel_notice()
    if isinstance(sys.stdout, io.TextIOWrapper):  # Not all consoles can encode all names.
        sys.stdout.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:  # Prints warnings before a program configures logging.
        logging.lastResort.addFilter(escape_record)
    try:
        if prepare is not None:
            prepare(args)
        import_user_modules(args.imports)
        if extend is not None:
            extend(parser)
            if args.help_all:
                parser.print_help()
                return 0
            args = _parse(parser, argv)
        return main(args) or 0
    except Stopped as stopped:
        return fail(parser, str(stopped), code=stopped.code)
    except Failure as failure:
        return fail(parser, str(failure), code=failure.code)
    except KeyboardInterrupt:
        return fail(parser, "interrupted", code=130)
    except Exception as error:
        if args.debug or not is_expected(error):
            raise
        return fail(parser, error_message(error))


def _add_common_options(parser: argparse.ArgumentParser, *, all_help: bool) -> None:
    group = parser.add_argument_group("other options")
    if all_help:
        group.add_argument("--help-all", action="store_true", help="show this help with the options of all heads")
    group.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="module or .py file with custom heads or datasets; may be repeated",
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; options may appear before, between and after other arguments."""
    # argparse does not support intermixed arguments for parsers with subparsers.
    has_commands = any(action.nargs == argparse.PARSER for action in parser._actions)
    return parser.parse_args(argv) if has_commands else parser.parse_intermixed_args(argv)


def is_expected(error: BaseException) -> bool:
    """Return True for errors that are reported without a traceback."""
    return isinstance(error, EXPECTED) or _is_out_of_memory(error) or bool(_lost_process(error))


def _is_out_of_memory(error: BaseException) -> bool:
    # Compare names, because torch is not imported here.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _lost_process(error: BaseException) -> str:
    """Return the message for the end of another process that this one needs; "" for other errors."""
    text = " ".join(str(error).split())
    if not isinstance(error, RuntimeError):
        return ""
    if text.startswith("DataLoader worker"):
        return (
            f"a data loader worker has ended ({text}). Usually, memory ran out: lower DATALOADER.NUM_WORKERS or "
            "SOLVER.IMS_PER_BATCH; NUM_WORKERS 0 shows other errors. Continue a training with --resume"
        )
    # Names and texts, because torch is not imported here.
    if type(error).__name__ in ("DistBackendError", "DistNetworkError") or ("gloo" in text and "onnect" in text):
        return f"the connection to another process of the training was lost. Continue with --resume ({text[:200]})"
    return ""


def fail(parser: argparse.ArgumentParser, message: str, code: int = 1) -> int:
    """Print the program name and a message to standard error; return the exit code."""
    with suppress(OSError):  # The terminal may have been closed.
        tqdm.write(printable(f"{Path(parser.prog).stem}: {message}", lines=True), file=sys.stderr)
    return code


def error_message(error: BaseException) -> str:
    """Return the message of an error, or its type if it has none."""
    if lost := _lost_process(error):
        return lost
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if _is_out_of_memory(error):
        return f"out of memory; use smaller batches or images. {text}".rstrip()
    return text or type(error).__name__


def import_user_modules(names: Iterable[str]) -> list[ModuleType]:
    """Import user modules by name or by file path.

    The folder of a file is added to ``sys.path``. Modules that are already imported are not imported again, so a
    process may call this function repeatedly. Configs cannot import modules.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a module does not exist, or a file has the name of another module.
    """
    return [_import_file(Path(name)) if _is_path(name) else _import_module(name) for name in names]


def _is_path(name: str) -> bool:
    return name.endswith(".py") or "/" in name or "\\" in name


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # The module exists, but one of its imports does not.
        raise ValueError(
            f"--import {name}: no module has this name; to import a file, specify its path including .py"
        ) from None


def _import_file(path: Path) -> ModuleType:
    path = path.resolve()
    source = path / "__init__.py" if path.is_dir() else path
    if not source.is_file():
        raise FileNotFoundError(f"--import {path}: the Python file does not exist")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = _import_module(path.stem)
    if module.__file__ is None or Path(module.__file__).resolve() != source:
        raise ValueError(
            f"--import {path}: the module name '{path.stem}' already belongs to {module.__file__}; rename the file"
        )
    return module
