"""Reference of a command line in Markdown, generated from its argument parser."""

from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from importlib import import_module

__all__ = ["describe_command"]


def describe_command(name: str) -> str:
    """Return the usage, options and examples of a command in Markdown."""
    parser = import_module(f"centernet_d2.cli.{name}").build_parser()
    parser.prog = f"centernet-{name}"
    return "\n".join(_describe(parser))


def _describe(parser: ArgumentParser) -> Iterator[str]:
    yield f"{parser.description[:1].upper()}{parser.description[1:].removesuffix('.')}.\n"
    if parser.usage:
        lines = (line.strip() for line in parser.usage.replace("%(prog)s", parser.prog).splitlines())
        yield "\n".join(["```", *lines, "```\n"])
    commands = [action for action in parser._actions if isinstance(action, _SubParsersAction)]
    if not commands:
        yield from _table(parser)
    for command in commands:
        for name, subparser in command.choices.items():
            subparser.prog = f"{parser.prog} {name}"
            yield f"### {subparser.prog}\n"
            yield from _describe(subparser)
    if parser.epilog:
        examples = parser.epilog.removeprefix("examples:\n").replace("%(prog)s", parser.prog)
        yield "\n".join(["Examples:\n", "```", *(line.strip() for line in examples.splitlines()), "```\n"])


def _table(parser: ArgumentParser) -> Iterator[str]:
    """Yield a table of all options except ``--help``, which starts a group of options with its title."""
    formatter = parser._get_formatter()
    yield "| option | effect |\n|---|---|"
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if "--help" not in action.option_strings]
        if actions and group.title not in ("options", "positional arguments"):
            yield f"| **{group.title}** | |"
        for action in actions:
            text = formatter._expand_help(action)
            yield f"| `{formatter._format_action_invocation(action)}` | {_escape(text)} |"
    yield ""


def _escape(text: str) -> str:
    """Return the text without Markdown syntax."""
    return "".join(f"\\{character}" if character in "|<>*_[]`\\" else character for character in text)
