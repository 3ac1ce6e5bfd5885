#!/usr/bin/env python
"""Figure of docs/boxes3d.md: 3-D boxes, bird's-eye view and definition of angles.

python tools/draw_conventions.py docs/images/boxes3d.png
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import cv2
import numpy as np

# Before Detectron2, to suppress warnings of its import.
from centernet_d2.utils import cli

# isort: split
from detectron2.utils.visualizer import Visualizer

from centernet_d2.modeling.heads.box3d.drawing import draw_birds_eye, draw_boxes3d
from synthetic.boxes import Camera, draw_scene

_CAMERA = Camera(260, 560, 300)


def draw_angles(size: int = 300) -> np.ndarray:
    """Draw axes, ray, rotation_y and alpha of one car in bird's-eye view."""
    figure = np.full((size, size, 3), 255, dtype=np.uint8)
    camera, car, rotation = np.array([70, 265]), np.array([185, 110]), 0.6
    black, red, blue, orange = (0, 0, 0), (200, 30, 30), (30, 60, 200), (230, 120, 0)

    def arrow(start: np.ndarray, end: np.ndarray, color: tuple[int, int, int]) -> None:
        start, end = (tuple(np.round(point).astype(int).tolist()) for point in (start, end))
        cv2.arrowedLine(figure, start, end, color, 1, cv2.LINE_AA, tipLength=0.06)

    def write(text: str, position: tuple[int, int], color: tuple[int, int, int]) -> None:
        cv2.putText(figure, text, position, cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, 1, cv2.LINE_AA)

    arrow(camera, camera + np.array([210, 0]), black)
    arrow(camera, camera - np.array([0, 240]), black)
    write("x (right)", (205, 285), black)
    write("z (ahead)", (5, 22), black)
    write("camera, y points down", (20, 296), black)
    arrow(camera, car, blue)
    # In this view, z points up, so a positive rotation_y is a clockwise rotation from x.
    cos, sin = math.cos(rotation), math.sin(rotation)
    ahead, across = np.array([cos, sin]), np.array([-sin, cos])
    corners = [car + 45 * a * ahead + 19 * b * across for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
    cv2.polylines(figure, [np.round(corners).astype(np.int32)], True, red, 1, cv2.LINE_AA)
    arrow(car, car + 85 * ahead, red)
    cv2.line(figure, car.tolist(), (int(car[0]) + 100, int(car[1])), (150, 150, 150), 1)
    cv2.ellipse(figure, car.tolist(), (62, 62), 0, 0, math.degrees(rotation), red, 1, cv2.LINE_AA)
    write("rotation_y", (car[0] + 42, car[1] - 6), red)
    ray = math.atan2(car[0] - camera[0], camera[1] - car[1])
    cv2.ellipse(figure, camera.tolist(), (60, 60), -90, 0, math.degrees(ray), blue, 1, cv2.LINE_AA)
    write("ray", (camera[0] + 8, camera[1] - 68), blue)
    write("alpha = rotation_y - ray", (camera[0] + 55, camera[1] - 40), orange)
    return figure


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="path of the figure")
    return cli.run(parser, lambda args: draw(args.file), argv)


def draw(file: Path) -> None:
    """Draw scene, bird's-eye view and angles side by side into a file."""
    image, _, boxes = draw_scene(np.random.default_rng(4), _CAMERA, 12)
    scene, green = Visualizer(image[..., ::-1]), (60, 220, 60)
    draw_boxes3d(scene, boxes, _CAMERA.matrix(), green)
    above = draw_birds_eye([(boxes, green)], image.shape[:2], 30.0)
    gap = np.full((image.shape[0], 6, 3), 255, np.uint8)
    figure = np.concatenate([scene.output.get_image(), above, gap, draw_angles()], axis=1)
    if not cv2.imwrite(str(file), figure[..., ::-1]):
        raise OSError(f"{file} cannot be written: check that its folder exists and its extension is an image format")
    print(f"wrote {file}")


if __name__ == "__main__":
    sys.exit(main())
