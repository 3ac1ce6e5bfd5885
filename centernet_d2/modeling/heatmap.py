"""Rendering of heatmaps and extraction of peaks.

Maps are (B, C, H, W); positions are (x, y) in map pixels (paper, sections 3 and 4; original.md: Radius, Gaussian,
Peaks).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..imaging.geometry import is_captured

__all__ = [
    "RADIUS_POLICIES",
    "best_peaks",
    "gaussian_profiles",
    "gaussian_radius",
    "paint_gaussians",
    "paint_max",
    "peak_filter",
    "smaller_size",
    "to_cells",
    "top_peaks",
]

RADIUS_POLICIES = ("original", "corrected")

# Maximum number of elements of a temporary tensor while painting: 4M, or 16 MB in float32.
_PAINT_ELEMENTS = 1 << 22
# Paint smaller objects in a separate pass with smaller windows only if it saves more than this number of elements.
# Otherwise, the additional pass costs more time than it saves.
_MIN_SAVED_ELEMENTS = 1 << 13
# Number of elements of the planes that :func:`best_peaks` processes at once on a CPU, so that they stay in the cache.
_PEAK_ELEMENTS = 1 << 16


def gaussian_radius(height: Tensor, width: Tensor, policy: str = "original", min_overlap: float = 0.7) -> Tensor:
    """Compute Gaussian radii from box sizes (original.md: Radius).

    The radius is the maximum offset of box corners that keeps an IoU of `min_overlap` with the box. The three cases
    (one corner inside and one outside, both inside, both outside) each give a quadratic equation. "corrected" uses the
    intended roots. "original" uses the roots with which the released models were trained: without the division by 2a,
    and the larger root in the first two cases, so that the third case is always the minimum.

    Args:
        height, width: (N,) size of the boxes in map pixels.
        policy: "original" or "corrected".
        min_overlap: minimum IoU.

    Returns:
        (N,) float64 radii, not truncated. They may be negative because of rounding errors.

    Raises:
        ValueError: if the policy is unknown.
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
        raise ValueError(f"policy is {policy!r}, but must be one of {', '.join(RADIUS_POLICIES)}")
    return torch.stack(radii).amin(dim=0)


def gaussian_profiles(cells: Tensor, radius: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Compute the separable factors of Gaussians (original.md: Gaussian).

    Gaussians have sigma = (2 r + 1) / 6 and are truncated at the radius.

    Args:
        cells: (N, 2) integer (x, y) of the peaks.
        radius: (N,) integer radii.
        size: height and width of the map.

    Returns:
        (N, H) profiles along y and (N, W) profiles along x; 1 at the peak.
    """
    rows, columns = (torch.arange(length, device=cells.device) for length in size)
    return _profile(rows - cells[:, 1:], radius), _profile(columns - cells[:, :1], radius)


def _profile(distance: Tensor, radius: Tensor) -> Tensor:
    """Compute profiles of (N,) Gaussians along an axis at (N, L) integer distances from the peaks."""
    sigma = (2 * radius[:, None] + 1) / 6
    # Values inside the window are above exp(-9), so the reference implementation's truncation at machine epsilon has no
    # effect.
    return torch.exp(-(distance**2) / (2 * sigma**2)) * (distance.abs() <= radius[:, None])


def paint_gaussians(
    canvas: Tensor, planes: Tensor, cells: Tensor, radius: Tensor, mask: Tensor, radius_cpu: Tensor | None
) -> Tensor:
    """Paint Gaussians onto heatmaps, combined by the elementwise maximum.

    Each Gaussian is painted in a window around its peak. Window sizes are computed from `radius_cpu`, to avoid
    synchronization with the device; without it, each window covers the map. Memory is limited as in :func:`paint_max`.

    Args:
        canvas: (P, H, W) planes to paint on, contiguous, modified in place.
        planes: (N,) index of the plane of each object.
        cells, radius: see :func:`gaussian_profiles`.
        mask: (N,) bool, False for objects that are not painted.
        radius_cpu: (N,) copy of the radius on the CPU, if available.

    Returns:
        The canvas.
    """
    height, width = canvas.shape[1:]
    if radius_cpu is None:
        rows, columns = gaussian_profiles(cells, radius, (height, width))
        return paint_max(canvas, planes, rows * mask[:, None], columns)
    for largest, objects in _group_by_radius(radius_cpu):
        sides = [min(2 * largest + 1, length) for length in (height, width)]
        for part in objects.to(cells.device, non_blocking=True).split(max(1, _PAINT_ELEMENTS // (sides[0] * sides[1]))):
            peaks, radii = cells[part], radius[part]
            rows, columns = (
                (peak[:, None] - largest).clamp(min=0, max=length - side) + torch.arange(side, device=peak.device)
                for peak, side, length in zip((peaks[:, 1], peaks[:, 0]), sides, (height, width), strict=True)
            )
            profile = _profile(rows - peaks[:, 1:], radii) * mask[part, None]
            shapes = profile[:, :, None] * _profile(columns - peaks[:, :1], radii)[:, None]
            index = ((planes[part, None] * height + rows) * width)[:, :, None] + columns[:, None]
            canvas.view(-1).scatter_reduce_(0, index.flatten(), shapes.flatten(), "amax")
    return canvas


def _group_by_radius(radius_cpu: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Group objects of similar radius, which are painted together.

    Args:
        radius_cpu: (N,) integer radii on the CPU.

    Yields:
        Largest radius of each group, and the indices of its objects.
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
    """Paint separable shapes onto heatmaps, combined by the elementwise maximum.

    Objects are processed in chunks. In addition to the profiles, temporary tensors take less than 64 MB for any number
    of objects and maps of up to 4M pixels.

    Args:
        canvas: (P, H, W) planes to paint on, modified in place.
        planes: (N,) index of the plane of each object.
        rows, columns: (N, H) and (N, W) profiles; the shape of object n is the outer product of rows[n] and columns[n].

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
    """Set all values except the maxima of 3x3 neighborhoods to 0; keep ties."""
    return heatmap * (_max_3x3(heatmap) == heatmap)


def _max_3x3(heatmap: Tensor) -> Tensor:
    """Return the maximum of the 3x3 neighborhood of each cell."""
    if not _is_eager_cpu(heatmap):
        return F.max_pool2d(heatmap, kernel_size=3, stride=1, padding=1)
    # The CPU kernel of max_pool2d is not vectorized for planes, and also computes indices.
    pooled = F.pad(heatmap, (1, 1, 1, 1), value=-math.inf)
    for axis, length in ((2, heatmap.shape[2]), (3, heatmap.shape[3])):
        before, center, after = (pooled.narrow(axis, start, length) for start in range(3))
        pooled = torch.maximum(torch.maximum(before, center), after)
    return pooled


def _is_eager_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and not is_captured()


def best_peaks(heatmap: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best peaks of each plane.

    Args:
        heatmap: (B, C, H, W) probabilities.
        k: maximum number of peaks, limited to the number of cells.

    Returns:
        (B, C, K) scores in descending order, and (B, C, K) indices into flat planes.
    """
    cells = heatmap.shape[2] * heatmap.shape[3]
    count = smaller_size(k, cells)
    if not _is_eager_cpu(heatmap):
        return peak_filter(heatmap).flatten(2).topk(count, dim=2)
    planes = max(1, _PEAK_ELEMENTS // (len(heatmap) * cells))
    parts = heatmap.contiguous().split(planes, dim=1)
    best = [peak_filter(part).flatten(2).topk(count, dim=2) for part in parts]
    scores, index = (torch.cat(tensors, dim=1) for tensors in zip(*best, strict=True))
    return scores, index


def top_peaks(heatmap: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k best peaks of each image over all classes (original.md: Peaks).

    Output shapes depend only on input shapes, so the function can be exported. Exporters do not support the remainder
    and the built-in minimum of sizes that are unknown.

    Args:
        heatmap: (B, C, H, W) probabilities.
        k: maximum number of peaks, limited to the total number of cells.

    Returns:
        (B, K) scores in descending order, (B, K) classes and (B, K, 2) integer cells (x, y).
    """
    # Select within each class first, to keep the second, global selection small.
    scores, index = best_peaks(heatmap, k)
    classes, per_class = scores.shape[1:]
    scores, best = scores.flatten(1).topk(smaller_size(k, classes * per_class), dim=1)
    index = index.flatten(1).gather(1, best)
    return scores, best // per_class, to_cells(index, heatmap.shape[3])


def smaller_size(first: int, second: Any) -> Any:
    """Return the minimum of two sizes, of which the second may be symbolic."""
    return torch.sym_min(first, second) if isinstance(second, torch.SymInt) else min(first, second)


def to_cells(index: Tensor, width: int) -> Tensor:
    """Convert (...) indices into a flat map to (..., 2) cells (x, y)."""
    rows = index // width
    return torch.stack([index - rows * width, rows], dim=-1)
