"""Safe display of text that comes from files."""

from __future__ import annotations

import logging
import re
import reprlib

__all__ = ["escape_record", "plural", "printable", "shown"]

# Control characters, line separators, characters that change the writing direction, and undecodable bytes.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROL_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Escape sequences around text that a program colors, such as tables of Detectron2.
_COLORS = re.compile("(\x1b\\[[0-9;]{1,8}m)([^\x1b]*)(\x1b\\[0m)")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60
_repr.maxdict = _repr.maxlist = 6
_repr.maxlevel = 2


def printable(text: object, *, lines: bool = False) -> str:
    """Replace characters that control a terminal or cannot be encoded with escapes.

    Args:
        text: a name or a message.
        lines: keep line breaks and tabs.
    """
    control = _CONTROL_IN_LINES if lines else _CONTROL
    return control.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def shown(value: object) -> str:
    """Return a short representation of any value, in bounded time."""
    return _repr.repr(value)


def escape_record(record: logging.LogRecord) -> bool:
    """Escape control characters in a log message; a filter for handlers."""
    parts = _COLORS.split(record.getMessage())  # text, color, colored text, reset, text, ...
    escaped = [part if index % 4 in (1, 3) else printable(part, lines=True) for index, part in enumerate(parts)]
    record.msg = "".join(escaped)
    record.args = ()
    return True


def plural(number: int, noun: str) -> str:
    """Return a number and a noun in singular or plural: 1 image, 2 images, 3 classes."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"
