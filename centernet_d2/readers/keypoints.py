"""Pairs of left and right keypoints, which horizontal flipping swaps."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["are_coco_person_names", "flip_pairs_of", "pairs_from_order"]

_SIDED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
# COCO's keypoints of a person, in order, in lower case without separators.
_COCO_PERSON = ("nose", *(f"{side}{part}" for part in _SIDED for side in ("left", "right")))

# Substitutions from a left name to its right partner, applied in this order.
_SWAPS = (
    (re.compile(r"left"), "right"),
    (re.compile(r"Left"), "Right"),
    (re.compile(r"LEFT"), "RIGHT"),
    (re.compile(r"(?<![A-Za-z])l(?![a-z])"), "r"),
    (re.compile(r"(?<![A-Za-z])L(?![a-z])|(?<=[a-z])L(?![A-Za-z])"), "R"),
)


def are_coco_person_names(names: Sequence[str]) -> bool:
    """Return True if names are COCO's keypoints of a person.

    Any spelling is accepted, such as left_eye, LeftEye, left eye or l_eye.
    """

    def plain(name: str) -> str:
        words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
        return "".join({"l": "left", "r": "right"}.get(word, word) for word in words)

    return tuple(map(plain, names)) == _COCO_PERSON


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
