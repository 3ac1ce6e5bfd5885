import logging
import os

import pytest

from centernet_d2.utils.text import escape_record, plural, printable, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("naïve 猫 👩\u200d🚀", "naïve 猫 👩\u200d🚀"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\u202egpj.exe\u2028", r"\u202egpj.exe\u2028"),
        (os.fsdecode(b"\xff.png"), r"\udcff.png"),
    ],
)
def test_control_characters_are_escaped(text, expected):
    assert printable(text) == expected
    printable(text).encode()


def test_lines_are_kept():
    assert printable("a\n\tb\r\x1b", lines=True) == "a\n\tb\\r\\x1b"


def test_short_representation():
    value = []
    for _ in range(100):
        value = [value] * 20
    assert len(shown(value)) < 500
    assert len(shown("a" * 10**6)) <= 60
    assert len(shown(10**4000)) <= 60
    assert shown([1, 2.5, "x"]) == "[1, 2.5, 'x']"


def test_log_messages_are_escaped_and_stay_colored():
    table = "\x1b[36m| a |\n| \u009b1m |\x1b[0m"
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s in %s", (table, "\x1b]0;title\x07"), None)
    assert escape_record(record)
    assert record.getMessage() == "\x1b[36m| a |\n| \\x9b1m |\x1b[0m in \\x1b]0;title\\x07"


def test_plural():
    assert [plural(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [plural(number, "class") for number in (1, 3)] == ["1 class", "3 classes"]
