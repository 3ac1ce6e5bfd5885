"""Exact and near duplicates across splits, found by a perceptual hash."""

from __future__ import annotations

import filecmp
import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["find_duplicates", "hash_image"]

SIDE = 16
# Largest number of different bits (of 256) and difference of mean gray values of near duplicates.
MOST_BITS = 10
MOST_GRAY = 6.0
# Images per split that are compared; more are sampled.
MOST_IMAGES = 2000
_LISTED = 50


def hash_image(path: str) -> np.ndarray | None:
    """Return the perceptual hash of an image; None if it cannot be read.

    The hash contains 256 signs of horizontal gray differences of a 17 x 16 thumbnail, and its mean.
    """
    try:
        with Image.open(path) as image:
            image.draft("L", (4 * SIDE, 4 * SIDE))  # JPEG files are decoded at reduced size.
            gray = image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    pixels = np.asarray(gray, dtype=np.float32)
    return np.append(np.where(pixels[:, 1:] > pixels[:, :-1], 1.0, -1.0).ravel(), pixels.mean()).astype(np.float32)


def find_duplicates(splits: Mapping[str, Sequence[str]], rng: np.random.Generator) -> dict[str, Any]:
    """Compare the images of all pairs of splits.

    Args:
        splits: name -> image files.
        rng: selects MOST_IMAGES images of larger splits.

    Returns:
        ``compared``, the number of images per split, and ``pairs``: the splits, the numbers of exact and near
        duplicates, and the first pairs of files.
    """
    hashes = {}
    for name, files in splits.items():
        chosen = sorted(rng.choice(len(files), MOST_IMAGES, replace=False)) if len(files) > MOST_IMAGES else None
        kept = [files[index] for index in chosen] if chosen is not None else list(files)
        with ThreadPoolExecutor(4) as pool:
            found = [(file, one) for file, one in zip(kept, pool.map(hash_image, kept), strict=True) if one is not None]
        hashes[name] = [file for file, _ in found], np.array([one for _, one in found]).reshape(-1, SIDE * SIDE + 1)
    results = []
    for first, second in itertools.combinations(hashes, 2):
        files, others = hashes[first][0], hashes[second][0]
        rows, columns = _near(hashes[first][1], hashes[second][1])
        pairs = [(files[row], others[column]) for row, column in zip(rows, columns, strict=True)]
        exact = [filecmp.cmp(*pair, shallow=False) for pair in pairs]
        listed = [{"files": list(pair), "exact": same} for pair, same in zip(pairs, exact, strict=True)]
        listed.sort(key=lambda one: not one["exact"])
        number = sum(exact)
        results.append(
            {"splits": [first, second], "exact": number, "near": len(pairs) - number, "files": listed[:_LISTED]}
        )
    return {"compared": {name: len(files) for name, (files, _) in hashes.items()}, "pairs": results}


def _near(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of all pairs of similar hashes."""
    # The dot product of signs is the number of equal bits minus the number of different bits.
    least = SIDE * SIDE - 2 * MOST_BITS
    similar = first[:, :-1] @ second[:, :-1].T >= least
    similar &= np.abs(first[:, -1:] - second[:, -1]) <= MOST_GRAY
    rows, columns = np.nonzero(similar)
    return rows, columns
