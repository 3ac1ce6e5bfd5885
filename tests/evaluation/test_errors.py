import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from centernet_d2.evaluation.errors import ErrorEvaluator, drop_non_finite
from centernet_d2.modeling.heads import Box3DProperty, BoxProperty, CenterProperty, KeypointProperty, Property
from centernet_d2.modeling.heads.keypoint import KeypointSchema
from centernet_d2.structures.boxes3d import Boxes3D

CAMERA = [[50.0, 0, 50, 0], [0, 50, 50, 0], [0, 0, 1, 0]]


def annotation(box, keypoints=None, category=0, depth=None, **more):
    keypoints = {} if keypoints is None else {"keypoints": keypoints}
    space = {} if depth is None else {"location": [0, 0, depth], "dimensions": [1, 1, 1], "rotation_y": 0, "alpha": 0}
    depth = {} if depth is None else {"depth": depth}
    return {
        "bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category, **keypoints, **space, **depth, **more
    }  # fmt: skip


def detections(boxes, keypoints=(), classes=None, scores=None, depths=(), **more):
    found = Instances((100, 100), **more)
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.pred_classes = torch.tensor(classes or [0] * len(boxes), dtype=torch.long)
    found.scores = torch.tensor(scores or [0.9] * len(boxes))
    if len(depths):
        found.pred_boxes3d = Boxes3D([[0, 0, depth, 1, 1, 1, 0] for depth in depths])
    elif len(keypoints):
        found.pred_keypoints = torch.tensor(keypoints, dtype=torch.float32).reshape(-1, 2, 3)
    return found


@pytest.fixture
def evaluate():
    """Function (properties, annotations and detections of each image...) -> results."""
    numbers = iter(range(100))

    def run(properties, *images):
        records = [
            {"image_id": i, "file_name": f"{i}.png", "camera": CAMERA, "annotations": truth}
            for i, (truth, _) in enumerate(images)
        ]
        name = f"set_{next(numbers)}"
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).thing_classes = ["a", "b"]
        evaluator = ErrorEvaluator(name, properties)
        evaluator.process([{"image_id": i} for i in range(len(images))], [{"instances": found} for _, found in images])
        return evaluator.evaluate()

    return run


KEYPOINTS = [KeypointProperty(schema=KeypointSchema.from_names(["nose", "tail"], []))]
DEPTHS = [Box3DProperty()]
FIRST, SECOND = [0, 0, 40, 40], [50, 50, 90, 90]
TRUTH = [annotation(FIRST, [10, 10, 2, 30, 30, 1]), annotation(SECOND, [60, 60, 2, 0, 0, 0])]
FOUND = [[60, 65, 1, 9, 9, 1], [13, 14, 1, 30, 33, 1]]


def test_errors_are_relative_to_the_overlapping_detection(evaluate):
    results = evaluate(KEYPOINTS, (TRUTH, detections([SECOND, FIRST], FOUND)))
    # 5 and 3 for the first object; 5 for the second object, whose tail is not labeled.
    assert results == {"keypoint_error": pytest.approx({"nose": 5, "tail": 3, "mean": 4.5, "found": 100})}
    for truth, nose in ((TRUTH[:1], 5), (TRUTH[1:], 5)):
        assert evaluate(KEYPOINTS, (truth, detections([SECOND, FIRST], FOUND)))["keypoint_error"]["nose"] == nose


def test_objects_without_detection_of_their_class_are_not_found(evaluate):
    errors = evaluate(KEYPOINTS, (TRUTH, detections([SECOND, FIRST], FOUND, classes=[0, 1])))["keypoint_error"]
    assert errors == pytest.approx({"nose": 5, "tail": np.nan, "mean": 5, "found": 50}, nan_ok=True)
    assert evaluate(KEYPOINTS, (TRUTH, detections([])))["keypoint_error"] == {"found": 0}
    elsewhere = detections([[0, 0, 40, 19]], FOUND[:1])
    assert evaluate(KEYPOINTS, (TRUTH[:1], elsewhere))["keypoint_error"] == {"found": 0}


def test_crowds_and_objects_without_keypoints_are_not_counted(evaluate):
    others = [annotation(FIRST, [0] * 6), annotation(FIRST, TRUTH[0]["keypoints"], iscrowd=1), annotation(FIRST)]
    found = detections([FIRST], FOUND[1:])
    assert evaluate(KEYPOINTS, (others, found)) == {}
    errors = evaluate(KEYPOINTS, ([*others, TRUTH[0]], found))["keypoint_error"]
    assert errors == pytest.approx({"nose": 5, "tail": 3, "mean": 4, "found": 100})


def test_depth_errors_in_meters_and_percent(evaluate):
    ignored = annotation(FIRST, depth=-1, ignore=True)
    truth = [annotation(FIRST, depth=20.0), annotation(SECOND, depth=10.0), ignored]
    errors = evaluate(DEPTHS, (truth, detections([SECOND, FIRST], depths=[11.0, 18.0])))
    assert errors == {"depth_error": pytest.approx({"meters": 1.5, "percent": 10, "found": 100})}
    errors = evaluate(DEPTHS, (truth, detections([FIRST], depths=[18.0])))["depth_error"]
    assert errors == pytest.approx({"meters": 2, "percent": 10, "found": 50})


def test_objects_next_to_the_camera_have_no_depth_error(evaluate):
    truth = [annotation(FIRST, depth=z) for z in (-0.18, 0.0)] + [annotation(SECOND, depth=10.0)]
    errors = evaluate(DEPTHS, (truth, detections([SECOND, FIRST], depths=[11.0, 18.0])))["depth_error"]
    assert errors == pytest.approx({"meters": 1, "percent": 10, "found": 100})
    assert evaluate(DEPTHS, (truth[:2], detections([FIRST], depths=[18.0]))) == {}


def test_detections_with_nan_are_ignored(evaluate):
    truth = [annotation(FIRST, depth=10.0)]
    assert evaluate(DEPTHS, (truth, detections([FIRST], depths=[np.nan])))["depth_error"] == {"found": 0}
    for boxes, depths in (([[np.nan] * 4, FIRST], [3.0, 11.0]), ([FIRST, FIRST], [np.nan, 11.0])):
        errors = evaluate(DEPTHS, (truth, detections(boxes, depths=depths)))["depth_error"]
        assert errors == pytest.approx({"meters": 1, "percent": 10, "found": 100})


def test_means_are_over_all_images_and_known_values(evaluate):
    weak = detections([FIRST], FOUND[1:], scores=[0.2])
    images = [(TRUTH, detections([SECOND, FIRST], FOUND)), (TRUTH[:1], weak)]
    results = evaluate(KEYPOINTS, *images)["keypoint_error"]
    assert results == pytest.approx({"nose": 5, "tail": 3, "mean": 4.5, "found": 200 / 3})


def test_reset_clears_results():
    DatasetCatalog.register("one", lambda: [{"image_id": 1, "file_name": "x.png", "annotations": TRUTH}])
    MetadataCatalog.get("one").thing_classes = ["a"]
    evaluator = ErrorEvaluator("one", KEYPOINTS)
    evaluator.process([{"image_id": 1}], [{"instances": detections([SECOND, FIRST], FOUND)}])
    assert evaluator.evaluate()["keypoint_error"]["found"] == 100
    evaluator.reset()
    assert evaluator.evaluate() == {}


class Tilt(Property):
    """Property with a number per object of class "a" that records calls of `errors`."""

    name = "tilt"
    fields = ("pred_tilt",)
    annotation_keys = ("tilt",)

    def __init__(self):
        super().__init__()
        self.calls = []

    def annotate(self, record, transforms, size):
        return {"gt_tilt": torch.tensor([float(x.get("tilt", 0)) for x in record["annotations"]])}

    def labeled(self, truth):
        return truth.gt_classes == 0

    def errors(self, detections, truth):
        self.calls.append((detections.pred_tilt.tolist(), truth.gt_tilt.tolist(), truth.gt_classes.tolist()))
        return {"most": float((detections.pred_tilt - truth.gt_tilt).abs().max())}


def test_property_errors_are_called_once_with_all_pairs(evaluate, caplog):
    tilt = Tilt()
    truth = [annotation(FIRST, tilt=1), annotation(SECOND, tilt=2), annotation(FIRST, tilt=9, category=1)]
    found = [
        detections([SECOND, FIRST, FIRST], classes=[0, 0, 1], pred_tilt=torch.tensor([2.5, 1.25, 0])),
        detections([FIRST], pred_tilt=torch.tensor([4.0])),
    ]
    with caplog.at_level(logging.INFO):
        results = evaluate([CenterProperty(), tilt, BoxProperty()], *zip([truth, truth], found, strict=True))
    # The two objects of class "a" in each image count; class "b" is not labeled.
    assert tilt.calls == [([1.25, 2.5, 4.0], [1, 2, 1], [0, 0, 0])]
    assert results == {"tilt_error": {"most": 3.0, "found": 75.0}}
    (line,) = [line for line in caplog.messages if line.startswith("errors of tilt")]
    assert "most" in line


@pytest.mark.parametrize("broken", ["pred_tilt", "scores", "pred_boxes"])
def test_property_errors_are_not_called_without_pairs(evaluate, broken):
    tilt = Tilt()
    nothing = detections([], pred_tilt=torch.zeros(0))
    assert evaluate([tilt], ([annotation(FIRST)], nothing)) == {"tilt_error": {"found": 0}}
    assert evaluate([tilt], ([annotation(FIRST, category=1)], detections([FIRST], pred_tilt=torch.ones(1)))) == {}
    assert evaluate([tilt], ([], nothing)) == {}
    no_number = detections([FIRST], pred_tilt=torch.ones(1))
    value = no_number.get(broken)
    getattr(value, "tensor", value)[0] = float("nan")
    assert evaluate([tilt], ([annotation(FIRST)], no_number)) == {"tilt_error": {"found": 0}}
    assert tilt.calls == []


def test_annotations_are_not_read_without_property_errors():
    def fail():
        raise AssertionError("annotations were read")

    DatasetCatalog.register("unread", fail)
    MetadataCatalog.get("unread").thing_classes = ["a"]
    evaluator = ErrorEvaluator("unread", [CenterProperty(), BoxProperty()])
    evaluator.process([{"image_id": 1}], [{"instances": detections([FIRST])}])
    assert evaluator.evaluate() == {}


def test_non_tensor_fields_are_kept():
    class Names(list):
        def __getitem__(self, rows):
            return Names(name for name, kept in zip(self, rows.tolist(), strict=True) if kept)

    found = detections([[0, 0, 5, 5], [1, 1, 9, 9]], scores=[0.9, float("nan")])
    found.pred_name = Names("ab")
    assert drop_non_finite(found).pred_name == ["a"]
