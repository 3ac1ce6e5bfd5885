"""Links, citations, commands and config keys in the documentation."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from centernet_d2.cli.detect import build_parser as demo_parser
from centernet_d2.cli.detection import add_property_arguments
from centernet_d2.cli.train import build_parser as train_parser
from centernet_d2.config.catalog import BUNDLED, find_config
from centernet_d2.config.keys import add_centernet_config
from centernet_d2.config.loading import flatten
from conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md"), *ROOT.glob("tests/*/*.md")])
# Citations in comments: (original.md: Heading, Other heading), possibly after other text and on several lines.
CITATION = re.compile(r"original\.md:(?!//)\s+([^;)`.]+)")


def headings(text):
    """Return the headings of a page, without code blocks."""
    return re.findall(r"^#+ (.+?)\s*$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), flags=re.M)


def anchor(heading):
    """Return the anchor that GitHub generates for a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def broken_links(page):
    """Yield links of a page to missing files or headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (fragment and fragment not in map(anchor, headings(file.read_text(encoding="utf-8")))):
            yield target


def unknown_citations(text, known):
    """Return the cited headings of original.md that do not exist, and the number of citations."""
    text = re.sub(r"\n\s*#?\s*", " ", text)
    cited = [name.strip(" .") for names in CITATION.findall(text) for name in names.split(", ")]
    return [name for name in cited if name not in known], len(cited)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_are_valid(page):
    assert list(broken_links(page)) == []


def test_broken_links_are_detected(tmp_path):
    (tmp_path / "b.md").write_text("# One (two), 3-D\n```\n# no heading\n```\n")
    page = tmp_path / "a.md"
    page.write_text("# A\n[x](#a) [y](b.md#one-two-3-d) [w](https://a.b/c)\n[z](c.md) [u](b.md#no-heading) [v](#b)\n")
    assert list(broken_links(page)) == ["c.md", "b.md#no-heading", "#b"]


def test_citations_of_original_md_are_valid():
    known = headings((ROOT / "docs" / "original.md").read_text(encoding="utf-8"))
    assert unknown_citations("x (paper, section 3;\n    # original.md: Radius, Nothing\n    # here).", known) == (
        ["Nothing here"],
        2,
    )
    total = 0
    for folder in ("centernet_d2", "configs", "examples", "tests", "tools"):
        for path in {*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.yaml")} - {Path(__file__).resolve()}:
            unknown, count = unknown_citations(path.read_text(encoding="utf-8"), known)
            assert unknown == [], path
            total += count
    assert total > 50


def test_config_page_lists_all_keys_and_defaults():
    cfg = get_cfg()
    detectron2_keys = dict(flatten(cfg))
    add_centernet_config(cfg)
    own_keys = {key: value for key, value in flatten(cfg) if key not in detectron2_keys}
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z][\w.]+)` \| `([^`]*)` \| \S", page, flags=re.M)
    assert sorted(key for key, _ in rows) == sorted(own_keys)
    for key, default in rows:
        value = list(own_keys[key]) if isinstance(own_keys[key], tuple) else own_keys[key]
        written = default if isinstance(value, str) and value else ast.literal_eval(default)
        assert (type(written), written) == (type(value), value), key


def commands(text):
    """Yield the command lines in the code blocks of a page as lists of words."""
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, flags=re.S | re.M)).replace("\\\n", " ")
    for line in blocks.splitlines():
        words = shlex.split(line, comments=True) if re.match(r"(python|centernet-(train|detect)) ", line) else []
        if len(words) > 1 and words[1] not in ("-c", "-m") and words[1] != "...":
            yield words[1:] if words[0] == "python" else [words[0], *words[1:]]


def parse(words):
    """Parse a command line of the project into (config file, overrides); argparse exits if it is invalid."""
    script, *arguments = words
    demo = script in ("demo.py", "centernet-detect")
    parser = demo_parser() if demo else train_parser()
    parser.add_argument("--import", dest="imports", action="append")
    if demo:
        add_property_arguments(parser)
    args = parser.parse_intermixed_args(arguments)
    return args.config_file, args.opts


def unknown_names(words, known):
    """Yield scripts, options, configs and config keys of a command that do not exist."""
    script = words[0]
    if script not in ("train_net.py", "demo.py", "centernet-train", "centernet-detect"):
        if script.startswith("detectron2/"):
            return
        if not (ROOT / script).is_file():
            yield script
            return
        text = (ROOT / script).read_text(encoding="utf-8")
        text += "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tools").glob("*/*.py"))
        yield from (word for word in words if word.startswith("--") and f'"{word}"' not in text)
        return
    config, opts = parse(words)
    # Configs of users and of runs do not exist here.
    if (
        config
        and config not in BUNDLED
        and "..." not in config
        and not re.search(r"mine|angle|^output/", config, flags=re.I)
    ):
        try:
            find_config(config)
        except FileNotFoundError:
            yield config
    yield from (key for key in opts[::2] if key not in known and key != "...")


def test_commands_on_pages_are_valid():
    cfg = get_cfg()
    add_centernet_config(cfg)
    known = dict(flatten(cfg))
    total = 0
    for page in PAGES:
        for words in commands(page.read_text(encoding="utf-8")):
            assert list(unknown_names(words, known)) == [], (page, words)
            total += 1
    assert total > 30


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("train_net.py --config-file Shapes/none.yaml", "Shapes/none.yaml"),
        ("train_net.py --data a SOLVER.MAX_ITERS 3", "SOLVER.MAX_ITERS"),
        ("tools/nothing.py a", "tools/nothing.py"),
        ("tools/draw_dataset.py shapes a --sizes 3", "--sizes"),
    ],
)
def test_invalid_commands_are_detected(line, wrong):
    assert list(unknown_names(line.split(), {"SOLVER.MAX_ITER": 0})) == [wrong]
    with pytest.raises(SystemExit):
        list(unknown_names(["train_net.py", "--no-such-option"], {}))
