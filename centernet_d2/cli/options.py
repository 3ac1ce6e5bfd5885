"""Help screens and options shared by the commands."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from typing import Any

from ..config.catalog import BUNDLED, RELEASED, available

__all__ = ["CONFIG_HELP", "add_list_models", "add_overrides", "import_detectron2", "new_parser"]

CONFIG_HELP = "a file, or a name (see --list-models)"


def import_detectron2(_: argparse.Namespace) -> None:
    """Import Detectron2 without its notices, before all other slow imports."""
    from ..config import dependency  # noqa: F401


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help screens of at most 98 columns."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=28, width=min(shutil.get_terminal_size().columns, 100) - 2, **options)


def new_parser(summary: str, usage: Sequence[str], examples: Sequence[str]) -> argparse.ArgumentParser:
    """Build a parser without options.

    Args:
        summary: first lines of the help screen.
        usage: argument patterns, without the name of the program.
        examples: arguments of complete commands, without the name of the program.
    """
    return argparse.ArgumentParser(
        description=summary,
        usage="\n       ".join(f"%(prog)s {pattern}" for pattern in usage),
        epilog="examples:\n" + "\n".join(f"  %(prog)s {example}" for example in examples),
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )


def add_overrides(parser: argparse._ActionsContainer) -> None:
    """Add the option ``--opts`` with config overrides."""
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar=("KEY", "VALUE"), help="config overrides, such as MODEL.DEVICE cpu"
    )


def add_list_models(parser: argparse._ActionsContainer) -> None:
    """Add the option ``--list-models``, which prints the names of the model zoo."""
    parser.add_argument("--list-models", action=_ListModels, help="list the names of configs and weights, and exit")


class _ListModels(argparse.Action):
    """Option that prints the names of the model zoo and exits."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        sections = {
            "models in this package": BUNDLED,
            "weights of the reference implementation, downloaded on first use": [one.name for one in RELEASED],
            "configs": available(),
        }
        for title, names in sections.items():
            print(f"{title}:", *names, sep="\n  ")
        parser.exit()
