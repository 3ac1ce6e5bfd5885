"""Affine windows, test canvases and inverse transforms.

Points are (x, y), with x to the right and y down. Pixel centers have integer coordinates, as in the reference
implementation (original.md: Affine window, Test resolution).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Geometry",
    "affine_matrix",
    "apply_affine",
    "fixed_canvas",
    "invert_affine",
    "is_captured",
    "keep_canvas",
    "scaling_matrix",
    "size_tensor",
    "warp_affine",
]


@dataclass(frozen=True)
class Geometry:
    """Sizes and transform of one image in a batch.

    Attributes:
        image_size: (height, width) of the original image.
        input_size: (height, width) of the network input.
        to_image: (2, 3) float64 matrix from map coordinates to coordinates of the original image.
        inputs: additional inputs of the image by key, which are read by properties.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    to_image: Tensor
    inputs: Mapping[str, Any] = field(default_factory=dict)


def affine_matrix(
    center: Sequence[float] | np.ndarray, window: float, output_size: tuple[int, int], degrees: float = 0.0
) -> np.ndarray:
    """Return the similarity transform of a window (original.md: Affine window).

    Args:
        center: (x, y) of the window center in source coordinates.
        window: width of the window in source pixels; it is scaled to the output width. The vertical scale is the same.
        output_size: (height, width) of the output.
        degrees: rotation of the window.

    Returns:
        (2, 3) float64 matrix from source to output coordinates.
    """
    height, width = output_size
    scale = width / window
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    linear = scale * rotation
    shift = np.array([width / 2, height / 2]) - linear @ np.asarray(center, dtype=np.float64)
    return np.concatenate([linear, shift[:, None]], axis=1)


def invert_affine(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of a (2, 3) affine matrix."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate([linear, -linear @ matrix[:, 2:]], axis=1)


def apply_affine(points: Tensor, matrix: Tensor) -> Tensor:
    """Transform (..., 2) points by a (2, 3) matrix."""
    matrix = matrix.to(points)
    # Not a matrix product, which OpenVINO and TF32 compute in reduced precision.
    return (points[..., None, :] * matrix[:, :2]).sum(dim=-1) + matrix[:, 2]


def warp_affine(
    image: np.ndarray, matrix: np.ndarray, output_size: tuple[int, int], interpolation: int = cv2.INTER_LINEAR
) -> np.ndarray:
    """Warp an (H, W) or (H, W, C) image; pixels outside the image are black.

    A horizontally flipped view is folded into the matrix, which avoids a copy.
    """
    height, width = output_size
    if image.strides[1] < 0:
        image = image[:, ::-1]
        matrix = matrix @ np.array([[-1.0, 0.0, image.shape[1] - 1], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    if image.dtype == np.uint8 and image.shape[2:] == (3,):
        # OpenCV warps four channels faster than three, with the same results.
        bgra = cv2.warpAffine(cv2.cvtColor(image, cv2.COLOR_BGR2BGRA), matrix, (width, height), flags=interpolation)
        return cv2.cvtColor(bgra, cv2.COLOR_BGRA2BGR)
    return cv2.warpAffine(image, matrix, (width, height), flags=interpolation).reshape(height, width, *image.shape[2:])


def size_tensor(sizes: Sequence[float | Tensor]) -> Tensor:
    """Convert sizes to a float64 tensor.

    Sizes that are unknown in an exported model remain unknown, while ``torch.tensor`` would make them constants.
    """
    one = torch.ones((), dtype=torch.float64)
    return torch.stack([one * size for size in sizes])


def scaling_matrix(scale: Sequence[float | Tensor], shift: Sequence[float | Tensor]) -> Tensor:
    """Return the (2, 3) float64 matrix of a scaling in x and y, followed by a shift."""
    return size_tensor([scale[0], 0, shift[0], 0, scale[1], shift[1]]).view(2, 3)


def keep_canvas(image: Tensor, size_divisibility: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Pad an image to a black canvas: TEST_RESOLUTION "keep".

    The image is centered (original.md: Test resolution). The canvas size is the next multiple of `size_divisibility`
    strictly greater than the image size, as in the reference.

    Args:
        image: (C, H, W).
        size_divisibility: divisor of the sides of the canvas.
        scale: factor by which the image is resized first.

    Returns:
        The (C, H', W') canvas and the (2, 3) matrix from canvas to image coordinates.
    """
    image = _resize(image, scale)
    height, width = image.shape[-2:]
    canvas_height, canvas_width = ((size // size_divisibility + 1) * size_divisibility for size in (height, width))
    left, top = canvas_width // 2 - width // 2, canvas_height // 2 - height // 2
    canvas = F.pad(image, (left, canvas_width - width - left, top, canvas_height - height - top))
    return canvas, scaling_matrix((1, 1), (-left, -top)) / scale


def fixed_canvas(
    image: Tensor, output_size: tuple[int, int], scale: float = 1.0, by_width: bool = False
) -> tuple[Tensor, Tensor]:
    """Warp an image to a canvas: TEST_RESOLUTION "fixed".

    The longer side is scaled to the canvas width (original.md: Test resolution). The window is not scaled with the
    image: `scale` > 1 zooms in and `scale` < 1 adds a border, as in the reference.

    Args:
        image: (C, H, W).
        output_size: (height, width) of the canvas.
        scale: factor by which the image is resized first.
        by_width: scale the image width to the canvas width, even if it is the shorter side (3-D boxes).

    Returns:
        The (C, height, width) canvas and the (2, 3) matrix from canvas to image coordinates.
    """
    sides = size_tensor(image.shape[-2:])
    window = sides[1] if by_width else sides.max()
    image = _resize(image, scale)
    height, width = image.shape[-2:]
    zoom = window / output_size[1]
    to_image = scaling_matrix(
        (zoom, zoom), (width / 2 - zoom * output_size[1] / 2, height / 2 - zoom * output_size[0] / 2)
    )
    if is_captured():
        return _warp_in_graph(image, to_image, output_size), to_image / scale
    matrix = affine_matrix((width / 2, height / 2), float(window), output_size)
    canvas = _from_pixels(warp_affine(_to_pixels(image), matrix, output_size), image.device)
    return canvas, to_image / scale


def is_captured() -> bool:
    """Return True inside torch.jit.trace, torch.export and torch.compile."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined]


def _warp_in_graph(image: Tensor, to_image: Tensor, output_size: tuple[int, int]) -> Tensor:
    """Warp a (C, H, W) image like :func:`warp_affine`, with operations that can be exported.

    Up to 3 % of the values differ, by 1, because of rounding.

    Args:
        image: uint8 image.
        to_image: (2, 3) matrix from canvas to image coordinates.
        output_size: (height, width) of the canvas.
    """
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in output_size)
    cells = torch.stack([columns.expand(*output_size), rows[:, None].expand(*output_size)], dim=2)
    # Pixel centers at integers -> -1..1 between the outer edges of the image (align_corners=False).
    size = size_tensor(image.shape[-2:]).flip(0)
    grid = ((2 * apply_affine(cells, to_image) + 1) / size - 1).float()
    canvas = F.grid_sample(image[None].float(), grid[None], padding_mode="zeros", align_corners=False)
    return canvas[0].round().to(image.dtype)


def _resize(image: Tensor, scale: float) -> Tensor:
    """Resize a (C, H, W) image like the reference: bilinear, without antialiasing, rounded to its own dtype."""
    if scale == 1.0:
        return image
    height, width = (max(1, int(size * scale)) for size in image.shape[-2:])
    pixels = cv2.resize(_to_pixels(image), (width, height), interpolation=cv2.INTER_LINEAR)
    return _from_pixels(pixels.reshape(height, width, -1), image.device)


def _to_pixels(image: Tensor) -> np.ndarray:
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def _from_pixels(pixels: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).to(device)
