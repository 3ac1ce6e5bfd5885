"""Image transforms in index coordinates.

Pixel centers have integer coordinates, so a horizontal flip maps x to W - 1 - x.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data.transforms import HFlipTransform, Transform

from .geometry import invert_affine, warp_affine

__all__ = ["AffineTransform", "MirrorTransform", "is_mirrored"]


class MirrorTransform(HFlipTransform):
    """Horizontal flip in index coordinates.

    A subclass of HFlipTransform, because Detectron2 swaps left and right joints only for this type.
    """

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Flip (N, 2) points: x' = W - 1 - x."""
        coords = coords.copy()
        coords[:, 0] = self.width - 1 - coords[:, 0]
        return coords

    def inverse(self) -> MirrorTransform:
        return self


def is_mirrored(transforms: Sequence[Transform]) -> bool:
    """Return True if the transforms contain an odd number of horizontal flips."""
    return sum(isinstance(transform, HFlipTransform) for transform in transforms) % 2 == 1


class AffineTransform(Transform):
    """Affine transform of pixels, boxes, polygons, masks and keypoints."""

    def __init__(
        self,
        matrix: np.ndarray,
        input_size: tuple[int, int],
        output_size: tuple[int, int],
        box_matrix: np.ndarray | None = None,
        jittered: bool = False,
    ) -> None:
        """
        Args:
            matrix: (2, 3) matrix from input to output coordinates.
            input_size, output_size: (height, width).
            box_matrix: separate matrix for boxes, which are not rotated with the image (original.md: Rotation).
            jittered: True if the window was shifted or scaled at random, so that depths cannot be inferred.
        """
        super().__init__()
        self.matrix = matrix
        self.input_size = input_size
        self.output_size = output_size
        self.box_matrix = box_matrix
        self.jittered = jittered

    @property
    def rotates(self) -> bool:
        """True if image and points are rotated, but boxes are not."""
        return self.box_matrix is not None

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        """Transform (N, 4) XYXY boxes to axis-aligned boxes."""
        if self.box_matrix is None:
            return super().apply_box(box)
        return AffineTransform(self.box_matrix, self.input_size, self.output_size).apply_box(box)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Warp with bilinear interpolation; pixels outside the image are black."""
        return warp_affine(img, self.matrix, self.output_size)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return warp_affine(segmentation, self.matrix, self.output_size, cv2.INTER_NEAREST)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords @ self.matrix[:, :2].T + self.matrix[:, 2]

    def inverse(self) -> AffineTransform:
        box_matrix = None if self.box_matrix is None else invert_affine(self.box_matrix)
        return AffineTransform(invert_affine(self.matrix), self.output_size, self.input_size, box_matrix, self.jittered)
