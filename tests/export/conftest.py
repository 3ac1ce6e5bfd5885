import cv2
import numpy as np
import pytest

pytest.importorskip("onnxscript", reason="needs the extra [export]")
pytest.importorskip("onnxruntime", reason="needs the extra [export]")

# Canvases with little padding, whose cells have equal scores, so that the best ones are ambiguous.
SIZES = ((63, 60), (91, 95), (127, 120), (31, 29))


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Dataset dicts of images of several sizes."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    records = []
    for number, size in enumerate(SIZES):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.GaussianBlur(pixels, (0, 0), 2) if number else pixels)
        records.append({"file_name": str(folder / f"{number}.png")})
    return records
