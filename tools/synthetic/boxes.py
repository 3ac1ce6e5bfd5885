"""A small 3-D data set that the project draws itself: boxes on a plane before several cameras, as KITTI files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from centernet_d2.structures.boxes3d import Boxes3D, pinhole_camera, project, rotation_y_to_alpha

__all__ = ["CAMERAS", "OTHER_CAMERAS", "Camera", "draw_scene", "write_boxes_on_ground"]

# Height, width and length of the three kinds in metres, and their colors (BGR): the classes of KITTI.
_KINDS = {
    "Pedestrian": ((1.75, 0.6, 0.8), (60, 60, 220)),
    "Car": ((1.5, 1.7, 4.0), (210, 120, 30)),
    "Cyclist": ((1.7, 0.6, 1.8), (40, 190, 60)),
}
# Corners of the faces of a box in the order of Boxes3D.corners, and how bright they are: front, back, sides, top.
_FACES = (((0, 1, 5, 4), 1.0), ((2, 3, 7, 6), 0.45), ((0, 3, 7, 4), 0.65), ((1, 2, 6, 5), 0.75), ((4, 5, 6, 7), 1.15))
_NEAREST, _FARTHEST = 6.0, 24.0


@dataclass(frozen=True)
class Camera:
    """A level camera above the ground.

    Attributes:
        focal: focal length in pixels.
        width, height: of its image.
        above: metres above the ground.
    """

    focal: float
    width: int
    height: int
    above: float = 1.65

    def matrix(self) -> torch.Tensor:
        """(3, 4) projection matrix."""
        return pinhole_camera(self.focal, (self.height, self.width))


CAMERAS = (Camera(270, 576, 192), Camera(405, 864, 288), Camera(210, 576, 192))
# Of other resolutions and focal lengths.
OTHER_CAMERAS = (Camera(315, 720, 240), Camera(600, 1152, 384))


def draw_scene(rng: np.random.Generator, camera: Camera, count: int) -> tuple[np.ndarray, list[str], Boxes3D]:
    """A picture of boxes that stand on a chequered plain and do not touch each other.

    Args:
        rng: source of everything random.
        camera: what looks at them.
        count: how many to try; those without a place are left out.

    Returns:
        The (H, W, 3) BGR image, and kinds and boxes, the nearest last.
    """
    kinds: list[str] = []
    rows: list[list[float]] = []
    for _ in range(count):
        kind = str(rng.choice(list(_KINDS)))
        depth = rng.uniform(_NEAREST, _FARTHEST)
        side = 0.4 * depth * camera.width / camera.focal
        size = np.array(_KINDS[kind][0]) * rng.uniform(0.9, 1.1)
        row = [rng.uniform(-side, side), camera.above, depth, *size, rng.uniform(-math.pi, math.pi)]
        # No box covers another one in the image either: directions differ by more than their sizes.
        if all(abs(row[0] / row[2] - x / z) > (row[5] + other) / (row[2] + z) for x, _, z, _, _, other, _ in rows):
            kinds.append(kind)
            rows.append(row)
    order = np.argsort([-row[2] for row in rows], kind="stable")
    kinds, boxes = [kinds[i] for i in order], Boxes3D(torch.tensor([rows[i] for i in order]))
    image = _draw_ground(camera, rng.uniform(0, 2))
    matrix = camera.matrix()
    for kind, corners in zip(kinds, boxes.corners(), strict=True):
        _draw_box(image, project(corners, matrix).numpy(), corners.numpy(), np.array(_KINDS[kind][1]))
    return image, kinds, boxes


def _draw_ground(camera: Camera, phase: float) -> np.ndarray:
    """Sky above the horizon, squares of two metres below it."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    below = v - (camera.height - 1) / 2
    z = camera.focal * camera.above / np.maximum(below, 1e-3)
    x = (u - (camera.width - 1) / 2) * z / camera.focal
    light = (np.floor(x / 2 + phase) + np.floor(z / 2)) % 2 * (z < 60)
    ground = (110 + 25 * light)[..., None] * np.array([0.9, 1.0, 1.0])
    return np.where((below > 0)[..., None], ground, np.array([235.0, 200.0, 170.0])).astype(np.uint8)


def _draw_box(image: np.ndarray, pixels: np.ndarray, corners: np.ndarray, color: np.ndarray) -> None:
    """Faces from the farthest to the nearest; those behind are painted over."""
    for face, light in sorted(_FACES, key=lambda one: -np.linalg.norm(corners[list(one[0])].mean(axis=0))):
        polygon = np.round(pixels[list(face)] * 16).astype(np.int32)
        cv2.fillPoly(image, [polygon], (color * light).clip(0, 255).tolist(), cv2.LINE_AA, 4)


def write_boxes_on_ground(
    root: str | Path, splits: dict[str, int], *, cameras: Sequence[Camera] = CAMERAS, count: int = 4, seed: int = 0
) -> None:
    """Draw images, labels, calibration and splits in the layout of KITTI; cameras take turns.

    Args:
        root: where to; made if needed.
        splits: name -> number of images.
        cameras: who looks.
        count: objects per image, at most.
        seed: of the random numbers.
    """
    root, rng = Path(root), np.random.default_rng(seed)
    for folder in ("training/image_2", "training/label_2", "training/calib", "ImageSets"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    index = len(list((root / "training" / "image_2").glob("*.png")))
    for split, images in splits.items():
        names = [f"{index + i:06d}" for i in range(images)]
        for i, name in enumerate(names):
            camera = cameras[i % len(cameras)]
            image, kinds, boxes = draw_scene(rng, camera, int(rng.integers(1, count + 1)))
            cv2.imwrite(str(root / "training" / "image_2" / f"{name}.png"), image)
            numbers = " ".join(f"{number:.9e}" for number in camera.matrix().flatten().tolist())
            (root / "training" / "calib" / f"{name}.txt").write_text(f"P2: {numbers}\n")
            (root / "training" / "label_2" / f"{name}.txt").write_text("".join(_labels(kinds, boxes, camera)))
        (root / "ImageSets" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        index += images


def _labels(kinds: Sequence[str], boxes: Boxes3D, camera: Camera) -> list[str]:
    """Lines of a label file; truncation is the share of the 2-D box outside the image."""
    matrix = camera.matrix()
    size = (camera.height, camera.width)
    whole, seen = boxes.projected_boxes(matrix), boxes.projected_boxes(matrix, size)
    u = project(boxes.location, matrix)[:, 0]
    alpha = rotation_y_to_alpha(boxes.rotation_y, u, matrix)
    lines = []
    for index, kind in enumerate(kinds):
        x, y, z, height, width, length, rotation_y = boxes.tensor[index].tolist()
        hidden = 1 - float(seen.area()[index] / whole.area()[index])
        values = [*seen.tensor[index].tolist(), height, width, length, x, y, z, rotation_y]
        text = " ".join(f"{value:.4f}" for value in values)
        lines.append(f"{kind} {max(hidden, 0.0):.2f} 0 {float(alpha[index]):.4f} {text}\n")
    return lines
