"""What names of files may say (no URL is fetched, a data set stays in its folder), and where the cache is."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["cache_folder", "check_local", "leaves"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def cache_folder() -> Path:
    """$CENTERNET_D2_CACHE, else $XDG_CACHE_HOME/centernet_d2, else ~/.cache/centernet_d2."""
    if own := os.environ.get("CENTERNET_D2_CACHE"):
        return Path(os.path.expanduser(own))
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "centernet_d2"


def check_local(path: str | Path, what: str) -> None:
    """Refuse a URL. Detectron2 would fetch some, of whatever a file or config names.

    Args:
        path: as a user, a config or a file gives it.
        what: it is, for the message.

    Raises:
        FileNotFoundError: it is a URL.
    """
    if _URL.match(str(path)):
        raise FileNotFoundError(f"{what} {path} is a URL, and nothing is downloaded: fetch the file, and give its path")


def leaves(name: str, folder: str | Path) -> bool:
    """Whether a relative name, read from a folder, leads out of the folder that this folder is in.

    ``../images/a.jpg`` does not, ``../../a.jpg`` does. Names alone are looked at; links may lead anywhere.
    """
    if os.path.isabs(name):
        return False
    folder = os.path.abspath(folder)
    root = os.path.dirname(folder)
    if root == os.path.dirname(root):  # The root of the file system holds everything.
        root = folder
    path = os.path.normpath(os.path.join(folder, name))
    return os.path.commonpath([root, path]) != root
