"""Synthetic 3-D dataset in KITTI format: boxes on a plane, several cameras."""

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

# Classes of KITTI: height, width and length in meters, and color (BGR).
_KINDS = {
    "Pedestrian": ((1.75, 0.6, 0.8), (60, 60, 220)),
    "Car": ((1.5, 1.7, 4.0), (210, 120, 30)),
    "Cyclist": ((1.7, 0.6, 1.8), (40, 190, 60)),
}
# Faces of a box (front, back, sides, top): indices into Boxes3D.corners, and relative brightness.
_FACES = (((0, 1, 5, 4), 1.0), ((2, 3, 7, 6), 0.45), ((0, 3, 7, 4), 0.65), ((1, 2, 6, 5), 0.75), ((4, 5, 6, 7), 1.15))
_NEAREST, _FARTHEST = 6.0, 24.0


@dataclass(frozen=True)
class Camera:
    """Horizontal camera above the ground.

    Attributes:
        focal: focal length in pixels.
        width, height: size of the image in pixels.
        above: height above the ground in meters.
    """

    focal: float
    width: int
    height: int
    above: float = 1.65

    def matrix(self) -> torch.Tensor:
        """Return the (3, 4) projection matrix."""
        return pinhole_camera(self.focal, (self.height, self.width))


CAMERAS = (Camera(270, 576, 192), Camera(405, 864, 288), Camera(210, 576, 192))
# Cameras with other resolutions and focal lengths.
OTHER_CAMERAS = (Camera(315, 720, 240), Camera(600, 1152, 384))


def draw_scene(rng: np.random.Generator, camera: Camera, count: int) -> tuple[np.ndarray, list[str], Boxes3D]:
    """Draw separate boxes on a checkered plane.

    Args:
        rng: random number generator.
        camera: camera of the image.
        count: maximum number of boxes; boxes that would overlap another one are skipped.

    Returns:
        The (H, W, 3) BGR image, class names and boxes. The nearest box is last.
    """
    kinds: list[str] = []
    rows: list[list[float]] = []
    for _ in range(count):
        kind = str(rng.choice(list(_KINDS)))
        depth = rng.uniform(_NEAREST, _FARTHEST)
        side = 0.4 * depth * camera.width / camera.focal
        size = np.array(_KINDS[kind][0]) * rng.uniform(0.9, 1.1)
        row = [rng.uniform(-side, side), camera.above, depth, *size, rng.uniform(-math.pi, math.pi)]
        # Boxes do not occlude each other either: their directions differ by more than their sizes.
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
    """Draw sky above the horizon and a checkerboard of 2 m squares below it."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    below = v - (camera.height - 1) / 2
    z = camera.focal * camera.above / np.maximum(below, 1e-3)
    x = (u - (camera.width - 1) / 2) * z / camera.focal
    light = (np.floor(x / 2 + phase) + np.floor(z / 2)) % 2 * (z < 60)
    ground = (110 + 25 * light)[..., None] * np.array([0.9, 1.0, 1.0])
    return np.where((below > 0)[..., None], ground, np.array([235.0, 200.0, 170.0])).astype(np.uint8)


def _draw_box(image: np.ndarray, pixels: np.ndarray, corners: np.ndarray, color: np.ndarray) -> None:
    """Draw the faces of a box from the farthest to the nearest."""
    for face, light in sorted(_FACES, key=lambda one: -np.linalg.norm(corners[list(one[0])].mean(axis=0))):
        polygon = np.round(pixels[list(face)] * 16).astype(np.int32)
        cv2.fillPoly(image, [polygon], (color * light).clip(0, 255).tolist(), cv2.LINE_AA, 4)


def write_boxes_on_ground(
    root: str | Path, splits: dict[str, int], *, cameras: Sequence[Camera] = CAMERAS, count: int = 4, seed: int = 0
) -> None:
    """Write images, labels, calibration files and splits in the layout of KITTI.

    Args:
        root: output folder; created if it does not exist.
        splits: name -> number of images.
        cameras: cameras, used in turn.
        count: maximum number of objects per image.
        seed: seed of the random numbers.
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
    """Return the lines of a label file; truncation is the share of the 2-D box outside the image."""
    matrix = camera.matrix()
    size = (camera.height, camera.width)
    full, visible = boxes.projected_boxes(matrix), boxes.projected_boxes(matrix, size)
    u = project(boxes.location, matrix)[:, 0]
    alpha = rotation_y_to_alpha(boxes.rotation_y, u, matrix)
    lines = []
    for index, kind in enumerate(kinds):
        x, y, z, height, width, length, rotation_y = boxes.tensor[index].tolist()
        truncation = 1 - float(visible.area()[index] / full.area()[index])
        values = [*visible.tensor[index].tolist(), height, width, length, x, y, z, rotation_y]
        text = " ".join(f"{value:.4f}" for value in values)
        lines.append(f"{kind} {max(truncation, 0.0):.2f} 0 {float(alpha[index]):.4f} {text}\n")
    return lines
