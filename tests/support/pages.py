"""Checks of HTML pages: well-formed, without references to other files, and with valid images."""

import base64
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from PIL import Image

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Parser that requires matching tags, and collects tags, attributes and texts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def check_page(text):
    """Check a page and return its parser."""
    page = Page(text)
    assert "script" not in page.tags
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name, value in page.attributes:
        assert not name.startswith("on"), (name, value)
        if name in ("src", "href", "xlink:href", "data", "action"):
            assert value.startswith(("data:image/", "#")), value
            assert not value.startswith("#") or value[1:] in ids, value
    assert re.findall(r"url\((?!#)", text) == []
    assert "http" not in text
    for kind, data in re.findall(r"data:image/(\w+);base64,([A-Za-z0-9+/=]+)", text):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            image.load()
            assert image.format == {"jpeg": "JPEG", "png": "PNG"}[kind]
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
    return page
