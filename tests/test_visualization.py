import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from centernet_d2.structures.boxes3d import Boxes3D
from centernet_d2.visualization import (
    draw_birds_eye,
    draw_boxes3d,
    draw_heatmap,
    draw_instances,
    draw_scene3d,
    draw_training,
    side_by_side,
)


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


CAMERA = torch.tensor([[60.0, 0, 40, 0], [0, 60, 30, 0], [0, 0, 1, 0]])


def test_a_box_in_space_is_drawn_inside_its_2d_box():
    boxes = Boxes3D([[0.5, 1.5, 10, 1.5, 1.6, 3.9, 0.4]])
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    drawn = draw_boxes3d(image, boxes, CAMERA, (255, 255, 255)).any(axis=2)
    assert not image.any()
    rows, columns = np.nonzero(drawn)
    x1, y1, x2, y2 = boxes.projected_boxes(CAMERA).tensor[0].tolist()
    assert (columns.min(), columns.max()) == pytest.approx((x1, x2), abs=1.5)
    assert (rows.min(), rows.max()) == pytest.approx((y1, y2), abs=1.5)


def test_boxes_behind_the_camera_and_wild_ones_do_no_harm():
    boxes = Boxes3D([[0, 1.5, -5, 1.5, 1.6, 3.9, 0], [0, 1.5, 0.5, 1.5, 1.6, 3.9, 0], [1e7, 0, 1e-3, 1, 1, 1, 1]])
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    assert not draw_boxes3d(image, boxes[0], CAMERA, (255, 0, 0)).any()
    assert draw_scene3d(image, CAMERA, boxes, boxes).shape == (60, 80 + 160, 3)
    assert draw_scene3d(image, CAMERA, Boxes3D([])).shape == (60, 240, 3)


def test_seen_from_above_far_is_up_and_right_is_right():
    picture = draw_birds_eye([(Boxes3D([[10, 1, 40, 1.5, 2, 4, 0]]), (255, 0, 0))], (120, 120), depth=60)
    # Thin lines are smoothed, so they are not purely red.
    rows, columns = np.nonzero(picture[..., 0].astype(int) - picture[..., 2] > 100)
    # Two pixels per metre; the stroke goes one length ahead, to the right.
    assert rows.mean() == pytest.approx(120 - 80, abs=1.5)
    assert columns.min() == pytest.approx(60 + 20 - 4, abs=1)
    assert columns.max() == pytest.approx(60 + 20 + 8, abs=1)


def test_a_training_picture_shows_space_if_there_is_a_camera():
    gt = Instances((60, 80))
    gt.gt_boxes, gt.gt_classes = Boxes(torch.tensor([[10.0, 10, 40, 50]])), torch.tensor([1])
    gt.gt_boxes3d, gt.gt_ignore = Boxes3D([[0.5, 1.5, 10, 1.5, 1.6, 3.9, 0.4]]), torch.tensor([False])
    found = detections([0.9])
    found.pred_boxes3d = gt.gt_boxes3d
    arguments = (torch.zeros(3, 60, 80), "BGR", gt, found, torch.zeros(2, 15, 20), 4)
    flat, space = draw_training(*arguments), draw_training(*arguments, camera=CAMERA)
    assert space.shape[1] == flat.shape[1]
    assert space.shape[2] > flat.shape[2]


def test_regions_to_ignore_are_grey():
    gt = Instances((60, 80))
    gt.gt_boxes, gt.gt_classes = Boxes(torch.tensor([[10.0, 10, 40, 50]])), torch.tensor([-1])
    black = np.zeros((60, 80, 3), dtype=np.uint8)
    by_class = draw_instances(black, gt, ["a", "b"])
    gt.gt_classes, gt.gt_ignore = torch.tensor([1]), torch.tensor([True])
    assert (draw_instances(black, gt, ["a", "b"]) == by_class).all()
    border = by_class[30, 8:13].astype(int)
    assert border.max() > 20
    assert (border.max(axis=1) - border.min(axis=1)).max() < 3
    assert gt.gt_classes.tolist() == [1]
