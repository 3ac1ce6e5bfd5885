"""How every command line of the project ends: with its exit code, and with one sentence where a mistake stops it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .outside import import_outside
from .quiet import drop_mapping_notice, drop_pixel_notice
from .signals import Stopped

__all__ = ["EXPECTED", "fail", "run", "sentence"]

# What wrong options, configs, files and data raise, and trainings that diverge. Anything else is a fault of a program,
# and keeps its traceback.
EXPECTED = (OSError, ValueError, KeyError, FloatingPointError, MemoryError, torch.cuda.OutOfMemoryError)


def run(
    parser: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
    *,
    extend: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """Parse a command line and run it.

    Args:
        parser: gets the options ``--import`` and ``--debug``.
        main: takes the parsed options; may return an exit code.
        argv: by default those of the process.
        extend: adds options that depend on what is imported from outside the package.

    Returns:
        The exit code: 1 after an expected error, of which standard error gets one sentence (with ``--debug`` it is
        raised), 130 after Ctrl-C, and 143 after SIGTERM that a training noted.
    """
    for own in (first := argparse.ArgumentParser(add_help=False, allow_abbrev=False), parser):
        own.add_argument(
            "--import",
            dest="imports",
            action="append",
            default=[],
            metavar="MODULE_OR_FILE",
            help="import heads or data sets of yours first; may be given several times",
        )
        own.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args, _ = first.parse_known_args(argv)
    drop_mapping_notice()
    drop_pixel_notice()
    try:
        import_outside(args.imports)
        if extend is not None:
            extend(parser)
        args = parser.parse_args(argv)
        return main(args) or 0
    except EXPECTED as error:
        if args.debug:
            raise
        return fail(parser, sentence(error))
    except Stopped as stopped:
        return fail(parser, str(stopped), code=stopped.code)
    except KeyboardInterrupt:
        return fail(parser, "stopped", code=130)


def fail(parser: argparse.ArgumentParser, message: str, code: int = 1) -> int:
    """Print a message behind the name of the program; returns the exit code."""
    print(f"{Path(parser.prog).stem}: {message}", file=sys.stderr)
    return code


def sentence(error: BaseException) -> str:
    """What an error says, without its type where that adds nothing."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return f"out of memory; use smaller batches or images. {text}".rstrip()
    return text or type(error).__name__
