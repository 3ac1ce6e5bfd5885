"""Exported models with the heads of the examples."""

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


@pytest.mark.parametrize(
    ("example", "head", "options", "output"),
    [
        ("identity", "IdentityHead", {"count": 5, "size": 4}, "embedding"),
        ("rotated_boxes", "AngleHead", {}, "angle"),
    ],
    ids=["identity", "rotated_boxes"],
)
def test_exported_file_has_the_detections_of_predictor(example, head, options, output, tmp_path):
    (module,) = import_user_modules([str(EXAMPLES / example / f"{example}.py")])
    torch.manual_seed(0)
    predictor = Predictor(stub_model({**stub_heads(), head: getattr(module, head)(**options, **COMMON)}))
    predictor.export(tmp_path, check=False)
    image = np.random.default_rng(0).integers(0, 256, (63, 60, 3), dtype=np.uint8)
    expected, found = predictor(image, threshold=0)["instances"], Detector(tmp_path / "model.onnx")(image, 0)
    assert len(found) == len(expected) > 40
    # The order of almost equal scores may differ.
    distances = np.abs(found.boxes[:, None] - expected.pred_boxes.tensor.numpy()).max(axis=2)
    expected = expected[torch.from_numpy(distances.argmin(axis=1))]
    np.testing.assert_allclose(found.boxes, expected.pred_boxes.tensor, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.outputs[output], expected.get(f"pred_{output}"), atol=1e-2)
