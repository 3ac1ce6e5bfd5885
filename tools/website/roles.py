"""Griffe extension that converts roles of docstrings to Markdown."""

import re
from typing import Any

from griffe import Extension, Object

__all__ = ["Roles"]

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`[~.]*([^`]+)`")


class Roles(Extension):
    """Converter of roles of reStructuredText, which become code."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Convert the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value).replace("::\n", ":\n")
