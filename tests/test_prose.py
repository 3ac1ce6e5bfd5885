"""Measurable rules of prose: first lines of docstrings, and American spelling."""

import ast
import re

import pytest

from conftest import ROOT

FOLDERS = ("centernet_d2", "tools", "examples", "configs")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LONGEST = 79
# Openings of subordinate clauses.
CLAUSES = {"What", "Which", "Whether", "How", "Where", "When", "Why", "That", "Who", "Whose", "By", "So", "If", "As"}
# First words of docstrings of functions: imperatives.
VERBS = frozenset(
    """
    Accumulate Activate Add Aggregate Align Allow Append Apply Ask Assign Attach Augment Average Bound Build Cache
    Calculate Call Change Check Choose Clamp Clean Clip Close Collect Combine Compare Compile Complete Compute
    Concatenate Configure Convert Copy Count Create Crop Decay Decide Decode Decrease Defer Define Derive Describe
    Detach Detect Determine Disable Discard Discover Download Draw Drop Emit Encode End Ensure Enter Escape Estimate
    Evaluate Execute Exit Expand Export Extend Extract Fetch Fill Filter Find Finish Fit Flip Fold Format Freeze
    Gather Generate Group Handle Hold Identify Ignore Import Increase Infer Initialize Inspect Interpolate Invert
    Iterate Join Keep Limit Link List Load Locate Lock Log Look Lower Make Map Mark Mask Match Measure Merge Mirror
    Move Multiply Name Normalize Open Orthogonalize Overlay Pad Paint Parse Pass Pick Place Plan Prepare Preprocess
    Print Probe Process Project Propose Provide Put Query Raise Read Rebuild Recompute Record Recover Reduce Refuse
    Register Reject Release Remove Rename Render Repair Repeat Replace Report Reset Reshape Resize Restore Resume
    Return Rotate Round Run Sample Save Scale Scatter Search Select Send Serialize Set Shift Show Skip Snap Solve
    Sort Split Spread Stack Start Stop Store Subtract Sum Summarize Suppress Swap Synchronize Take Test Time
    Tokenize Trace Train Transform Translate Try Undo Unflip Unpack Update Use Validate Verify Visualize Wait Warn
    Warp Watch Weight Wrap Write Yield Zip
    """.split()  # noqa: SIM905
)
BRITISH = re.compile(
    r"\b(\w*colour\w*|grey\w*|neighbour\w*|labell\w+|unlabell\w+|behaviour\w*|normalis\w+|centred?|centres|"
    r"cancell\w+|initialis\w+|recognis\w+|optimis\w+|serialis\w+|visualis\w+|metres?|licence[sd]?|catalogue\w*|artefact\w*|"
    r"analys(?:e|ed|ing)|travell\w+|modell\w+|honour\w*|favour\w*|parametris\w+|orthogonalis\w+|organis\w+|summaris\w+)\b",
    re.IGNORECASE,
)


def docstrings(path):
    """(kind, name, docstring) of the public definitions of a module; kind is module, class, property or function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if text := ast.get_docstring(tree):
        yield "module", path.stem, text
    yield from _members(tree)


def _members(parent):
    for node in parent.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
            continue
        if text := ast.get_docstring(node):
            names = {getattr(one, "id", getattr(one, "attr", "")) for one in node.decorator_list}
            kind = "property" if names & {"property", "cached_property"} else "function"
            yield ("class" if isinstance(node, ast.ClassDef) else kind), node.name, text
        if isinstance(node, ast.ClassDef):
            yield from _members(node)


def faults(kind, text):
    """Return what is wrong with the first line of a docstring."""
    first = text.splitlines()[0]
    word = re.split(r"[\s,.;:(]", first, maxsplit=1)[0]
    if first in ("Args:", "Raises:"):  # The docstring of the class describes the constructor; an override adds errors.
        return []
    found = [f"{len(first)} characters"] if len(first) > LONGEST else []
    if word in CLAUSES and not (kind == "function" and word in VERBS):
        found.append(f"opens with {word}")
    elif kind == "function" and word not in VERBS:
        found.append(f"{word} is no known imperative")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_first_lines_are_imperatives_or_noun_phrases(path):
    wrong = [f"{name}: {', '.join(bad)}" for kind, name, text in docstrings(path) if (bad := faults(kind, text))]
    assert wrong == []


def test_faults_are_found():
    assert faults("function", "What it is.") == ["opens with What"]
    assert faults("function", "The size.") == ["The is no known imperative"]
    assert faults("function", "Return the size.\n\nMore.") == []
    assert faults("class", "How it works.") == ["opens with How"]
    assert faults("property", "Number of classes.") == []
    assert faults("module", "x" * 80) == ["80 characters"]


def spelled(path):
    """Text of a file without names of other projects' keys and files."""
    return re.sub(r"`[^`\n]*`|labelled_classes|https?://\S+", "", path.read_text(encoding="utf-8"))


def files_with_prose():
    suffixes = {".py", ".md", ".yaml", ".toml"}
    folders = [ROOT / name for name in (*FOLDERS, "docs", "tests", ".ci", ".github")]
    inside = [path for folder in folders for path in folder.rglob("*") if path.suffix in suffixes]
    return sorted(
        {*inside, *(path for path in ROOT.glob("*") if path.suffix in suffixes)} - {ROOT / "tests/test_prose.py"}
    )


def test_spelling_is_american():
    found = {
        path.relative_to(ROOT).as_posix(): sorted({match[0] for match in BRITISH.finditer(spelled(path))})
        for path in files_with_prose()
    }
    assert {name: words for name, words in found.items() if words} == {}
