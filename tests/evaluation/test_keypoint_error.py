import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from centernet_d2.evaluation.keypoint_error import KeypointErrorEvaluator, keypoint_errors


def annotation(box, keypoints, category=0, **more):
    return {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category, "keypoints": keypoints, **more}


def detections(boxes, keypoints, classes=None, scores=None):
    found = Instances((100, 100))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.pred_keypoints = torch.tensor(keypoints, dtype=torch.float32).reshape(-1, 2, 3)
    found.pred_classes = torch.tensor(classes or [0] * len(boxes))
    found.scores = torch.tensor(scores or [0.9] * len(boxes))
    return found


FIRST, SECOND = [0, 0, 40, 40], [50, 50, 90, 90]
TRUTH = [annotation(FIRST, [10, 10, 2, 30, 30, 1]), annotation(SECOND, [60, 60, 2, 0, 0, 0])]


def test_distances_are_those_to_the_overlapping_detection():
    found = detections([SECOND, FIRST], [[60, 65, 1, 9, 9, 1], [13, 14, 1, 30, 30, 1]])
    np.testing.assert_allclose(keypoint_errors(TRUTH, found), [[5, 0], [5, np.nan]])


def test_objects_without_a_detection_of_their_class_are_not_found():
    found = detections([SECOND, FIRST], [[60, 65, 1, 9, 9, 1], [13, 14, 1, 30, 30, 1]], classes=[0, 1])
    np.testing.assert_allclose(keypoint_errors(TRUTH, found), [[np.inf, np.inf], [5, np.nan]])
    np.testing.assert_allclose(keypoint_errors(TRUTH, detections([], [])), [[np.inf, np.inf], [np.inf, np.nan]])


def test_objects_without_labelled_keypoints_and_crowds_do_not_count():
    others = [annotation(FIRST, [0] * 6), annotation(FIRST, TRUTH[0]["keypoints"], iscrowd=1)]
    del (plain := annotation(FIRST, []))["keypoints"]
    found = detections([FIRST], [[13, 14, 1, 30, 30, 1]])
    assert keypoint_errors([*others, plain], found).shape == (0, 2)
    assert len(keypoint_errors([*others, plain, TRUTH[0]], found)) == 1


def test_means_leave_out_what_is_unknown():
    records = [{"image_id": 1, "annotations": TRUTH}, {"image_id": 2, "annotations": TRUTH[:1]}]
    DatasetCatalog.register("two_images", lambda: records)
    assert KeypointErrorEvaluator("two_images", 2).names == ["0", "1"]
    MetadataCatalog.get("two_images").keypoint_names = ["nose", "tail"]
    evaluator = KeypointErrorEvaluator("two_images", 2)
    good = detections([SECOND, FIRST], [[60, 63, 1, 9, 9, 1], [13, 14, 1, 30, 31, 1]])
    weak = detections([FIRST], [[10, 10, 1, 30, 30, 1]], scores=[0.2])
    evaluator.process([{"image_id": 1}, {"image_id": 2}], [{"instances": good}, {"instances": weak}])
    results = evaluator.evaluate()["keypoint_error"]
    assert results == pytest.approx({"nose": 4, "tail": 1, "mean": 3, "found": 200 / 3})
    evaluator.reset()
    assert np.isnan(evaluator.evaluate()["keypoint_error"]["found"])
