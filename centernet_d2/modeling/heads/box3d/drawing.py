"""Pictures of 3-D boxes: their edges in the image, and what stands on the ground seen from above."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from detectron2.utils.visualizer import Visualizer
from torch import Tensor

from ....structures.boxes3d import Boxes3D

__all__ = ["draw_birds_eye", "draw_boxes3d"]

# Pixels beyond which matplotlib need not know where a line ends.
_FAR = 1e5


def draw_boxes3d(picture: Visualizer, boxes: Boxes3D, camera: Tensor, color: tuple[int, int, int]) -> None:
    """Draw the edges of 3-D boxes into an image, with a cross on the face that looks ahead.

    Args:
        picture: in pixels of the image.
        boxes: in camera coordinates.
        camera: (3, 4) projection matrix of the image.
        color: of the lines, RGB in 0..255.
    """
    edges, seen = (tensor.cpu() for tensor in boxes.projected_edges(camera))
    shade = tuple(value / 255 for value in color)
    for lines, visible in zip(edges, seen, strict=True):
        # Edges 0 and 4 are the bottom and the top of the front; from the end of one to the start of the other.
        front = torch.stack([torch.stack([lines[0, i], lines[4, 1 - i]]) for i in (0, 1)])
        crossed = visible[[0, 4]].all().expand(2)
        for line in torch.cat([lines[visible], front[crossed]]).clamp(-_FAR, _FAR):
            x, y = line.T.tolist()
            picture.draw_line(x, y, color=shade, linewidth=1)


def draw_birds_eye(
    groups: Sequence[tuple[Boxes3D, tuple[int, int, int]]], size: tuple[int, int], depth: float = 60.0
) -> np.ndarray:
    """What stands on the ground, seen from above: the camera is at the middle of the bottom and looks up.

    Args:
        groups: boxes and the color of each list of them.
        size: height and width of the picture.
        depth: metres from the bottom to the top; sideways the scale is the same.

    Returns:
        (H, W, 3) uint8 picture, with a line every ten metres and a stroke from each box to where it is heading.
    """
    height, width = size
    picture = np.full((height, width, 3), 245, dtype=np.uint8)
    scale = height / depth

    def place(points: Tensor) -> np.ndarray:
        """(..., 2) metres (x, z) -> fixed-point pixels with four binary digits, within what OpenCV can count."""
        pixels = torch.stack([width / 2 + points[..., 0] * scale, height - points[..., 1] * scale], dim=-1)
        return (pixels * 16).nan_to_num(0).clamp(-1e6, 1e6).round().int().cpu().numpy()

    for distance in range(10, int(depth), 10):
        row = round(height - distance * scale)
        cv2.line(picture, (0, row), (width, row), (215, 215, 215), 1)
        cv2.putText(picture, f"{distance} m", (2, row - 2), cv2.FONT_HERSHEY_SIMPLEX, 0.3, (130, 130, 130), 1)
    for boxes, color in groups:
        cv2.polylines(picture, list(place(boxes.bev_polygons())), True, color, 1, cv2.LINE_AA, 4)
        for start, end in place(boxes.heading()[..., 0::2]):
            cv2.line(picture, start.tolist(), end.tolist(), color, 1, cv2.LINE_AA, 4)
    return picture
