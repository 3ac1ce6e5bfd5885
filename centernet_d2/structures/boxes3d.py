"""Upright 3-D boxes: corners, projection, angles, IoU (original.md: 3-D results).

Camera coordinates are x right, y down, z forward, in meters. The location of a box is the center of its bottom face.
rotation_y is the rotation about the y axis; the length is along the x axis if it is 0. A camera is a (3, 4) projection
matrix from camera coordinates to pixels. alpha is the observation angle: rotation_y minus the direction to the object.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.structures import Boxes
from torch import Tensor
from tqdm import tqdm

__all__ = [
    "Boxes3D",
    "alpha_to_rotation_y",
    "bev_iou",
    "check_camera",
    "iou3d",
    "location_from_center",
    "orientation_to_alpha",
    "paired_iou",
    "pinhole_camera",
    "project",
    "rotation_y_to_alpha",
    "unproject",
]

# Corners in units of half the length and half the width, in the order of the reference implementation. Corners 0-3 are
# the bottom, 4-7 the top.
_SIDES = ((1, 1), (1, -1), (-1, -1), (-1, 1))
_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))

# Columns of a box that determine its footprint.
_GROUND = [0, 2, 4, 5, 6]

# Number of box pairs that are intersected at once, which takes about 100 MB.
_CHUNK = 1 << 15


class Boxes3D:
    """List of 3-D boxes, similar to :class:`detectron2.structures.Boxes`.

    Attributes:
        tensor: (N, 7) float32: x, y, z of the bottom center, height, width, length (in meters), rotation_y (radians).
    """

    def __init__(self, tensor: Tensor | np.ndarray | Sequence[Sequence[float]]) -> None:
        """
        Args:
            tensor: (N, 7) boxes; an empty tensor of any shape is an empty list.

        Raises:
            ValueError: if the shape is invalid.
        """
        tensor = torch.as_tensor(tensor).to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 7)
        if tensor.dim() != 2 or tensor.shape[1] != 7:
            raise ValueError(f"3-D boxes must be a tensor of shape (N, 7), but the shape is {tuple(tensor.shape)}")
        self.tensor = tensor

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @property
    def location(self) -> Tensor:
        """(N, 3) bottom centers x, y, z."""
        return self.tensor[:, :3]

    @property
    def dimensions(self) -> Tensor:
        """(N, 3) height, width, length."""
        return self.tensor[:, 3:6]

    @property
    def rotation_y(self) -> Tensor:
        """(N,) rotation about the y axis in radians."""
        return self.tensor[:, 6]

    def clone(self) -> Boxes3D:
        return Boxes3D(self.tensor.clone())

    def to(self, device: torch.device | str) -> Boxes3D:
        """Move the boxes to a device; the dtype remains float32."""
        return Boxes3D(self.tensor.to(device=device))

    def __getitem__(self, item: int | slice | Tensor) -> Boxes3D:
        """Select boxes by an integer (one box), a slice, or a tensor of booleans or indices."""
        selected = self.tensor[item]
        return Boxes3D(selected[None] if isinstance(item, int) else selected)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        """Yield one (7,) tensor per box."""
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes3D({self.tensor})"

    @classmethod
    def cat(cls, boxes: Sequence[Boxes3D]) -> Boxes3D:
        """Concatenate lists of boxes."""
        return cls(torch.cat([box_list.tensor for box_list in boxes]) if boxes else torch.empty(0, 7))

    def corners(self) -> Tensor:
        """Compute (N, 8, 3) corners.

        The first four corners are the bottom face, starting at the front left (+l, +w); the others are the top face.
        """
        height, width, length = self.dimensions[:, :, None].unbind(1)
        along, across = self.tensor.new_tensor(_SIDES).T / 2
        ground = self.location[:, None] + self._rotate(along * length, across * width)
        top = torch.stack([ground[..., 0], ground[..., 1] - height, ground[..., 2]], dim=-1)
        return torch.cat([ground, top], dim=1)

    def heading(self) -> Tensor:
        """Compute (N, 2, 3) bottom centers, and points one length ahead of them."""
        length = self.dimensions[:, 2:]
        return self.location[:, None] + self._rotate(length * length.new_tensor([0, 1]), torch.zeros_like(length))

    def bev_polygons(self) -> Tensor:
        """Compute (N, 4, 2) corners (x, z) of the bottom faces."""
        return self.corners()[:, :4, 0::2]

    def projected_boxes(self, camera: Tensor, image_size: tuple[int, int] | None = None, near: float = 0.1) -> Boxes:
        """Compute the 2-D boxes around the projected 3-D boxes.

        Edges are clipped at the near plane, because points behind the camera would be projected to the wrong side.
        Boxes completely behind the near plane become all zeros.

        Args:
            camera: (3, 4) projection matrix.
            image_size: (height, width); if given, clip to 0..width - 1 and 0..height - 1 as in the labels of KITTI.
            near: distance of the near plane in meters.
        """
        edges, seen = self.projected_edges(camera, near)
        pixels, seen = edges.flatten(1, 2), seen.repeat_interleave(2, dim=1)[..., None]
        lower = pixels.masked_fill(~seen, math.inf).amin(dim=1)
        upper = pixels.masked_fill(~seen, -math.inf).amax(dim=1)
        boxes = torch.cat([lower, upper], dim=1).masked_fill(~seen.any(dim=1), 0.0)
        if image_size is not None:
            limit = boxes.new_tensor([image_size[1] - 1, image_size[0] - 1] * 2)
            boxes = torch.minimum(boxes.clamp(min=0), limit)
        return Boxes(boxes)

    def projected_edges(self, camera: Tensor, near: float = 0.1) -> tuple[Tensor, Tensor]:
        """Project the twelve edges, clipped at the near plane.

        The first four edges are the bottom face.

        Args:
            camera: (3, 4) projection matrix.
            near: distance of the near plane in meters.

        Returns:
            (N, 12, 2, 2) pixels of both ends, and (N, 12) bool, False for edges completely behind the near plane. The
            pixels of these edges are invalid.
        """
        corners = _homogeneous(self.corners(), camera.to(self.tensor))
        start, end = (corners[:, [edge[side] for edge in _EDGES]] for side in (0, 1))
        ends = torch.stack([_cut(start, end, near), _cut(end, start, near)], dim=2)
        seen = torch.maximum(start[..., 2], end[..., 2]) >= near
        return ends[..., :2] / ends[..., 2:].clamp(min=near), seen

    def _rotate(self, along: Tensor, across: Tensor) -> Tensor:
        """Convert (N, K) offsets along and across the boxes to (N, K, 3) offsets in camera coordinates."""
        cos, sin = self.rotation_y.cos()[:, None], self.rotation_y.sin()[:, None]
        return torch.stack([cos * along + sin * across, torch.zeros_like(along), cos * across - sin * along], dim=-1)


def _homogeneous(points: Tensor, camera: Tensor) -> Tensor:
    """Project (..., 3) points to (..., 3) homogeneous pixels: pixels times depth, and depth."""
    return points @ camera[:, :3].T + camera[:, 3]


def _cut(start: Tensor, end: Tensor, near: float) -> Tensor:
    """Move starts of edges that are behind the near plane along the edges to the plane.

    The result is invalid for edges completely behind the plane.
    """
    share = (near - start[..., 2:]) / (end[..., 2:] - start[..., 2:])
    return torch.where(start[..., 2:] < near, start + share * (end - start), start)


def pinhole_camera(focal: float, image_size: tuple[int, int]) -> Tensor:
    """Build a (3, 4) float64 camera whose principal point is the image center.

    Args:
        focal: focal length in pixels.
        image_size: height and width in pixels.
    """
    height, width = image_size
    rows = [[focal, 0, (width - 1) / 2, 0], [0, focal, (height - 1) / 2, 0], [0, 0, 1, 0]]
    return torch.tensor(rows, dtype=torch.float64)


def check_camera(camera: np.ndarray | Tensor | Sequence[Sequence[float]]) -> Tensor:
    """Validate a projection matrix.

    Args:
        camera: (3, 4) projection matrix.

    Returns:
        (3, 4) float64 matrix on the CPU.

    Raises:
        ValueError: if the shape is wrong, a number is not finite, a focal length is not positive, there is skew, or the
            third row does not start with 0, 0, 1. The message starts with "the camera".
    """
    try:
        matrix = torch.as_tensor(camera, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"the camera must be a (3, 4) matrix of numbers, but is {camera!r}") from None
    if matrix.shape != (3, 4):
        raise ValueError(f"the camera must be a (3, 4) matrix, but its shape is {tuple(matrix.shape)}")
    if not matrix.isfinite().all():
        raise ValueError(f"the camera contains NaN or Inf: {matrix.tolist()}")
    (focal_x, skew, _), (other_skew, focal_y, _), third = matrix[:, :3].tolist()
    if min(focal_x, focal_y) <= 0:
        raise ValueError(f"the camera has focal lengths {focal_x} and {focal_y}, but they must be positive")
    if skew or other_skew:
        raise ValueError("the camera has skew, which 3-D boxes do not support")
    if third != [0, 0, 1]:
        raise ValueError(f"the camera has a third row that starts with {third}, but it must start with 0, 0, 1")
    return matrix


def project(points: Tensor, camera: Tensor) -> Tensor:
    """Project points in camera coordinates to pixels.

    Args:
        points: (..., 3) points in front of the camera.
        camera: (3, 4) projection matrix.

    Returns:
        (..., 2) pixels.
    """
    pixels = _homogeneous(points, camera.to(points))
    return pixels[..., :2] / pixels[..., 2:]


def unproject(points: Tensor, depth: Tensor, camera: Tensor) -> Tensor:
    """Convert pixels with depth to camera coordinates; invert :func:`project`.

    As in the reference implementation, `depth` is the homogeneous scale of the projection: z = depth - camera[2, 3].
    This differs by a few millimeters from z, the training target of the depth (original.md: 3-D results).

    Args:
        points: (N, 2) pixels.
        depth: (N,) depths in meters.
        camera: (3, 4) without skew.

    Returns:
        (N, 3).
    """
    camera = camera.to(points)
    z = depth - camera[2, 3]
    x = (points[:, 0] * depth - camera[0, 3] - camera[0, 2] * z) / camera[0, 0]
    y = (points[:, 1] * depth - camera[1, 3] - camera[1, 2] * z) / camera[1, 1]
    return torch.stack([x, y, z], dim=1)


def location_from_center(points: Tensor, depth: Tensor, dimensions: Tensor, camera: Tensor) -> Tensor:
    """Compute (N, 3) bottom centers of boxes from their projected centers.

    Args:
        points, depth, camera: see :func:`unproject`.
        dimensions: (N, 3) height, width, length.
    """
    center = unproject(points, depth, camera)
    return torch.stack([center[:, 0], center[:, 1] + dimensions[:, 0] / 2, center[:, 2]], dim=1)


def alpha_to_rotation_y(alpha: Tensor, u: Tensor, camera: Tensor) -> Tensor:
    """Convert observation angles to rotations about the y axis.

    Args:
        alpha: (N,) observation angles in radians.
        u: (N,) pixel columns of the object centers.
        camera: (3, 4) projection matrix.
    """
    return _wrap_once(alpha + _ray_angle(u, camera))


def rotation_y_to_alpha(rotation_y: Tensor, u: Tensor, camera: Tensor) -> Tensor:
    """Invert :func:`alpha_to_rotation_y`, modulo 2 pi."""
    return _wrap_once(rotation_y - _ray_angle(u, camera))


def _ray_angle(u: Tensor, camera: Tensor) -> Tensor:
    """Return the angle between the optical axis and the ray through column u."""
    camera = camera.to(u)
    # float32, because runtimes of exported models do not support float64 here.
    return torch.atan2((u - camera[0, 2]).float(), camera[0, 0].float())


def _wrap_once(angle: Tensor) -> Tensor:
    """Add or subtract 2 pi at most once if outside -pi..pi (original.md: 3-D results)."""
    angle = torch.where(angle > math.pi, angle - 2 * math.pi, angle)
    return torch.where(angle < -math.pi, angle + 2 * math.pi, angle)


def orientation_to_alpha(orientation: Tensor) -> Tensor:
    """Decode alpha from two orientation bins (original.md: 3-D results).

    The bin centers are -pi/2 and pi/2.

    Args:
        orientation: (..., 8), per bin the logits of "outside" and "inside", and sine and cosine of the angle relative
            to the bin center.

    Returns:
        (...) radians, not wrapped, as in the reference implementation.
    """
    first = torch.atan2(orientation[..., 2], orientation[..., 3]) - math.pi / 2
    second = torch.atan2(orientation[..., 6], orientation[..., 7]) + math.pi / 2
    return torch.where(orientation[..., 1] > orientation[..., 5], first, second)


def bev_iou(first: Boxes3D, second: Boxes3D) -> Tensor:
    """Compute the (N, M) float32 IoU of N and M boxes in bird's-eye view."""
    return _iou_matrices(first, second)[0]


def iou3d(first: Boxes3D, second: Boxes3D) -> Tensor:
    """Compute the (N, M) float32 volumetric IoU of N and M boxes."""
    return _iou_matrices(first, second)[1]


def _iou_matrices(first: Boxes3D, second: Boxes3D) -> tuple[Tensor, Tensor]:
    shape = len(first), len(second)
    rows, columns = (index.ravel() for index in np.indices(shape))
    a, b = (boxes.tensor.detach().cpu().numpy() for boxes in (first, second))
    bev, volume = (torch.from_numpy(x.reshape(shape)) for x in paired_iou(a, b, rows, columns))
    return bev.to(first.tensor), volume.to(first.tensor)


def paired_iou(
    first: np.ndarray, second: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the IoU of selected pairs of boxes.

    Pairs that are far apart are skipped, which makes them cheap. The IoU is 0 for boxes with NaN, infinite values or
    dimensions that are not positive, which networks may predict. Bird's-eye view ignores y and height.

    Args:
        first, second: (N, 7) and (M, 7) boxes, as in :class:`Boxes3D`.
        rows, columns: (K,) indices into `first` and `second`.

    Returns:
        (K,) float64 IoU in bird's-eye view, and (K,) float64 volumetric IoU.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    near = np.flatnonzero(_may_overlap(first, second, rows, columns))
    a, b = first[rows[near]], second[columns[near]]
    shared = _shared_areas(a, b)
    bev_iou, volume_iou = np.zeros(len(rows)), np.zeros(len(rows))
    bev_iou[near] = shared / (a[:, 4] * a[:, 5] + b[:, 4] * b[:, 5] - shared)
    upright = np.logical_and(*(np.isfinite(boxes).all(axis=1) & (boxes[:, 3] > 0) for boxes in (a, b)))
    a, b, shared, near = a[upright], b[upright], shared[upright], near[upright]
    height = np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 1] - a[:, 3], b[:, 1] - b[:, 3])
    volume = shared * height.clip(min=0)
    volume_iou[near] = volume / (a[:, 3:6].prod(axis=1) + b[:, 3:6].prod(axis=1) - volume)
    return bev_iou, volume_iou


def _may_overlap(first: np.ndarray, second: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return (K,) bool, True for valid pairs whose bounding circles overlap in bird's-eye view."""
    (x1, z1, reach1), (x2, z2, reach2) = (
        (boxes[index, 0], boxes[index, 2], np.hypot(boxes[:, 4], boxes[:, 5])[index] / 2)
        for boxes, index in ((first, rows), (second, columns))
    )
    valid = (
        (np.isfinite(boxes[:, _GROUND]).all(axis=1) & (boxes[:, 4:6] > 0).all(axis=1))[index]
        for boxes, index in ((first, rows), (second, columns))
    )
    # Comparisons with NaN are False.
    with np.errstate(invalid="ignore"):
        close = np.hypot(x1 - x2, z1 - z2) < reach1 + reach2
    return np.logical_and(*valid) & close


def _shared_areas(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute (K,) intersection areas of the bottom faces of (K, 7) boxes, in chunks."""
    areas = np.empty(len(first))
    for start in tqdm(range(0, len(first), _CHUNK), desc="overlaps", leave=False, disable=len(first) <= _CHUNK):
        part = slice(start, start + _CHUNK)
        areas[part] = _shared_area(first[part], second[part])
    return areas


def _shared_area(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute :func:`_shared_areas` of one chunk.

    In the frame of the first box, its face is the range -limit..limit of two axes. Clamping all points of the outline
    of the second face to this range moves parts outside to the border, where they enclose no area. The area of the
    clamped outline is the intersection area, also for faces that touch or coincide.
    """
    limit = first[:, None, None, [5, 4]] / 2
    corners = _footprint(second, first)
    edge = np.roll(corners, -1, axis=1) - corners
    # Add corners where the outline crosses a border; edges parallel to a border do not cross it.
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = (np.stack([-limit[:, 0], limit[:, 0]], axis=3) - corners[..., None]) / edge[..., None]
    crossing = np.nan_to_num(crossing, nan=0.0).clip(0, 1).reshape(*corners.shape[:2], 4)
    ends = np.broadcast_to([0.0, 1.0], (*corners.shape[:2], 2))
    share = np.sort(np.concatenate([crossing, ends], axis=2), axis=2)[..., None]
    points = (corners[:, :, None] + share * edge[:, :, None]).clip(-limit, limit).reshape(len(first), -1, 2)
    (x, y), (next_x, next_y) = (np.moveaxis(corner, 2, 0) for corner in (points, np.roll(points, -1, axis=1)))
    return np.abs((x * next_y - y * next_x).sum(axis=1)) / 2


def _footprint(boxes: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Compute (K, 4, 2) corners of the bottom faces of (K, 7) boxes in the frames of other boxes."""
    along, across = np.array(_SIDES).T / 2
    along, across = along * boxes[:, 5:6], across * boxes[:, 4:5]
    cos, sin = (function(boxes[:, 6:] - frame[:, 6:]) for function in (np.cos, np.sin))
    x, z = (boxes[:, [column]] - frame[:, [column]] for column in (0, 2))
    frame_cos, frame_sin = np.cos(frame[:, 6:]), np.sin(frame[:, 6:])
    center = frame_cos * x - frame_sin * z, frame_sin * x + frame_cos * z
    return np.stack([center[0] + cos * along + sin * across, center[1] + cos * across - sin * along], axis=-1)
