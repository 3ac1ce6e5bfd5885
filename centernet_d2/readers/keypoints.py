"""Pairs of left and right keypoints, which horizontal flipping swaps."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["flip_pairs_of", "pairs_from_order"]

# Substitutions from a left name to its right partner, applied in this order.
_SWAPS = (
    (re.compile(r"left"), "right"),
    (re.compile(r"Left"), "Right"),
    (re.compile(r"LEFT"), "RIGHT"),
    (re.compile(r"(?<![A-Za-z])l(?![a-z])"), "r"),
    (re.compile(r"(?<![A-Za-z])L(?![a-z])|(?<=[a-z])L(?![A-Za-z])"), "R"),
)


def flip_pairs_of(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Find pairs of left and right keypoints by their names.

    Examples: left_eye and right_eye, leftear and rightear, l_hip and r_hip, LShoulder and RShoulder, hand_L and
    hand_R. Both names must be in `names`, and every name is in at most one pair.
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
    """Convert YOLO's ``flip_idx`` to pairs of names.

    Args:
        names: keypoint names.
        order: index of every keypoint after horizontal flipping.

    Raises:
        ValueError: the order is not a permutation that swaps pairs of these keypoints.
    """
    valid = sorted(order) == list(range(len(names))) and all(order[order[i]] == i for i in range(len(order)))
    if not valid:
        raise ValueError(f"flip_idx {list(order)} does not swap pairs of {len(names)} keypoints")
    return tuple((names[i], names[j]) for i, j in enumerate(order) if i < j)
