"""Which keypoints a mirror swaps, told from their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["flip_pairs_of", "pairs_from_order"]

# Tried one after the other on a name; what comes out is its partner if a keypoint is called so.
_SWAPS = (
    (re.compile(r"left"), "right"),
    (re.compile(r"Left"), "Right"),
    (re.compile(r"LEFT"), "RIGHT"),
    (re.compile(r"(?<![A-Za-z])l(?![a-z])"), "r"),
    (re.compile(r"(?<![A-Za-z])L(?![a-z])|(?<=[a-z])L(?![A-Za-z])"), "R"),
)


def flip_pairs_of(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs such as left_eye and right_eye, leftear and rightear, l_hip and r_hip, LShoulder and RShoulder, hand_L.

    Only pairs of which both names are there; no name is in two.
    """
    pairs: list[tuple[str, str]] = []
    taken: set[str] = set()
    for name in names:
        for pattern, other in _SWAPS:
            partner = pattern.sub(other, name)
            if partner != name and partner in names and not {name, partner} & taken:
                pairs.append((name, partner))
                taken |= {name, partner}
    return tuple(pairs)


def pairs_from_order(names: Sequence[str], order: Sequence[int]) -> tuple[tuple[str, str], ...]:
    """Pairs from YOLO's ``flip_idx``: for each keypoint the index of the one that takes its place in a mirror.

    Raises:
        ValueError: the order does not swap pairs of these keypoints.
    """
    valid = sorted(order) == list(range(len(names))) and all(order[order[i]] == i for i in range(len(order)))
    if not valid:
        raise ValueError(f"flip_idx {list(order)} does not swap pairs of {len(names)} keypoints")
    return tuple((names[i], names[j]) for i, j in enumerate(order) if i < j)
