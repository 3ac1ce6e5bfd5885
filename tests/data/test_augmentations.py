import itertools

import numpy as np
import pytest
from detectron2.data.transforms import AugInput, AugmentationList

from centernet_d2 import load_config, model_zoo
from centernet_d2.data.augmentations import (
    EIGENVALUES,
    EIGENVECTORS,
    ColorJitter,
    ColorTransform,
    RandomMirror,
    RandomWindow,
    ShiftScaleWindow,
    build_augmentations,
    color_jitter,
)
from centernet_d2.imaging.geometry import affine_matrix
from centernet_d2.imaging.transforms import AffineTransform, MirrorTransform


def make_image(height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_mirror_transforms_pixels_and_points_consistently():
    image = make_image()
    mirror = MirrorTransform(80)
    assert (mirror.apply_image(image)[7, 80 - 1 - 5] == image[7, 5]).all()
    assert mirror.apply_coords(np.array([[5.0, 7.0]])).tolist() == [[74, 7]]


def test_mirror_twice_is_identity():
    mirror = MirrorTransform(80)
    image, points = make_image(), np.array([[0.0, 1], [79, 3], [12.5, 9]])
    assert (mirror.apply_image(mirror.apply_image(image)) == image).all()
    assert (mirror.inverse().apply_coords(mirror.apply_coords(points)) == points).all()


def test_window_transforms_pixels_points_boxes_masks_and_polygons_consistently():
    transform = AffineTransform(affine_matrix((40, 30), 40, (64, 80)), (60, 80), (64, 80))
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[28:35, 38:47] = 1
    rows, columns = np.nonzero(transform.apply_segmentation(mask))
    # Scaled by 2; (40, 30) is mapped to (40, 32).
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == pytest.approx((36, 53, 28, 41), abs=1)
    assert transform.apply_box(np.array([[38.0, 28, 46, 34]])).tolist() == [[36, 28, 52, 40]]
    assert transform.apply_polygons([np.array([[38.0, 28], [46, 34]])])[0].tolist() == [[36, 28], [52, 40]]


def test_window_inverse_is_exact():
    transform = AffineTransform(affine_matrix((13.5, 40), 57, (64, 96), degrees=10), (60, 80), (64, 96))
    points = np.random.default_rng(0).uniform(0, 80, (20, 2))
    np.testing.assert_allclose(transform.inverse().apply_coords(transform.apply_coords(points)), points, atol=1e-9)


def test_outside_the_image_is_black():
    transform = ShiftScaleWindow((64, 64)).get_transform(np.full((20, 40, 3), 255, dtype=np.uint8))
    out = transform.apply_image(np.full((20, 40, 3), 255, dtype=np.uint8))
    assert out.shape == (64, 64, 3)
    assert out[0].max() == 0
    assert out[32, 1:-1].min() == 255


@pytest.mark.parametrize("size", [(5, 7), (60, 80), (480, 640)])
def test_random_window_size_and_center(size):
    np.random.seed(0)
    image = np.zeros((*size, 3), dtype=np.uint8)
    augmentation = RandomWindow((64, 96), [0.5, 2.0])
    for _ in range(20):
        transform = augmentation.get_transform(image)
        assert transform.apply_image(image).shape == (64, 96, 3)
        center = transform.inverse().apply_coords(np.array([[48.0, 32.0]]))[0]
        assert (center >= 0).all()
        assert (center < [size[1], size[0]]).all()
        scale = np.linalg.norm(transform.matrix[:, 0])
        assert scale * max(size) / 96 == pytest.approx(0.5) or scale * max(size) / 96 == pytest.approx(2.0)


def test_shift_and_scale_are_bounded():
    np.random.seed(0)
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    for _ in range(50):
        matrix = ShiftScaleWindow((80, 80), shift=0.1, scale=0.4).get_transform(image).matrix
        window = 80 / matrix[0, 0]
        assert 0.6 * 80 - 1e-6 <= window <= 1.4 * 80 + 1e-6


def test_color_jitter_by_hand():
    image = np.array([[[0.2, 0.4, 0.6], [0.0, 0.0, 0.0]]], dtype=np.float32)
    none = np.zeros(3)
    gray = 0.114 * 0.2 + 0.587 * 0.4 + 0.299 * 0.6
    np.testing.assert_allclose(color_jitter(image, ["brightness"], [0.5], none), image * 0.5, rtol=1e-6)
    np.testing.assert_allclose(color_jitter(image, ["contrast"], [0.5], none), image * 0.5 + gray / 2 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(
        color_jitter(image, ["saturation"], [0.5], none)[0, 0], image[0, 0] * 0.5 + gray * 0.5, rtol=1e-5
    )


def test_color_is_independent_of_the_channel_order():
    image = make_image()
    arguments = (["contrast", "saturation", "brightness"], [0.8, 1.2, 1.1], np.array([0.1, -0.1, 0.2]))
    bgr = ColorTransform(*arguments, is_bgr=True).apply_image(image)
    rgb = ColorTransform(*arguments, is_bgr=False).apply_image(image[..., ::-1])
    np.testing.assert_allclose(rgb[..., ::-1], bgr, atol=1e-3)
    assert bgr.dtype == np.float32


def test_color_jitter_samples_all_three_operations():
    np.random.seed(0)
    transform = ColorJitter(0.4, 0.1).get_transform(make_image())
    assert sorted(transform.order) == ["brightness", "contrast", "saturation"]
    assert (np.abs(np.array(transform.factors) - 1) <= 0.4).all()


def config(*overrides):
    return load_config(model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml"), overrides)


def test_augmentations_follow_the_config():
    kinds = lambda *overrides: [type(a) for a in build_augmentations(config(*overrides), True)]  # noqa: E731
    assert kinds("INPUT.AFFINE.MODE", "crop") == [RandomMirror, RandomWindow, ColorJitter]
    assert kinds("INPUT.AFFINE.MODE", "jitter", "INPUT.RANDOM_FLIP", "none") == [ShiftScaleWindow, ColorJitter]
    assert kinds("INPUT.AFFINE.MODE", "none", "INPUT.COLOR_JITTER", 0.0, "INPUT.LIGHTING", 0.0) == [
        RandomMirror,
        ShiftScaleWindow,
    ]
    assert build_augmentations(config(), is_train=False) == []


@pytest.mark.parametrize(("turn", "count"), [(0, 1), (180, 2), (90, 4)])
def test_rotated_boxes_match_rotated_pixels(turn, count):
    image = np.zeros((64, 64), dtype=np.uint8)
    image[10:21, 30:51] = 255
    box = np.array([[30.0, 10.0, 50.0, 20.0]])
    window, seen = ShiftScaleWindow((64, 64), turn=turn), set()
    for seed in range(20):
        np.random.seed(seed)
        transform = window.get_transform(image)
        rotated = transform.apply_image(image) > 127
        rows, columns = np.nonzero(rotated)
        found = transform.apply_box(box)[0]
        # The center of a window is between pixels.
        np.testing.assert_allclose(found, [columns.min(), rows.min(), columns.max(), rows.max()], atol=1)
        assert not transform.rotates
        seen.add(tuple(found.round().astype(int)))
    assert len(seen) == count


@pytest.mark.parametrize(
    ("key", "value"), [("INPUT.AFFINE.MODE", "zoom"), ("INPUT.RANDOM_FLIP", "vertical"), ("INPUT.AFFINE.TURN", 45)]
)
def test_unknown_config_values_raise(key, value):
    with pytest.raises(ValueError, match=f"{key} is {value!r}, known"):
        build_augmentations(config(key, value), True)


def test_boxes_match_transformed_pixels():
    np.random.seed(3)
    image = np.zeros((90, 120, 3), dtype=np.uint8)
    image[30:60, 40:80] = 255
    inputs = AugInput(image)
    transforms = AugmentationList([RandomMirror(1.0), RandomWindow((128, 128), [1.0])])(inputs)
    rows, columns = np.nonzero(inputs.image[..., 0] > 127)
    x1, y1, x2, y2 = transforms.apply_box(np.array([[40.0, 30, 79, 59]]))[0].clip(0, 127)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == pytest.approx((x1, y1, x2, y2), abs=1)


@pytest.mark.parametrize("order", list(itertools.permutations(["brightness", "contrast", "saturation"])))
def test_color_matrix_equals_sequential_operations(order):
    """The tolerance is 2e-4 of 255; the image has more rows than one strip."""
    image, lighting = make_image(75, 41), np.array([0.1, -0.2, 0.05])
    factors = {"brightness": 1.4, "contrast": 0.6, "saturation": 1.3}
    colors = image / 255.0
    gray = (colors @ [0.114, 0.587, 0.299])[..., None]
    expected = colors
    for name in order:
        other = {"brightness": 0.0, "contrast": gray.mean(), "saturation": gray}[name]
        expected = expected * factors[name] + other * (1 - factors[name])
    expected = expected + EIGENVECTORS @ (EIGENVALUES * lighting)
    transform = ColorTransform(order, [factors[name] for name in order], lighting, is_bgr=True)
    changed, matrix = transform.apply_image(image), transform.matrix(image)
    np.testing.assert_allclose(changed, 255 * expected, atol=2e-4)
    np.testing.assert_allclose(image @ matrix[:, :3].T + matrix[:, 3], changed, atol=2e-4)
    np.testing.assert_allclose(
        color_jitter(colors.astype(np.float32), order, [factors[name] for name in order], lighting),
        expected,
        atol=1e-6,
    )
