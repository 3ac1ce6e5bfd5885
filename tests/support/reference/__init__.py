"""Checks of recorded files of the reference implementation, registered by name pattern."""

from fnmatch import fnmatch

from . import (  # noqa: F401 - register checks
    box3d,
    boxes3d,
    comparison,
    decode,
    kitti,
    losses,
    networks,
    pipeline,
    pose,
    post,
    soft_nms,
    targets,
)
from .comparison import CHECKS, Comparison

__all__ = ["Comparison", "find_check"]

NOT_BUILT = ("*dense*", "*normwh*")


def find_check(kind):
    """Return the check of a file such as "decode/ctdet_reg.npz", or None and the reason."""
    if any(fnmatch(kind, pattern) for pattern in NOT_BUILT):
        return None, "not built"
    for pattern, check in CHECKS:
        if fnmatch(kind, pattern):
            return check, ""
    return None, "not built yet"
