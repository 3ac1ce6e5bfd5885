import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from centernet_d2.visualization import draw_heatmap, draw_instances, side_by_side


def detections(scores):
    result = Instances((60, 80))
    result.pred_boxes = Boxes(torch.tensor([[10.0, 10, 40, 50]] * len(scores)))
    result.scores = torch.tensor(scores)
    result.pred_classes = torch.zeros(len(scores), dtype=torch.long)
    return result


def test_only_detections_above_the_threshold_are_drawn():
    image = np.full((60, 80, 3), 90, dtype=np.uint8)
    assert (draw_instances(image, detections([0.2])) == image).all()
    drawn = draw_instances(image, detections([0.9]), ["cell"])
    assert drawn.shape == image.shape
    assert (drawn != image).any()
    assert (image == 90).all()


def test_ground_truth_has_no_scores():
    gt = Instances((60, 80))
    gt.gt_boxes, gt.gt_classes = Boxes(torch.tensor([[10.0, 10, 40, 50]])), torch.tensor([1])
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    assert draw_instances(image, gt).any()


def test_keypoints_are_drawn_with_lines_and_scores():
    image = np.full((60, 80, 3), 90, dtype=np.uint8)
    found = detections([0.9])
    plain = draw_instances(image, found)
    found.pred_keypoints = torch.tensor([[[15.0, 20, 0.8], [35.0, 40, 0.9], [25.0, 45, 0.01]]])
    dots = draw_instances(image, found)
    assert (dots[20, 15] != plain[20, 15]).any()
    assert (dots[45, 25] == plain[45, 25]).all()
    metadata = Metadata(keypoint_names=["a", "b", "c"], keypoint_connection_rules=[("a", "b", (255, 0, 0))])
    lines = draw_instances(image, found, metadata=metadata)
    assert (lines[30, 25] != dots[30, 25]).any()
    assert (draw_instances(image, found, metadata=metadata, joint_scores=True) != lines).any()


def test_the_heatmap_glows_where_its_peak_is():
    heatmap = torch.zeros(2, 15, 20)
    heatmap[1, 5, 12] = 1
    to_image = torch.tensor([[4.0, 0, 0], [0, 4, 0]])
    drawn = draw_heatmap(np.zeros((60, 80, 3), dtype=np.uint8), heatmap, to_image).sum(axis=2)
    assert np.unravel_index(drawn.argmax(), drawn.shape) == pytest.approx((20, 48), abs=2)


def test_small_pictures_are_enlarged_side_by_side():
    picture = np.zeros((60, 80, 3), dtype=np.uint8)
    row = side_by_side([picture, picture], ["one", "two"], min_width=150)
    assert row.shape == (120 + 24, 2 * 160 + 6, 3)


def test_keypoints_are_drawn_and_connected():
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    found = detections([0.9, 0.1])
    plain = draw_instances(image, found)
    found.pred_keypoints = torch.tensor([[[12.0, 12, 1], [38, 48, 1]]] * 2)
    metadata = Metadata(keypoint_names=["a", "b"], keypoint_connection_rules=[("a", "b", (0, 255, 0))])
    drawn = draw_instances(image, found, metadata=metadata)
    assert (drawn != plain).any(axis=2).sum() > 20
    assert (draw_instances(image, found, threshold=0.95, metadata=metadata) == image).all()
