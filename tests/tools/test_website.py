"""Navigation of the documentation site, and its reference of command lines."""

import importlib
import json
import re

import pytest
import yaml

from conftest import ROOT
from website.commands import describe_command
from website.notebook import describe_notebook

COMMANDS = re.findall(r"^centernet-(\w+) = ", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.M)


def leaves(items):
    """Yield the pages of a navigation."""
    for item in items:
        for value in item.values():
            yield from [value] if isinstance(value, str) else leaves(value)


def test_navigation_lists_all_pages_once():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/*.md")]
    found += [path.with_suffix(".md") for path in ROOT.glob("docs/*.ipynb")]
    pages = {path.relative_to(ROOT).as_posix() for path in found} - {"README.md"}
    assert sorted(leaves(nav)) == sorted(pages)


def test_reference_contains_all_commands():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^<!-- options of centernet-(\w+) -->$", page, flags=re.M)) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_reference_lists_the_options_of_the_help_screen(name):
    parser = importlib.import_module(f"centernet_d2.cli.{name}").build_parser()
    reference = describe_command(name)
    options = set(re.findall(r"(?<!\S)--[a-z][\w-]*", parser.format_help())) - {"--help"}
    listed = set(re.findall(r"^\| `.*?(--[a-z][\w-]*)[ `]", reference, flags=re.M))
    assert options <= listed
    assert len(listed) >= 2


def test_notebook_is_shown_with_its_outputs(tmp_path):
    outputs = [{"text": ["1\n", "2\n"]}, {"data": {"image/jpeg": "abc\n", "text/plain": "<Image>"}}]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": ["print(1)\n", "print(2)"], "outputs": outputs},
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    title, download, code, text, image = describe_notebook(path).strip().split("\n\n")
    assert title == "# Title\ntext"
    assert 'href="a.ipynb"' in download
    assert code == "```python\nprint(1)\nprint(2)\n```"
    assert text == "```text\n1\n2\n```"
    assert image == '<img alt="output of the cell" src="data:image/jpeg;base64,abc">'
