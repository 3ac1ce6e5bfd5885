import cv2
import numpy as np
import pytest
import torch

from centernet_d2.imaging.geometry import (
    affine_matrix,
    apply_affine,
    fixed_canvas,
    invert_affine,
    keep_canvas,
    warp_affine,
)


def test_affine_matrix_maps_window_to_output():
    matrix = affine_matrix((50, 20), 100, (128, 200))
    points = torch.tensor([[50.0, 20.0], [0.0, 20.0], [50.0, 70.0]], dtype=torch.float64)
    assert apply_affine(points, torch.from_numpy(matrix)).tolist() == [[100, 64], [0, 64], [100, 164]]


def test_invert_affine():
    matrix = affine_matrix((50, 20), 77, (128, 200), degrees=33)
    both = np.vstack([matrix, [0, 0, 1]]) @ np.vstack([invert_affine(matrix), [0, 0, 1]])
    np.testing.assert_allclose(both, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(("size", "canvas"), [((480, 640), (512, 672)), ((512, 500), (544, 512)), ((1, 31), (32, 32))])
def test_keep_canvas_is_next_multiple_strictly_greater(size, canvas):
    image = torch.randint(1, 255, (3, *size), dtype=torch.uint8)
    result, matrix = keep_canvas(image, 32)
    assert tuple(result.shape[-2:]) == canvas
    left, top = (-matrix[:, 2]).long().tolist()
    assert torch.equal(result[:, top : top + size[0], left : left + size[1]], image)
    assert result.sum(dtype=torch.long) == image.sum(dtype=torch.long)


def test_canvas_matrices_map_to_image_at_any_scale():
    # A bright block keeps its position in the original image at any test scale.
    image = torch.zeros(1, 80, 120)
    image[:, 30:38, 60:68] = 100
    for make in (lambda scale: keep_canvas(image, 32, scale), lambda scale: fixed_canvas(image, (96, 160), scale)):
        for scale in (0.5, 1.0, 1.5):
            canvas, matrix = make(scale)
            rows, columns = (canvas[0] > 50).nonzero(as_tuple=True)
            center = torch.tensor([[columns.double().mean(), rows.double().mean()]])
            back = apply_affine(center, matrix)[0]
            np.testing.assert_allclose(back, [63.5, 33.5], atol=1.0)


def test_fixed_canvas_fits_longer_side():
    canvas, _ = fixed_canvas(torch.full((3, 50, 100), 255, dtype=torch.uint8), (64, 64))
    assert (canvas[0] > 200).any(dim=0).sum() >= 63
    # The image is half as high as wide, so about half of the rows are black.
    assert 31 <= (canvas[0] > 200).any(dim=1).sum() <= 33


@pytest.mark.parametrize("degrees", [0, 17])
def test_warp_of_flipped_view_matches_copy(degrees):
    """Due to rounding, less than 0.1 % of the pixels may differ by one gray level."""
    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    matrix = affine_matrix((51.3, 40.7), 97.1, (112, 128), degrees)
    view = image[:, ::-1]
    difference = warp_affine(view, matrix, (112, 128)).astype(int) - warp_affine(view.copy(), matrix, (112, 128))
    # OpenCV 4 rounds positions to 1/32 of a pixel, and neighboring pixels may differ by 255 gray levels.
    exact = int(cv2.__version__.split(".")[0]) >= 5
    assert np.abs(difference).max() <= (1 if exact else 8)
    assert (difference != 0).mean() < (1e-3 if exact else 0.05)


def test_color_warp_matches_single_channels():
    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    matrix = affine_matrix((51.3, 40.7), 177.1, (112, 128), 17)
    together = warp_affine(image, matrix, (112, 128))
    for channel in range(3):
        assert (together[..., channel] == warp_affine(image[..., channel].copy(), matrix, (112, 128))).all()
