"""Augmentations of the reference implementation as Detectron2 augmentations.

Horizontal flip, affine window and color (original.md: Training images). Pixel centers have integer coordinates, so a
horizontal flip maps x to W - 1 - x.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data.transforms import Augmentation, NoOpTransform, Transform

from ..imaging.geometry import affine_matrix
from ..imaging.transforms import AffineTransform, MirrorTransform
from ..utils.validation import check_choice

__all__ = [
    "ColorJitter",
    "ColorTransform",
    "KittiWindow",
    "RandomMirror",
    "RandomWindow",
    "ShiftScaleWindow",
    "build_augmentations",
    "color_jitter",
    "crop_border",
]

CROP_MODES = ("crop", "jitter", "none", "kitti")
# Rotation steps in degrees; rotated boxes stay axis-aligned.
TURNS = (0, 90, 180)

# Principal components of ImageNet colors in BGR order, for values in 0..1 (original.md: Color).
EIGENVALUES = np.array([0.2141788, 0.01817699, 0.00341571])
EIGENVECTORS = np.array(
    [
        [-0.58752847, -0.69563484, 0.41340352],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.56089297, 0.71832671, 0.41158938],
    ]
)
GRAY_WEIGHTS = np.array([0.114, 0.587, 0.299])


class ColorTransform(Transform):
    """Transform that applies :func:`color_jitter` with fixed parameters.

    The output is a float32 image in 0..255 that is not clipped. Coordinates are unchanged.
    """

    def __init__(
        self, order: Sequence[str], factors: Sequence[float] | np.ndarray, lighting: np.ndarray, is_bgr: bool
    ) -> None:
        super().__init__()
        self.order = order
        self.factors = factors
        self.lighting = lighting
        self.is_bgr = is_bgr

    def matrix(self, img: np.ndarray) -> np.ndarray:
        """Return the (3, 4) float32 color matrix for an (H, W, 3) image in 0..255.

        The matrix depends on the mean of the image.
        """
        mean = np.array(cv2.mean(img)[:3]) / 255
        matrix = color_matrix(mean if self.is_bgr else mean[::-1], self.order, self.factors, self.lighting)
        matrix[:, 3] *= 255
        return (matrix if self.is_bgr else matrix[::-1, [2, 1, 0, 3]]).astype(np.float32)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return _change_colors(img, self.matrix(img))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def inverse(self) -> Transform:
        """Return the inverse for coordinates; color changes are not inverted."""
        return NoOpTransform()


def color_jitter(
    image: np.ndarray, order: Sequence[str], factors: Sequence[float] | np.ndarray, lighting: np.ndarray
) -> np.ndarray:
    """Change brightness, contrast, saturation and lighting (original.md: Color).

    Gray values and their mean are computed from the input image. The output is not clipped.

    Args:
        image: (H, W, 3) float32 BGR in 0..1.
        order: any of "brightness", "contrast", "saturation", applied in this order.
        factors: one factor per operation; 1 is the identity.
        lighting: (3,) weights of the principal components.

    Returns:
        New (H, W, 3) float32 image.
    """
    mean = np.array(cv2.mean(image)[:3])
    return _change_colors(image, color_matrix(mean, order, factors, lighting).astype(np.float32))


def _change_colors(image: np.ndarray, matrix: np.ndarray, rows: int = 32) -> np.ndarray:
    """Apply a (3, 4) float32 color matrix to an (H, W, 3) image, in strips of rows that fit into the cache.

    Returns:
        (H, W, 3) float32 in channels-first memory order, as models require it.
    """
    planes = np.empty((3, *image.shape[:2]), dtype=np.float32)
    for top in range(0, len(image), rows):
        strip = cv2.transform(image[top : top + rows].astype(np.float32), matrix)
        cv2.split(strip, list(planes[:, top : top + rows]))
    return planes.transpose(1, 2, 0)


def color_matrix(
    mean: np.ndarray, order: Sequence[str], factors: Sequence[float] | np.ndarray, lighting: np.ndarray
) -> np.ndarray:
    """Compute the matrix of :func:`color_jitter`.

    All operations are affine because gray values and their mean are linear in the colors.

    Args:
        mean: (3,) mean BGR of the image, in 0..1.
        order, factors, lighting: see :func:`color_jitter`.

    Returns:
        (3, 4) float64 matrix for colors (b, g, r, 1) in 0..1.
    """
    gray = np.append(GRAY_WEIGHTS, 0.0)
    background = {"brightness": 0.0 * gray, "contrast": np.array([0, 0, 0, GRAY_WEIGHTS @ mean]), "saturation": gray}
    matrix = np.eye(3, 4)
    for name, factor in zip(order, factors, strict=True):
        matrix = matrix * factor + background[name] * (1 - factor)
    matrix[:, 3] += EIGENVECTORS @ (EIGENVALUES * lighting)
    return matrix


def crop_border(size: int, border: int = 128) -> int:
    """Return the minimum distance of a window center from the image edge.

    The distance is `border`, halved until it fits into the image (original.md: Random window).
    """
    divisor = 1
    while size - border // divisor <= border // divisor:
        divisor *= 2
    return border // divisor


class RandomMirror(Augmentation):
    """Random horizontal flip."""

    def __init__(self, prob: float = 0.5) -> None:
        super().__init__()
        self.prob = prob

    def get_transform(self, image: np.ndarray) -> Transform:
        return MirrorTransform(image.shape[1]) if self._rand_range() < self.prob else NoOpTransform()


class Window(Augmentation):
    """Base class of augmentations that crop a window and resize it to a fixed size.

    Args:
        size: (height, width) of the output.
        rotate: standard deviation of the rotation in degrees, clipped at twice this value.
        rotate_prob: probability of the rotation.
        turn: one of TURNS; if not 0, image and boxes are rotated by a random multiple of this angle.
    """

    def __init__(
        self, size: tuple[int, int], *, rotate: float = 0.0, rotate_prob: float = 0.0, turn: float = 0.0
    ) -> None:
        super().__init__()
        self.size = (size[0], size[1])
        self.rotate = rotate
        self.rotate_prob = rotate_prob
        self.turn = turn

    def _make_transform(
        self, image: np.ndarray, center: Sequence[float] | np.ndarray, window: float, jittered: bool = True
    ) -> AffineTransform:
        """Return the transform to a window with the given center and width, with random rotation."""
        turn = self.turn * np.random.randint(round(360 / self.turn)) if self.turn else 0.0
        upright, input_size = affine_matrix(center, window, self.size, turn), image.shape[:2]
        if self._rand_range() >= self.rotate_prob:
            return AffineTransform(upright, input_size, self.size, jittered=jittered)
        degrees = turn + np.clip(np.random.randn() * self.rotate, -2 * self.rotate, 2 * self.rotate)
        rotated = affine_matrix(center, window, self.size, degrees)
        return AffineTransform(rotated, input_size, self.size, upright, jittered)


class RandomWindow(Window):
    """Window around a random pixel with random size.

    The window size is a random multiple of the longer side of the image.
    """

    def __init__(self, size: tuple[int, int], scales: Sequence[float], **rotation: float) -> None:
        """
        Args:
            size, rotation: see :class:`Window`.
            scales: multiples to sample from.
        """
        super().__init__(size, **rotation)
        self.scales = tuple(scales)

    def get_transform(self, image: np.ndarray) -> AffineTransform:
        height, width = image.shape[:2]
        window = max(height, width) * np.random.choice(self.scales)
        center = [np.random.randint(border := crop_border(side), side - border) for side in (width, height)]
        return self._make_transform(image, center, window)


class ShiftScaleWindow(Window):
    """Window of the full image, shifted and scaled by clipped normal noise."""

    def __init__(self, size: tuple[int, int], shift: float = 0.0, scale: float = 0.0, **rotation: float) -> None:
        """
        Args:
            size, rotation: see :class:`Window`.
            shift, scale: standard deviations relative to the longer side of the image. The noise is clipped at twice
                `shift` and at `scale`.
        """
        super().__init__(size, **rotation)
        self.shift = shift
        self.scale = scale

    def get_transform(self, image: np.ndarray) -> AffineTransform:
        height, width = image.shape[:2]
        window = max(height, width)
        shift = window * np.clip(np.random.randn(2) * self.shift, -2 * self.shift, 2 * self.shift)
        center = np.array([width / 2, height / 2]) + shift
        window *= np.clip(np.random.randn() * self.scale + 1, 1 - self.scale, 1 + self.scale)
        return self._make_transform(image, center, window, jittered=bool(self.shift or self.scale))


class KittiWindow(Window):
    """Window of the full image width, randomly shifted and scaled.

    See the reference (original.md: KITTI window).
    """

    def __init__(self, size: tuple[int, int], shift: float, scale: float, prob: float, **rotation: float) -> None:
        """
        Args:
            size, rotation: see :class:`Window`.
            shift, scale: standard deviations relative to width and height of the image. The noise is clipped at twice
                `shift` and at `scale`.
            prob: probability of the noise.
        """
        super().__init__(size, **rotation)
        self.shift = shift
        self.scale = scale
        self.prob = prob

    def get_transform(self, image: np.ndarray) -> AffineTransform:
        side = np.array([image.shape[1], image.shape[0]])
        if self._rand_range() >= self.prob:
            return self._make_transform(image, side / 2, float(side[0]), jittered=False)
        window = side[0] * np.clip(np.random.randn() * self.scale + 1, 1 - self.scale, 1 + self.scale)
        center = side / 2 + side * np.clip(np.random.randn(2) * self.shift, -2 * self.shift, 2 * self.shift)
        return self._make_transform(image, center, window)


class ColorJitter(Augmentation):
    """Random brightness, contrast and saturation in random order, and lighting."""

    def __init__(self, strength: float = 0.4, lighting: float = 0.1, image_format: str = "BGR") -> None:
        """
        Args:
            strength: factors are sampled from 1 - strength .. 1 + strength.
            lighting: standard deviation of the weight of each principal component.
            image_format: "BGR" or "RGB".
        """
        super().__init__()
        self.strength = strength
        self.lighting = lighting
        self.image_format = image_format

    def get_transform(self, image: np.ndarray) -> ColorTransform:
        order = np.random.permutation(["brightness", "contrast", "saturation"])
        factors = 1 + np.random.uniform(-self.strength, self.strength, size=3)
        lighting = np.random.normal(scale=self.lighting, size=3)
        return ColorTransform(order.tolist(), factors, lighting, self.image_format == "BGR")


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[Augmentation]:
    """Build the augmentations of a config.

    The list is empty at test time because the model resizes images to its canvas. The horizontal flip is applied
    first, so the window is sampled in the flipped image. The reference implementation flips the sampled window instead;
    the distribution is the same except for one pixel with INPUT.AFFINE.MODE "jitter" or "none".

    Raises:
        ValueError: a key has an unknown value.
    """
    if not is_train:
        return []
    node, size = cfg.INPUT.AFFINE, tuple(cfg.INPUT.AFFINE.SIZE)
    check_choice("INPUT.AFFINE.MODE", node.MODE, CROP_MODES)
    check_choice("INPUT.AFFINE.TURN", node.TURN, TURNS)
    check_choice("INPUT.RANDOM_FLIP", cfg.INPUT.RANDOM_FLIP, ("horizontal", "none"))
    augmentations = [RandomMirror()] if cfg.INPUT.RANDOM_FLIP == "horizontal" else []
    rotation = {"rotate": node.ROTATE, "rotate_prob": node.ROTATE_PROB, "turn": node.TURN}
    if node.MODE == "crop":
        augmentations.append(RandomWindow(size, node.SCALES, **rotation))
    elif node.MODE == "kitti":
        augmentations.append(KittiWindow(size, node.SHIFT, node.SCALE, node.JITTER_PROB, **rotation))
    else:
        noise = (node.SHIFT, node.SCALE) if node.MODE == "jitter" else (0.0, 0.0)
        augmentations.append(ShiftScaleWindow(size, *noise, **rotation))
    if cfg.INPUT.COLOR_JITTER > 0 or cfg.INPUT.LIGHTING > 0:
        augmentations.append(ColorJitter(cfg.INPUT.COLOR_JITTER, cfg.INPUT.LIGHTING, cfg.INPUT.FORMAT))
    return augmentations
