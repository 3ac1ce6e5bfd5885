"""Visualization of 3-D boxes: projected edges and bird's-eye view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from ....structures.boxes3d import Boxes3D

if TYPE_CHECKING:  # It imports matplotlib, which takes a second.
    from detectron2.utils.visualizer import Visualizer

__all__ = ["draw_birds_eye", "draw_boxes3d"]

# Line coordinates are clamped to this absolute value in pixels, for matplotlib.
_FAR = 1e5


def draw_boxes3d(visualizer: Visualizer, boxes: Boxes3D, camera: Tensor, color: tuple[int, int, int]) -> None:
    """Draw the edges of 3-D boxes on an image, with a cross on the front face.

    Args:
        visualizer: visualizer of the image.
        boxes: boxes in camera coordinates.
        camera: (3, 4) projection matrix of the image.
        color: line color, RGB in 0..255.
    """
    edges, seen = (tensor.cpu() for tensor in boxes.projected_edges(camera))
    normalized = tuple(value / 255 for value in color)
    for lines, visible in zip(edges, seen, strict=True):
        # Edges 0 and 4 are bottom and top of the front face; each diagonal connects the start of one to the end of the
        # other.
        front = torch.stack([torch.stack([lines[0, i], lines[4, 1 - i]]) for i in (0, 1)])
        crossed = visible[[0, 4]].all().expand(2)
        for line in torch.cat([lines[visible], front[crossed]]).clamp(-_FAR, _FAR):
            x, y = line.T.tolist()
            visualizer.draw_line(x, y, color=normalized, linewidth=1)


def draw_birds_eye(
    groups: Sequence[tuple[Boxes3D, tuple[int, int, int]]], size: tuple[int, int], depth: float = 60.0
) -> np.ndarray:
    """Draw boxes in bird's-eye view.

    The camera is at the center of the bottom edge and faces up.

    Args:
        groups: pairs of boxes and their color.
        size: height and width of the figure.
        depth: meters from the bottom to the top edge; the horizontal scale is the same.

    Returns:
        (H, W, 3) uint8 figure with a line every 10 meters and a line along the heading of each box.
    """
    height, width = size
    figure = np.full((height, width, 3), 245, dtype=np.uint8)
    scale = height / depth

    def to_pixels(points: Tensor) -> np.ndarray:
        """Convert (..., 2) meters (x, z) to fixed-point pixels with 4 fractional bits, in the range of OpenCV."""
        pixels = torch.stack([width / 2 + points[..., 0] * scale, height - points[..., 1] * scale], dim=-1)
        return (pixels * 16).nan_to_num(0).clamp(-1e6, 1e6).round().int().cpu().numpy()

    for distance in range(10, int(depth), 10):
        row = round(height - distance * scale)
        cv2.line(figure, (0, row), (width, row), (215, 215, 215), 1)
        cv2.putText(figure, f"{distance} m", (2, row - 2), cv2.FONT_HERSHEY_SIMPLEX, 0.3, (130, 130, 130), 1)
    for boxes, color in groups:
        cv2.polylines(figure, list(to_pixels(boxes.bev_polygons())), True, color, 1, cv2.LINE_AA, 4)
        for start, end in to_pixels(boxes.heading()[..., 0::2]):
            cv2.line(figure, start.tolist(), end.tolist(), color, 1, cv2.LINE_AA, 4)
    return figure
