"""The original's augmentations (original.md: Training images) as Detectron2's: mirror, affine window, colour.

Coordinates are index coordinates: pixel centers at integers, a mirror takes x to W - 1 - x.
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
# Boxes stay boxes when they turn by right angles.
TURNS = (0, 90, 180)

# Colour axes of ImageNet in BGR order, values in 0..1 (original.md: Color).
EIGENVALUES = np.array([0.2141788, 0.01817699, 0.00341571])
EIGENVECTORS = np.array(
    [
        [-0.58752847, -0.69563484, 0.41340352],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.56089297, 0.71832671, 0.41158938],
    ]
)
GREY_WEIGHTS = np.array([0.114, 0.587, 0.299])


class ColorTransform(Transform):
    """:func:`color_jitter` with drawn values; makes float32 images in 0..255, not clipped. Coordinates stay."""

    def __init__(
        self, order: Sequence[str], factors: Sequence[float] | np.ndarray, lighting: np.ndarray, is_bgr: bool
    ) -> None:
        super().__init__()
        self.order = order
        self.factors = factors
        self.lighting = lighting
        self.is_bgr = is_bgr

    def matrix(self, img: np.ndarray) -> np.ndarray:
        """The (3, 4) float32 matrix that changes the colours of an (H, W, 3) image in 0..255, whose mean it needs."""
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
        """Colours cannot be undone; coordinates never changed."""
        return NoOpTransform()


def color_jitter(
    image: np.ndarray, order: Sequence[str], factors: Sequence[float] | np.ndarray, lighting: np.ndarray
) -> np.ndarray:
    """Change brightness, contrast and saturation, then the lighting (original.md: Color).

    Grey values and their mean are those of the image as it came. Nothing is clipped.

    Args:
        image: (H, W, 3) float32 BGR in 0..1.
        order: any of "brightness", "contrast", "saturation", applied in this order.
        factors: one for each; 1 changes nothing.
        lighting: (3,) amount along each colour axis.

    Returns:
        A new (H, W, 3) float32 image.
    """
    mean = np.array(cv2.mean(image)[:3])
    return _change_colors(image, color_matrix(mean, order, factors, lighting).astype(np.float32))


def _change_colors(image: np.ndarray, matrix: np.ndarray, rows: int = 32) -> np.ndarray:
    """Apply a (3, 4) float32 matrix to the colours of an (H, W, 3) image, by rows that fit into the cache.

    Returns:
        (H, W, 3) float32, stored channel after channel as models want it.
    """
    planes = np.empty((3, *image.shape[:2]), dtype=np.float32)
    for top in range(0, len(image), rows):
        strip = cv2.transform(image[top : top + rows].astype(np.float32), matrix)
        cv2.split(strip, list(planes[:, top : top + rows]))
    return planes.transpose(1, 2, 0)


def color_matrix(
    mean: np.ndarray, order: Sequence[str], factors: Sequence[float] | np.ndarray, lighting: np.ndarray
) -> np.ndarray:
    """:func:`color_jitter` as one matrix: grey values and their mean are linear in the colours, so all of it is affine.

    Args:
        mean: (3,) mean BGR of the image, in 0..1.
        order, factors, lighting: see :func:`color_jitter`.

    Returns:
        (3, 4) float64, for colours (b, g, r, 1) in 0..1.
    """
    grey = np.append(GREY_WEIGHTS, 0.0)
    background = {"brightness": 0.0 * grey, "contrast": np.array([0, 0, 0, GREY_WEIGHTS @ mean]), "saturation": grey}
    matrix = np.eye(3, 4)
    for name, factor in zip(order, factors, strict=True):
        matrix = matrix * factor + background[name] * (1 - factor)
    matrix[:, 3] += EIGENVECTORS @ (EIGENVALUES * lighting)
    return matrix


def crop_border(size: int, border: int = 128) -> int:
    """How far a window center stays away from the edge: `border`, halved until it fits (original.md: Random window)."""
    divisor = 1
    while size - border // divisor <= border // divisor:
        divisor *= 2
    return border // divisor


class RandomMirror(Augmentation):
    """Mirror with a probability."""

    def __init__(self, prob: float = 0.5) -> None:
        super().__init__()
        self.prob = prob

    def get_transform(self, image: np.ndarray) -> Transform:
        return MirrorTransform(image.shape[1]) if self._rand_range() < self.prob else NoOpTransform()


class Window(Augmentation):
    """A part of the image in an output of fixed size; what the ways of drawing one share.

    Args:
        size: (height, width) of the output.
        rotate: standard deviation of the rotation in degrees, clipped at twice that.
        rotate_prob: how often there is one.
        turn: one of TURNS; if it is not 0, the window turns by a random multiple of so many degrees, boxes too.
    """

    def __init__(
        self, size: tuple[int, int], *, rotate: float = 0.0, rotate_prob: float = 0.0, turn: float = 0.0
    ) -> None:
        super().__init__()
        self.size = (size[0], size[1])
        self.rotate = rotate
        self.rotate_prob = rotate_prob
        self.turn = turn

    def _show(
        self, image: np.ndarray, center: Sequence[float] | np.ndarray, window: float, jittered: bool = True
    ) -> AffineTransform:
        """The transform to a window of the given center and width, rotated by chance."""
        turn = self.turn * np.random.randint(round(360 / self.turn)) if self.turn else 0.0
        upright, input_size = affine_matrix(center, window, self.size, turn), image.shape[:2]
        if self._rand_range() >= self.rotate_prob:
            return AffineTransform(upright, input_size, self.size, jittered=jittered)
        degrees = turn + np.clip(np.random.randn() * self.rotate, -2 * self.rotate, 2 * self.rotate)
        turned = affine_matrix(center, window, self.size, degrees)
        return AffineTransform(turned, input_size, self.size, upright, jittered)


class RandomWindow(Window):
    """A window around a random pixel, its side a random multiple of the longer side of the image."""

    def __init__(self, size: tuple[int, int], scales: Sequence[float], **rotation: float) -> None:
        """
        Args:
            size, rotation: see :class:`Window`.
            scales: the multiples to choose from.
        """
        super().__init__(size, **rotation)
        self.scales = tuple(scales)

    def get_transform(self, image: np.ndarray) -> AffineTransform:
        height, width = image.shape[:2]
        window = max(height, width) * np.random.choice(self.scales)
        center = [np.random.randint(border := crop_border(side), side - border) for side in (width, height)]
        return self._show(image, center, window)


class ShiftScaleWindow(Window):
    """The whole image, shifted and scaled by clipped normal noise; without noise, just the whole image."""

    def __init__(self, size: tuple[int, int], shift: float = 0.0, scale: float = 0.0, **rotation: float) -> None:
        """
        Args:
            size, rotation: see :class:`Window`.
            shift, scale: standard deviations, relative to the longer side of the image. Noise is clipped at twice the
                shift and at once the scale.
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
        return self._show(image, center, window, jittered=bool(self.shift or self.scale))


class KittiWindow(Window):
    """The whole width of an image, or by chance a window shifted and scaled by noise (original.md: KITTI window)."""

    def __init__(self, size: tuple[int, int], shift: float, scale: float, prob: float, **rotation: float) -> None:
        """
        Args:
            size, rotation: see :class:`Window`.
            shift, scale: standard deviations, relative to width and height of the image. Noise is clipped at twice the
                shift and at once the scale.
            prob: how often there is noise.
        """
        super().__init__(size, **rotation)
        self.shift = shift
        self.scale = scale
        self.prob = prob

    def get_transform(self, image: np.ndarray) -> AffineTransform:
        side = np.array([image.shape[1], image.shape[0]])
        if self._rand_range() >= self.prob:
            return self._show(image, side / 2, float(side[0]), jittered=False)
        window = side[0] * np.clip(np.random.randn() * self.scale + 1, 1 - self.scale, 1 + self.scale)
        center = side / 2 + side * np.clip(np.random.randn(2) * self.shift, -2 * self.shift, 2 * self.shift)
        return self._show(image, center, window)


class ColorJitter(Augmentation):
    """Random brightness, contrast and saturation in random order, then lighting noise."""

    def __init__(self, strength: float = 0.4, lighting: float = 0.1, image_format: str = "BGR") -> None:
        """
        Args:
            strength: factors are drawn from 1 - strength .. 1 + strength.
            lighting: standard deviation along each colour axis.
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
    """The augmentations of a config. None at test time: the model makes its own canvas.

    Mirroring comes first, so the window is drawn in the mirrored image. Where the original mirrors the drawn window
    instead, the distribution is the same, but for one pixel with INPUT.AFFINE.MODE "jitter" or "none".

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
