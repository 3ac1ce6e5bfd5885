"""An exported model with the heads of the examples."""

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript", reason="needs the extra [export]")
pytest.importorskip("onnxruntime", reason="needs the extra [export]")

from centernet_d2 import Predictor
from centernet_d2.export.detect import Detector
from centernet_d2.utils.cli import import_user_modules
from support.models import stub_heads, stub_model
from support.tasks import COMMON

from .conftest import EXAMPLES


def test_exported_file_has_the_detections_of_predictor(tmp_path):
    files = [str(EXAMPLES / name / f"{name}.py") for name in ("identity", "rotated_boxes", "masks")]
    identity, rotated_boxes, masks = import_user_modules(files)
    torch.manual_seed(0)
    heads = stub_heads()
    heads["IdentityHead"] = identity.IdentityHead(count=5, size=4, **COMMON)
    heads["AngleHead"] = rotated_boxes.AngleHead(**COMMON)
    heads["MaskHead"] = masks.MaskHead(prototypes=2, **COMMON)
    predictor = Predictor(stub_model(heads))
    image = np.random.default_rng(0).integers(0, 256, (63, 60, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image)
    report = predictor.export(tmp_path / "file", images=[tmp_path / "image.png"])
    assert report["verification"]["compared"] > 80
    expected, found = predictor(image, threshold=0)["instances"], Detector(tmp_path / "file" / "model.onnx")(image, 0)
    assert len(found) == len(expected) > 40
    # The order of almost equal scores may differ. Several classes may have the same box.
    rows = np.column_stack([expected.pred_boxes.tensor, 100 * expected.pred_classes])
    distances = np.abs(np.column_stack([found.boxes, 100 * found.classes])[:, None] - rows).max(axis=2)
    expected = expected[torch.from_numpy(distances.argmin(axis=1))]
    np.testing.assert_array_equal(found.classes, expected.pred_classes)
    np.testing.assert_allclose(found.boxes, expected.pred_boxes.tensor, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.embedding, expected.pred_embedding, atol=1e-3)
    np.testing.assert_allclose(found.mask_grids, expected.pred_mask_grids, atol=1e-3)
    np.testing.assert_allclose(found.mask_windows, expected.pred_mask_windows, atol=1e-2)
    np.testing.assert_allclose(found.angle, expected.pred_angle, atol=1e-2)
