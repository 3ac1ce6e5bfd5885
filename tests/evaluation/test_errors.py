import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from centernet_d2.evaluation.errors import ErrorEvaluator, depth_errors, keypoint_errors
from centernet_d2.structures.boxes3d import Boxes3D


def annotation(box, keypoints=None, category=0, **more):
    keypoints = {} if keypoints is None else {"keypoints": keypoints}
    return {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category, **keypoints, **more}


def detections(boxes, keypoints=(), classes=None, scores=None, depths=()):
    found = Instances((100, 100))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.pred_classes = torch.tensor(classes or [0] * len(boxes))
    found.scores = torch.tensor(scores or [0.9] * len(boxes))
    if len(depths):
        found.pred_boxes3d = Boxes3D([[0, 0, depth, 1, 1, 1, 0] for depth in depths])
    else:
        found.pred_keypoints = torch.tensor(keypoints, dtype=torch.float32).reshape(-1, 2, 3)
    return found


FIRST, SECOND = [0, 0, 40, 40], [50, 50, 90, 90]
TRUTH = [annotation(FIRST, [10, 10, 2, 30, 30, 1]), annotation(SECOND, [60, 60, 2, 0, 0, 0])]
FOUND = [[60, 65, 1, 9, 9, 1], [13, 14, 1, 30, 33, 1]]


def test_distances_are_those_to_the_overlapping_detection():
    errors = keypoint_errors(TRUTH, detections([SECOND, FIRST], FOUND))
    np.testing.assert_allclose(errors, [[5, 3, 4], [5, np.nan, 5]])


def test_objects_without_a_detection_of_their_class_are_not_found():
    errors = keypoint_errors(TRUTH, detections([SECOND, FIRST], FOUND, classes=[0, 1]))
    np.testing.assert_allclose(errors, [[np.inf] * 3, [5, np.nan, 5]])
    np.testing.assert_allclose(keypoint_errors(TRUTH, detections([], [])), [[np.inf] * 3, [np.inf, np.nan, np.inf]])
    elsewhere = detections([[0, 0, 40, 19]], FOUND[:1])
    assert np.isinf(keypoint_errors(TRUTH[:1], elsewhere)).all()


def test_objects_without_labelled_keypoints_and_crowds_do_not_count():
    others = [annotation(FIRST, [0] * 6), annotation(FIRST, TRUTH[0]["keypoints"], iscrowd=1), annotation(FIRST)]
    found = detections([FIRST], FOUND[1:])
    assert keypoint_errors(others, found).shape == (0, 3)
    assert len(keypoint_errors([*others, TRUTH[0]], found)) == 1


def test_depths_are_off_by_metres_and_percent():
    truth = [annotation(FIRST, depth=20.0), annotation(SECOND, depth=10.0), annotation(FIRST, depth=-1, ignore=True)]
    errors = depth_errors(truth, detections([SECOND, FIRST], depths=[11.0, 18.0]))
    np.testing.assert_allclose(errors, [[2, 10], [1, 10]])
    np.testing.assert_allclose(depth_errors(truth, detections([FIRST], depths=[18.0])), [[2, 10], [np.inf] * 2])


def test_objects_beside_the_camera_have_no_error_of_depth():
    truth = [annotation(FIRST, depth=z) for z in (-0.18, 0.0)] + [annotation(SECOND, depth=10.0)]
    np.testing.assert_allclose(depth_errors(truth, detections([SECOND, FIRST], depths=[11.0, 18.0])), [[1, 10]])
    assert depth_errors(truth[:2], detections([FIRST], depths=[18.0])).shape == (0, 2)


def test_a_detection_that_is_no_number_finds_nothing_and_hides_nothing():
    truth = [annotation(FIRST, depth=10.0)]
    assert np.isinf(depth_errors(truth, detections([FIRST], depths=[np.nan]))).all()
    errors = depth_errors(truth, detections([[np.nan] * 4, FIRST], depths=[3.0, 11.0]))
    np.testing.assert_allclose(errors, [[1, 10]], rtol=1e-6)


def test_means_leave_out_what_is_unknown():
    records = [{"image_id": 1, "annotations": TRUTH}, {"image_id": 2, "annotations": TRUTH[:1]}]
    DatasetCatalog.register("two_images", lambda: records)
    evaluator = ErrorEvaluator("two_images", "keypoint_error", ["nose", "tail", "mean"], keypoint_errors)
    weak = detections([FIRST], FOUND[1:], scores=[0.2])
    outputs = [{"instances": detections([SECOND, FIRST], FOUND)}, {"instances": weak}]
    evaluator.process([{"image_id": 1}, {"image_id": 2}], outputs)
    results = evaluator.evaluate()["keypoint_error"]
    assert results == pytest.approx({"nose": 5, "tail": 3, "mean": 4.5, "found": 200 / 3})
    evaluator.reset()
    assert np.isnan(evaluator.evaluate()["keypoint_error"]["found"])
