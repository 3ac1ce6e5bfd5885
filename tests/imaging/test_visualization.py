import argparse

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from centernet_d2.imaging.visualization import draw_heatmap, draw_instances, draw_training, side_by_side
from centernet_d2.modeling.heads import Box3DProperty, KeypointProperty, Property
from centernet_d2.modeling.heads.keypoint import KeypointSchema
from centernet_d2.structures.boxes3d import Boxes3D


def detections(scores):
    result = Instances((60, 80))
    result.pred_boxes = Boxes(torch.tensor([[10.0, 10, 40, 50]] * len(scores)))
    result.scores = torch.tensor(scores)
    result.pred_classes = torch.zeros(len(scores), dtype=torch.long)
    return result


def test_threshold_of_drawn_detections():
    image = np.full((60, 80, 3), 90, dtype=np.uint8)
    assert (draw_instances(image, detections([0.2])) == image).all()
    drawn = draw_instances(image, detections([0.9]), ["cell"])
    assert drawn.shape == image.shape
    assert (drawn != image).any()
    assert (image == 90).all()


def test_ground_truth_without_scores_is_drawn():
    gt = Instances((60, 80))
    gt.gt_boxes, gt.gt_classes = Boxes(torch.tensor([[10.0, 10, 40, 50]])), torch.tensor([1])
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    assert draw_instances(image, gt).any()


def keypoints(names, lines=(), scores=False):
    prop = KeypointProperty(schema=KeypointSchema.from_names(names, [], lines))
    prop.use_arguments(argparse.Namespace(joint_scores=scores))
    return [prop]


def test_keypoints_are_drawn_with_lines_and_scores():
    image = np.full((60, 80, 3), 90, dtype=np.uint8)
    predictions = detections([0.9])
    predictions.pred_keypoints = torch.tensor([[[15.0, 20, 0.8], [35.0, 40, 0.9], [25.0, 45, 0.01]]])
    plain = draw_instances(image, predictions)
    dots = draw_instances(image, predictions, properties=keypoints("abc"))
    assert (dots[20, 15] != plain[20, 15]).any()
    assert (dots[45, 25] == plain[45, 25]).all()
    lines = draw_instances(image, predictions, properties=keypoints("abc", ["ab"]))
    assert (lines[30, 25] != dots[30, 25]).any()
    assert (draw_instances(image, predictions, properties=keypoints("abc", ["ab"], scores=True)) != lines).any()


def test_heatmap_peak_is_brightest():
    heatmap = torch.zeros(2, 15, 20)
    heatmap[1, 5, 12] = 1
    to_image = torch.tensor([[4.0, 0, 0], [0, 4, 0]])
    drawn = draw_heatmap(np.zeros((60, 80, 3), dtype=np.uint8), heatmap, to_image).sum(axis=2)
    assert np.unravel_index(drawn.argmax(), drawn.shape) == pytest.approx((20, 48), abs=2)


def test_side_by_side_enlarges_small_figures():
    figure = np.zeros((60, 80, 3), dtype=np.uint8)
    row = side_by_side([figure, figure], ["one", "two"], min_width=150)
    assert row.shape == (120 + 24, 2 * 160 + 6, 3)


def test_keypoints_are_connected():
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    predictions = detections([0.9, 0.1])
    plain = draw_instances(image, predictions)
    predictions.pred_keypoints = torch.tensor([[[12.0, 12, 1], [38, 48, 1]]] * 2)
    properties = keypoints("ab", ["ab"])
    drawn = draw_instances(image, predictions, properties=properties)
    assert (drawn != plain).any(axis=2).sum() > 20
    assert (draw_instances(image, predictions, threshold=0.95, properties=properties) == image).all()


CAMERA = torch.tensor([[60.0, 0, 40, 0], [0, 60, 30, 0], [0, 0, 1, 0]])
CAR = [0.5, 1.5, 10, 1.5, 1.6, 3.9, 0.4]


def ground_truth_car(**more):
    gt = Instances((60, 80), **more)
    gt.gt_boxes, gt.gt_classes = Boxes(torch.tensor([[10.0, 10, 40, 50]])), torch.tensor([1])
    gt.gt_boxes3d, gt.gt_space = Boxes3D([CAR]), torch.ones(1)
    return gt


def test_training_figure_shows_birds_eye_views():
    """With a camera, ground truth and predictions each have a bird's-eye view."""
    gt, predictions = ground_truth_car(gt_ignore=torch.tensor([False])), detections([0.9])
    predictions.pred_boxes3d = gt.gt_boxes3d
    arguments = (torch.zeros(3, 60, 80), "BGR", gt, predictions, torch.zeros(2, 15, 20), 4)
    figure = draw_training(*arguments)
    assert figure.shape == (3, 4 * 60 + 24, 3 * 4 * 80 + 2 * 6)
    panels = draw_training(*arguments, properties=[Box3DProperty()], inputs={"camera": CAMERA})
    assert panels.shape == (3, 4 * 60 + 24, 4 * (3 * 80 + 2 * 160) + 2 * 6)
    # The bird's-eye views, to the right of the images, are gray except for the boxes.
    for start in (0, 4 * 240 + 6):
        view = panels[:, 24:, start + 4 * 80 : start + 4 * 240].astype(int)
        assert (view.max(axis=0) - view.min(axis=0) > 100).any()


def test_panels_of_properties_are_joined_in_a_row():
    class Panel(Property):
        def draw(self, visualizer, instances, inputs):
            return [np.full((inputs["height"], 10, 3), 7, dtype=np.uint8)]

    image = np.full((60, 80, 3), 90, dtype=np.uint8)
    drawn = draw_instances(image, detections([0.9]), properties=[Panel(), Panel()], inputs={"height": 40})
    assert drawn.shape == (60, 100, 3)
    assert (drawn[:40, 80:] == 7).all()
    assert (drawn[40:, 80:] == 255).all()
    higher = draw_instances(image, detections([0.9]), properties=[Panel()], inputs={"height": 70})
    assert higher.shape == (70, 90, 3)
    row = side_by_side([higher, image], min_width=0)
    assert row.shape == (70, 90 + 6 + 80, 3)
    assert (row[60:, 90:] == 255).all()


def test_regions_to_ignore_are_gray():
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
