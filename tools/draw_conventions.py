#!/usr/bin/env python
"""Draw the picture of docs/boxes3d.md: a scene with its 3-D boxes, seen from above, and one box with its angles.

python tools/draw_conventions.py docs/images/boxes3d.png
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import cv2
import numpy as np

# In front of Detectron2, whose import it makes a quiet one.
from centernet_d2.utils import cli

# isort: split
from detectron2.utils.visualizer import Visualizer

from centernet_d2.modeling.heads.box3d.drawing import draw_birds_eye, draw_boxes3d
from synthetic.boxes import Camera, draw_scene

_CAMERA = Camera(260, 560, 300)


def draw_angles(size: int = 300) -> np.ndarray:
    """The bird's-eye plan of one car: axes, the ray to it, rotation_y and alpha."""
    picture = np.full((size, size, 3), 255, dtype=np.uint8)
    camera, car, turn = np.array([70, 265]), np.array([185, 110]), 0.6
    black, red, blue, orange = (0, 0, 0), (200, 30, 30), (30, 60, 200), (230, 120, 0)

    def arrow(start: np.ndarray, end: np.ndarray, color: tuple[int, int, int]) -> None:
        start, end = (tuple(np.round(point).astype(int).tolist()) for point in (start, end))
        cv2.arrowedLine(picture, start, end, color, 1, cv2.LINE_AA, tipLength=0.06)

    def write(text: str, place: tuple[int, int], color: tuple[int, int, int]) -> None:
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, 1, cv2.LINE_AA)

    arrow(camera, camera + np.array([210, 0]), black)
    arrow(camera, camera - np.array([0, 240]), black)
    write("x (right)", (205, 285), black)
    write("z (ahead)", (5, 22), black)
    write("camera, y points down", (20, 296), black)
    arrow(camera, car, blue)
    # Seen from above, z is up in the picture: rotation_y turns from x away from z, clockwise.
    ahead, across = np.array([math.cos(turn), math.sin(turn)]), np.array([-math.sin(turn), math.cos(turn)])
    corners = [car + 45 * a * ahead + 19 * b * across for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
    cv2.polylines(picture, [np.round(corners).astype(np.int32)], True, red, 1, cv2.LINE_AA)
    arrow(car, car + 85 * ahead, red)
    cv2.line(picture, car.tolist(), (int(car[0]) + 100, int(car[1])), (150, 150, 150), 1)
    cv2.ellipse(picture, car.tolist(), (62, 62), 0, 0, math.degrees(turn), red, 1, cv2.LINE_AA)
    write("rotation_y", (car[0] + 42, car[1] - 6), red)
    ray = math.atan2(car[0] - camera[0], camera[1] - car[1])
    cv2.ellipse(picture, camera.tolist(), (60, 60), -90, 0, math.degrees(ray), blue, 1, cv2.LINE_AA)
    write("ray", (camera[0] + 8, camera[1] - 68), blue)
    write("alpha = rotation_y - ray", (camera[0] + 55, camera[1] - 40), orange)
    return picture


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    return cli.run(parser, lambda args: draw(args.file), argv)


def draw(file: Path) -> None:
    """Draw both pictures, side by side, into a file."""
    image, _, boxes = draw_scene(np.random.default_rng(4), _CAMERA, 12)
    scene, green = Visualizer(image[..., ::-1]), (60, 220, 60)
    draw_boxes3d(scene, boxes, _CAMERA.matrix(), green)
    above = draw_birds_eye([(boxes, green)], image.shape[:2], 30.0)
    gap = np.full((image.shape[0], 6, 3), 255, np.uint8)
    picture = np.concatenate([scene.output.get_image(), above, gap, draw_angles()], axis=1)
    if not cv2.imwrite(str(file), picture[..., ::-1]):
        raise OSError(f"cannot write {file}")
    print(f"drew {file}")


if __name__ == "__main__":
    sys.exit(main())
