"""Heatmaps: painting objects, reading peaks (paper, section 3 and 4; original.md: Radius, Gaussian, Peaks).

Maps are (B, C, H, W); positions are (x, y) in map pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "RADIUS_POLICIES",
    "gaussian_profiles",
    "gaussian_radius",
    "paint_gaussians",
    "paint_max",
    "peak_filter",
    "top_peaks",
]

RADIUS_POLICIES = ("original", "corrected")

# Elements of the largest temporary tensor while painting: 4M, or 16 MB in float32.
_PAINT_ELEMENTS = 1 << 22
# Smaller objects get smaller windows of their own if that saves so many elements; below, one more pass costs more.
_MIN_SAVED_ELEMENTS = 1 << 13


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
    rows, columns = (torch.arange(length, device=cells.device) for length in size)
    return _profile(rows - cells[:, 1:], radius), _profile(columns - cells[:, :1], radius)


def _profile(distance: Tensor, radius: Tensor) -> Tensor:
    """The factor of (N,) Gaussians along an axis at (N, L) integer distances from their peaks."""
    sigma = (2 * radius[:, None] + 1) / 6
    # At the corner of the window the value is above exp(-9), so the original's cut at machine epsilon never acts.
    return torch.exp(-(distance**2) / (2 * sigma**2)) * (distance.abs() <= radius[:, None])


def paint_gaussians(
    canvas: Tensor, planes: Tensor, cells: Tensor, radius: Tensor, chosen: Tensor, radius_cpu: Tensor | None
) -> Tensor:
    """Paint Gaussians over each other, keeping the largest value of every pixel; temporaries as in :func:`paint_max`.

    Each is painted in a window around it. How large windows must be is asked of the CPU, never of another device, which
    would have to be waited for; if the CPU does not know, windows are as large as the map.

    Args:
        canvas: (P, H, W), contiguous, changed in place.
        planes: (N,) index of the plane of each object.
        cells, radius: see :func:`gaussian_profiles`.
        chosen: (N,) bool; the others are not painted.
        radius_cpu: (N,) on the CPU, the radius again. None: only the device knows it.

    Returns:
        The canvas.
    """
    height, width = canvas.shape[1:]
    if radius_cpu is None:
        rows, columns = gaussian_profiles(cells, radius, (height, width))
        return paint_max(canvas, planes, rows * chosen[:, None], columns)
    for largest, objects in _group_by_radius(radius_cpu):
        sides = [min(2 * largest + 1, length) for length in (height, width)]
        for part in objects.to(cells.device, non_blocking=True).split(max(1, _PAINT_ELEMENTS // (sides[0] * sides[1]))):
            own, spread = cells[part], radius[part]
            rows, columns = (
                (peak[:, None] - largest).clamp(min=0, max=length - side) + torch.arange(side, device=peak.device)
                for peak, side, length in zip((own[:, 1], own[:, 0]), sides, (height, width), strict=True)
            )
            profile = _profile(rows - own[:, 1:], spread) * chosen[part, None]
            shapes = profile[:, :, None] * _profile(columns - own[:, :1], spread)[:, None]
            index = ((planes[part, None] * height + rows) * width)[:, :, None] + columns[:, None]
            canvas.view(-1).scatter_reduce_(0, index.flatten(), shapes.flatten(), "amax")
    return canvas


def _group_by_radius(radius_cpu: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Split objects into groups that are painted together: the largest radius of each, and the indices of its objects.

    Args:
        radius_cpu: (N,) integer radii on the CPU.
    """
    rest = torch.arange(len(radius_cpu))
    while len(rest):
        largest = int(radius_cpu.max())
        half = largest // 2
        large = radius_cpu > half
        saved = int((~large).sum()) * ((2 * largest + 1) ** 2 - (2 * half + 1) ** 2)
        if saved <= _MIN_SAVED_ELEMENTS:
            large = torch.ones_like(large)
        yield largest, rest[large]
        rest, radius_cpu = rest[~large], radius_cpu[~large]


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
