"""Bounded and strict parsing of YAML, JSON and XML, for files of any origin."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn
from xml.parsers import expat

import yaml

from .text import shown

__all__ = ["parse_json", "parse_xml", "parse_yaml"]

_DEEPEST = 100
_TOO_DEEP = f"it is nested deeper than {_DEEPEST} levels"
_LARGEST_YAML = 8 << 20  # In characters.
_MOST_NODES = 500_000
_LONGEST_NUMBER = 100


# The loader of libyaml is 7 times as fast, but does not read escapes for file names that are not UTF-8.
_StringLoader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def parse_yaml(text: str, *, strings: bool = False) -> Any:
    """Parse a YAML document without tags of Python.

    Args:
        text: the document.
        strings: keep all scalars as strings, so that names such as no or 007 are unchanged.

    Raises:
        ValueError: the text is not YAML, contains a key twice, or exceeds a limit of size, depth or, with aliases
            expanded, number of values.
    """
    if len(text) > _LARGEST_YAML:
        raise ValueError(f"it has more than {_LARGEST_YAML >> 20} million characters")
    try:
        loader = (_StringLoader if strings else yaml.SafeLoader)(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return the number of nodes and the depth below a node, with aliases expanded.

    Args:
        node: node to check and measure.
        known: results by the id of the node; (0, 0) for nodes that are being measured.

    Raises:
        ValueError: the node contains itself or a key twice, or exceeds a limit.
    """
    if id(node) in known:
        if known[id(node)] == (0, 0):
            raise ValueError(f"line {node.start_mark.line + 1} contains itself")
        return known[id(node)]
    known[id(node)] = (0, 0)
    children: Sequence[yaml.Node] = ()
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
        _check_unique([(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    elif node.tag.endswith((":int", ":float")) and len(node.value) > _LONGEST_NUMBER:
        raise ValueError(f"line {node.start_mark.line + 1}: a number has {len(node.value)} characters")
    sizes = [_measure(child, known) for child in children]
    count, depth = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    if count > _MOST_NODES:
        raise ValueError(f"it has more than {_MOST_NODES} values")
    if depth > _DEEPEST:
        raise ValueError(_TOO_DEEP)
    known[id(node)] = (count, depth)
    return count, depth


def _check_unique(keys: Sequence[tuple[str, str]]) -> None:
    if len(set(keys)) < len(keys):
        twice = next(key for (_, key), count in Counter(keys).items() if count > 1)
        raise ValueError(f"it contains the key {shown(twice)} twice")


def parse_json(text: str) -> Any:
    """Parse a JSON document.

    NaN and Infinity, which Python's json module writes, are allowed.

    Raises:
        ValueError: the text is not JSON, is nested too deep, or contains an integer with thousands of digits or an
            object with the same key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        _check_unique([("", key) for key, _ in pairs])
    return content


def parse_xml(text: str) -> ET.Element:
    """Parse an XML document.

    Raises:
        ValueError: the text is not XML, declares or uses entities, or is nested too deep.
    """
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate("utf-8")
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(_TOO_DEEP)
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> NoReturn:  # The expansion of entities can exhaust the memory.
        raise ValueError("it declares or uses entities")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.EntityDeclHandler = parser.SkippedEntityHandler = refuse
    try:
        parser.Parse(text.encode(errors="surrogatepass"), True)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from error
    return builder.close()
