from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from centernet_d2.imaging.reading import ImageHeader, read_header, read_image
from centernet_d2.readers.records import LabeledImage, LabeledObject, Report
from centernet_d2.readers.sizes import fit_to_image

ROTATED = "images with labels for the orientation without EXIF, labels rotated"
SCALED = "images of another size than in the labels, labels scaled"
REJECTED = "images with another aspect ratio than in the labels, skipped"
UNPROVEN = "images with an EXIF orientation, whose labels are read as for the upright image"


def labeled(stated, box=(10, 20, 30, 50), keypoints=(10, 20, 2, 0, 0, 0), area=500.0):
    return LabeledImage(Path("a.jpg"), (LabeledObject("a", box, keypoints, area),), stated_size=stated)


def fit(stated, header):
    report = Report()
    return fit_to_image(labeled(stated), ImageHeader(*header), "a.jpg", report), list(report.counts)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("factor", [1, 2])
def test_labels_of_the_stored_image_are_rotated_like_its_pixels(tmp_path, orientation, factor):
    pixels = np.zeros((80, 120), np.uint8)
    pixels[22:42, 14:20], pixels[30, 16] = 128, 255
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = labeled(
        (120 // factor, 80 // factor), tuple(value / factor for value in (14, 22, 20, 42)),
        (*((value + 0.5) / factor - 0.5 for value in (16, 30)), 2, 0, 0, 0), 120 / factor**2,
    )  # fmt: skip
    report = Report()
    fitted = fit_to_image(image, read_header(tmp_path / "a.png"), "a.png", report)
    assert list(report.counts) == [ROTATED]
    upright = read_image(tmp_path / "a.png")[..., 0]
    (thing,) = fitted.objects
    ys, xs = np.nonzero(upright)
    assert thing.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert upright[int(thing.keypoints[1]), int(thing.keypoints[0])] == 255
    assert thing.keypoints[2:] == (2, 0, 0, 0)
    assert thing.area == 120
    assert (fitted.width, fitted.height) == (80, 120)


@pytest.mark.parametrize(
    ("stated", "header", "reasons"),
    [
        ((120, 80), (120, 80, 1), []),
        (None, (120, 80, 1), []),
        ((80, 120), (120, 80, 6), []),
        (None, (120, 80, 6), [UNPROVEN]),
        (None, (120, 80, 3), [UNPROVEN]),
        ((120, 80), (120, 80, 3), [UNPROVEN]),
        ((80, 80), (80, 80, 6), [UNPROVEN]),
    ],
)
def test_labels_of_the_upright_image_stay(stated, header, reasons):
    fitted, counts = fit(stated, header)
    assert fitted.objects == labeled(stated).objects
    assert counts == reasons


@pytest.mark.parametrize(
    ("stated", "header"),
    [((60, 40), (120, 80, 1)), ((240, 160), (120, 80, 1)), ((61, 40), (121, 80, 1)), ((333, 500), (500, 751, 1))],
)
def test_labels_of_another_size_are_scaled(stated, header):
    fitted, counts = fit(stated, header)
    assert counts == [SCALED]
    factors = header[0] / stated[0], header[1] / stated[1]
    assert fitted.objects[0].box == pytest.approx((10 * factors[0], 20 * factors[1], 30 * factors[0], 50 * factors[1]))
    assert fitted.objects[0].keypoints[:2] == pytest.approx((10.5 * factors[0] - 0.5, 20.5 * factors[1] - 0.5))
    assert fitted.objects[0].area == pytest.approx(500 * factors[0] * factors[1])


@pytest.mark.parametrize("header", [(120, 80, 1), (120, 80, 3)])
@pytest.mark.parametrize("stated", [(80, 120), (120, 90), (640, 640)])
def test_contradicting_sizes_are_rejected(stated, header):
    fitted, counts = fit(stated, header)
    assert fitted is None
    assert REJECTED in counts


def test_images_without_objects_stay():
    report = Report()
    image = LabeledImage(Path("a.jpg"), (), stated_size=(9, 9))
    assert fit_to_image(image, ImageHeader(120, 80, 6), "a.jpg", report).width == 80
    assert not report.counts
