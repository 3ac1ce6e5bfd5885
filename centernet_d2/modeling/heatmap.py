"""Heatmaps: painting objects, reading peaks (paper, section 3 and 4; original.md: Radius, Gaussian, Peaks).

Maps are (B, C, H, W); positions are (x, y) in map pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["RADIUS_POLICIES", "gaussian_profiles", "gaussian_radius", "paint_max", "peak_filter", "top_peaks"]

RADIUS_POLICIES = ("original", "corrected")

# Elements of the largest temporary tensor while painting: 4M, or 16 MB in float32.
_PAINT_ELEMENTS = 1 << 22


def gaussian_radius(height: Tensor, width: Tensor, policy: str = "original", min_overlap: float = 0.7) -> Tensor:
    """How far a corner may be off while the box still overlaps the true one by `min_overlap` (original.md: Radius).

    The three cases (one corner inside and one outside, both inside, both outside) each give a quadratic equation.
    "original" takes the roots as all released models were trained with: without the division by 2a, and the larger one
    in the first two cases, so that the third always decides. "corrected" takes the roots that were meant.

    Args:
        height, width: (N,) size of the boxes in map pixels.
        policy: "original" or "corrected".
        min_overlap: intersection over union.

    Returns:
        (N,) float64, not truncated; may be negative by rounding.
    """
    height, width = height.double(), width.double()
    total, area = height + width, height * width
    root1 = (total**2 - 4 * area * (1 - min_overlap) / (1 + min_overlap)).clamp(min=0).sqrt()
    root2 = (4 * total**2 - 16 * (1 - min_overlap) * area).clamp(min=0).sqrt()
    root3 = ((2 * min_overlap * total) ** 2 + 16 * min_overlap * (1 - min_overlap) * area).sqrt()
    if policy == "original":
        radii = (total + root1) / 2, (2 * total + root2) / 2, (root3 - 2 * min_overlap * total) / 2
    elif policy == "corrected":
        radii = (
            (total - root1) / 2,
            (2 * total - root2) / 8,
            (root3 - 2 * min_overlap * total) / (8 * min_overlap),
        )
    else:
        raise ValueError(f"policy is {policy!r}, known: {', '.join(RADIUS_POLICIES)}")
    return torch.stack(radii).amin(dim=0)


def gaussian_profiles(cells: Tensor, radius: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The two factors of each object's Gaussian, sigma = (2 r + 1) / 6, cut off at the radius (original.md: Gaussian).

    Args:
        cells: (N, 2) integer (x, y) of the peaks.
        radius: (N,) integers.
        size: height and width of the map.

    Returns:
        (N, H) profile along y and (N, W) profile along x; 1 at the peak.
    """

    def profile(peak: Tensor, length: int) -> Tensor:
        distance = torch.arange(length, device=cells.device) - peak[:, None]
        sigma = (2 * radius[:, None] + 1) / 6
        # At the corner of the window the value is above exp(-9), so the original's cut at machine epsilon never acts.
        return torch.exp(-(distance**2) / (2 * sigma**2)) * (distance.abs() <= radius[:, None])

    return profile(cells[:, 1], size[0]), profile(cells[:, 0], size[1])


def paint_max(canvas: Tensor, planes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Paint separable shapes over each other, keeping the largest value of every pixel.

    Works on all objects of a batch at once, in chunks of fixed size: temporaries stay below 64 MB for any number of
    objects (and maps of up to 4M pixels), apart from the profiles themselves.

    Args:
        canvas: (P, H, W), changed in place.
        planes: (N,) index of the plane of each object.
        rows: (N, H) and
        columns: (N, W): the shape of object n is the outer product of rows[n] and columns[n].

    Returns:
        The canvas.
    """
    chunk = max(1, _PAINT_ELEMENTS // (canvas.shape[1] * canvas.shape[2]))
    for start in range(0, len(planes), chunk):
        part = slice(start, start + chunk)
        shapes = rows[part, :, None] * columns[part, None, :]
        canvas.scatter_reduce_(0, planes[part, None, None].expand_as(shapes), shapes, "amax")
    return canvas


def peak_filter(heatmap: Tensor) -> Tensor:
    """Set everything but the maxima of 3x3 neighbourhoods to 0; equal neighbours all survive."""
    return heatmap * (F.max_pool2d(heatmap, kernel_size=3, stride=1, padding=1) == heatmap)


def top_peaks(heatmap: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k best peaks of each image over all classes (original.md: Peaks).

    Shapes are fixed by the inputs, so this can be exported. If the maps have fewer than k cells in all, there are as
    many peaks as cells.

    Args:
        heatmap: (B, C, H, W) probabilities.
        k: number of peaks.

    Returns:
        (B, K) scores in descending order, (B, K) classes and (B, K, 2) integer cells (x, y).
    """
    classes, height, width = heatmap.shape[1:]
    cells = height * width
    # First within each class, which keeps the second, global selection small.
    scores, index = peak_filter(heatmap).flatten(2).topk(min(k, cells), dim=2)
    per_class = scores.shape[2]
    scores, best = scores.flatten(1).topk(min(k, classes * per_class), dim=1)
    index = index.flatten(1).gather(1, best)
    return scores, best // per_class, torch.stack([index % width, index // width], dim=2)
