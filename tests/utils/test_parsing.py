import json
import math

import pytest

from centernet_d2.utils.parsing import parse_json, parse_xml, parse_yaml

# Ten levels of ten aliases each: 10**10 values.
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
# Merge keys double the number of keys at each level.
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 500000 values"),
        (MERGES, "more than 500000 values"),
        (f"a: {'[' * 3000}", "nested deeper than 100 levels"),
        (f"{'- ' * 3000}a", "nested deeper than 100 levels"),
        ("".join(f"{' ' * i}a:\n" for i in range(300)), "nested deeper than 100 levels"),
        ("a0: &a0 [[[[[[x]]]]]]\n" + "".join(f"a{i}: &a{i} [[*a{i - 1}]]\n" for i in range(1, 60)), "nested deeper"),
        ("a: &a {b: *a}", "line 1 contains itself"),
        ("a: &a\n- *a\n", "line 1 contains itself"),
        ("a: 1\nb: 2\na: 3\n", "the key 'a' twice"),
        (f"a: {'9' * 5000}", "a number has 5000 characters"),
        (f"a: {'1:' * 5000}1", "a number has 10001 characters"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: [", "while parsing"),
        ("? [a]\n: b", "found unhashable key"),
        ("a: 2020-99-99", "month must be in 1..12"),
        ("# \x1b", "special characters are not allowed"),
        (" " * (9 << 20), "more than 8 million characters"),
    ],
)
def test_invalid_yaml(text, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


@pytest.mark.parametrize("text", [BOMB, MERGES, f"a: {'[' * 3000}", f"{'- ' * 3000}a", "a: &a {b: *a}", "{a: 1, a: 1}"])
def test_invalid_yaml_with_strings(text):
    with pytest.raises(ValueError, match="500000 values|nest|contains itself|twice"):
        parse_yaml(text, strings=True)


def test_yaml():
    text = "a: &a {b: no, c: 007}\nd: [*a, *a, 1.5]\n"
    assert parse_yaml(text) == {"a": {"b": False, "c": 7}, "d": [{"b": False, "c": 7}, {"b": False, "c": 7}, 1.5]}
    assert parse_yaml(text, strings=True)["a"] == {"b": "no", "c": "007"}
    assert parse_yaml("") is None
    assert parse_yaml(f"a: {'[' * 98}{']' * 98}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' twice"),
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 100_000, "nested deeper"),
        (f"[{'9' * 5000}]", "4300 digits"),
        ("{'a': 1}", "Expecting property name"),
    ],
)
def test_invalid_json(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_json():
    assert parse_json('{"a": [1, "b", {}]}') == {"a": [1, "b", {}]}
    assert parse_json("[1e999]") == [math.inf]
    assert math.isnan(parse_json("NaN"))


ENTITY = '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTITY, "it declares or uses entities"),
        ('<!DOCTYPE a [<!ENTITY % x "y">]><a/>', "it declares or uses entities"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a>&x;</a>', "it declares or uses entities"),
        ("<a>&x;</a>", "undefined entity"),
        ("<a>" * 1000, "nested deeper than 100 levels"),
        ('<a b="1" b="2"/>', "duplicate attribute"),
        ("<a>\0</a>", "not well-formed"),
        ("<a>\ud800</a>", "not well-formed"),
        ("", "no element found"),
        ("<a/><b/>", "junk after document element"),
    ],
)
def test_invalid_xml(text, message):
    with pytest.raises(ValueError, match=message):
        parse_xml(text)


def test_xml():
    root = parse_xml('<a b="c"><d>é &amp; <![CDATA[<]]></d>e</a>')
    assert (root.tag, root.attrib, root.findtext("d"), root[0].tail) == ("a", {"b": "c"}, "é & <", "e")


def test_large_json_is_fast():
    text = json.dumps([{"id": index, "name": str(index)} for index in range(100_000)])
    assert len(parse_json(text)) == 100_000
