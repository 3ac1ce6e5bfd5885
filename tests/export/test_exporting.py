"""Exported files of tiny untrained networks: the same detections as the model, and errors."""

import copy
import itertools
import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from detectron2.data import Metadata

from centernet_d2 import Predictor
from centernet_d2.export import export_model, exporting, graphs, verification
from centernet_d2.export.detect import Detector
from centernet_d2.modeling import CenterNetWithTTA
from centernet_d2.modeling.heads import PointHead, Property
from support.models import stub_heads, stub_model
from support.tasks import COMMON, task_model

CAMERA = [[60.0, 0, 40, 0.5], [0, 60, 30, 0.1], [0, 0, 1, 0.01]]


def build(task="boxes", flip=False, class_specific=False, **options):
    if class_specific:
        torch.manual_seed(0)
        model = stub_model(stub_heads(box={"class_specific": True}), **options)
    else:
        model = task_model(task, **options)
    if task == "space":
        model.heads["Box3DHead"].prop.default_camera = torch.tensor(CAMERA, dtype=torch.float64)
        model.heads["Box3DHead"].prop.reference_focal = 50.0
    model = model.eval()
    return CenterNetWithTTA(model=model).eval() if flip else model


# Combinations of a normal run, in addition to the fixtures; `-m long` selects all others.
SHORT = {
    ("boxes", "image", "fixed", True, False),
    ("boxes", "canvas", "keep", True, True),
    ("pose", "canvas", "fixed_width", True, False),
    ("space", "image", "fixed_width", False, False),
}
MATRIX = [
    pytest.param(*chosen, marks=() if chosen in SHORT else pytest.mark.long)
    for chosen in itertools.product(
        ("boxes", "pose", "space"), ("image", "canvas"), ("keep", "fixed", "fixed_width"), (False, True), (False, True)
    )
    if chosen[0] == "boxes" or not chosen[-1]  # Only models for boxes have class-specific sizes.
]


@pytest.mark.parametrize(("task", "form", "resolution", "flip", "class_specific"), MATRIX)
def test_file_has_the_detections_of_the_model(task, form, resolution, flip, class_specific, images, tmp_path):
    model = build(task, flip, class_specific, test_resolution=resolution)
    report = export_model(model, tmp_path, images=images, form=form)
    result = report["verification"]
    assert result["compared"] > 200
    assert result["unmatched"] <= 0.01 * result["compared"]
    assert result["value_error"] < 0.05
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detect.py", "export.json", "model.onnx"]
    assert json.loads((tmp_path / "export.json").read_text()) == report


@pytest.fixture(scope="module")
def poses(tmp_path_factory):
    """Predictor of a model with boxes and keypoints, its exported file, and the report."""
    folder = tmp_path_factory.mktemp("poses")
    ids = {7: 0, 9: 1, 20: 2}
    metadata = Metadata(thing_classes=["a", "b", "c"], thing_dataset_id_to_contiguous_id=ids)
    predictor = Predictor(build("pose"), metadata=metadata)
    predictor.threshold = 0.105
    report = predictor.export(folder, check=False)
    return predictor, folder / "model.onnx", report


def test_detector_matches_predictor(poses, images):
    predictor, path, _ = poses
    detector = Detector(path)
    for record in images:
        expected, found = predictor(record["file_name"]), detector(record["file_name"])
        result = verification.compare(expected.to_coco(4), found.to_coco(4), 0.105)
        assert result.compared > 10
        assert result.unmatched == 0
        assert len(found) == len(expected["instances"])
        assert {entry["category_id"] for entry in found.to_coco()} <= {7, 9, 20}
        assert found.class_names == [["a", "b", "c"][index] for index in found.classes]
        assert found.keypoints.shape == (len(found), 3, 3)
        assert (np.diff(found.scores) <= 0).all()


def test_metadata(poses):
    _, path, report = poses
    metadata = json.loads({prop.key: prop.value for prop in onnx.load(path).metadata_props}["centernet_d2"])
    assert metadata.items() <= report.items()
    assert metadata["class_names"] == ["a", "b", "c"]
    assert metadata["category_ids"] == [7, 9, 20]
    assert metadata["outputs"] == ["scores", "classes", "boxes", "keypoints"]
    assert metadata["threshold"] == 0.105
    assert metadata["canvas"] == {"resolution": "keep", "multiple": 32, "size": None}
    assert len(metadata["weights_sha256"]) == 64


def test_scores_of_boxes_without_area_are_zero():
    model = build()
    with torch.no_grad():
        model.heads["BoxHead"].stacks[0]["size"][0].bias[0] = -100
        outputs = graphs.ImageGraph(model)(torch.randint(256, (60, 70, 3), dtype=torch.uint8))
    assert len(outputs["scores"]) == 100
    assert (outputs["scores"] == 0).all()


def test_camera_is_an_input(images, tmp_path):
    model = build("space")
    export_model(model, tmp_path, images=images)
    detector, camera = Detector(tmp_path / "model.onnx"), np.array(CAMERA) * [[2], [2], [1]]
    found = detector(images[1]["file_name"], 0, camera=camera)
    expected = Predictor(model)(images[1]["file_name"], threshold=0, camera=camera)
    assert verification.compare(expected.to_coco(), found.to_coco(), 0.0).unmatched == 0
    assert set(found.to_coco()[0]) >= {"box3d", "alpha"}
    near = detector(images[1]["file_name"], 0)
    assert np.allclose(2 * near.boxes3d[0, 2], found.boxes3d[0, 2], rtol=0.05)
    with pytest.raises(ValueError, match=r"unknown or missing inputs: tilt \(inputs: camera\)"):
        detector(images[1]["file_name"], tilt=1)


def test_other_weights_are_reported(poses):
    predictor, path, _ = poses
    other = copy.deepcopy(predictor.network)
    with torch.no_grad():
        other.backbone.convolutions[0].bias += 1
    with pytest.raises(ValueError, match="model.onnx was exported from other weights"):
        verification.ExportedModel(path, other)


def test_wrong_detections_fail_and_keep_earlier_files(images, tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_text("earlier")
    write = exporting.write_onnx

    def write_other(graph, *arguments):
        graph = copy.deepcopy(graph)
        graph.network.heads["BoxHead"].stacks[0]["size"][0].bias.data += 0.5
        write(graph, *arguments)

    monkeypatch.setattr(exporting, "write_onnx", write_other)
    with pytest.raises(ValueError, match=r"the exported file is wrong: \d+ of \d+ detections differ"):
        export_model(build(), tmp_path, images=images)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "earlier"


def test_too_few_detections_are_not_verified(images, tmp_path, monkeypatch):
    model = build(score_threshold=0.5)
    monkeypatch.setattr(exporting, "_write", lambda graph, path, *_: path.write_bytes(b""))
    monkeypatch.setattr(exporting, "ExportedModel", lambda path, network: FakeFile(network))
    with pytest.raises(ValueError, match="not verified: the model has 0 detections in 4 images, but 50 are needed"):
        export_model(model, tmp_path, images=images)
    assert not list(tmp_path.iterdir())
    assert "verification" not in export_model(model, tmp_path, images=images, check=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detect.py", "export.json", "model.onnx"]


class FakeFile(verification.TorchModel):
    """Stand-in for an exported file: the model itself."""

    detector = SimpleNamespace(metadata={"threshold": 0.3})


def test_models_that_cannot_be_exported(tmp_path):
    with pytest.raises(ValueError, match="TEST.AUG.SCALES is .*one scale"):
        export_model(CenterNetWithTTA(model=build(), scales=(0.5, 1.0)), tmp_path)
    with pytest.raises(ValueError, match="TEST.NMS is 'class', but exported models do not support it"):
        export_model(build(nms="class"), tmp_path)
    with pytest.raises(ValueError, match="OpenVINO does not support the operator DeformConv"):
        export_model(build(), tmp_path, file_format="openvino", deform_conv="onnx")
    with pytest.raises(ValueError, match="file_format .*is 'pdf'"):
        export_model(build(), tmp_path, file_format="pdf")
    with pytest.raises(ValueError, match="accuracy of int8 cannot be evaluated"):
        export_model(build(), tmp_path, precision="int8")


class CountHead(PointHead):
    """Head with a branch that depends on values, so it cannot be exported."""

    property_type = type("CountProperty", (Property,), {"name": "count", "fields": ("pred_count",)})
    provides = ("count",)

    def targets(self, gt, points):
        return {}

    def losses(self, maps, targets):
        return {}

    def unflip(self, maps):
        return maps

    def decode(self, maps, peaks, fields):
        return {"count": peaks.gather(maps["count"])[..., 0]}

    def to_image(self, fields, geometry):
        return {"pred_count": fields["count"] if fields["count"].sum() > 0 else -fields["count"]}


def test_head_that_cannot_be_exported_is_named(tmp_path):
    heads = {**stub_heads(), "CountHead": CountHead({"count": 1}, **COMMON)}
    with pytest.raises(ValueError, match="CountHead"):
        export_model(stub_model(heads).eval(), tmp_path)
