import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer

from centernet_d2.imaging.visualization import draw_instances
from centernet_d2.modeling.heads import Box3DProperty
from centernet_d2.modeling.heads.box3d.drawing import draw_birds_eye, draw_boxes3d
from centernet_d2.structures.boxes3d import Boxes3D

CAMERA = torch.tensor([[60.0, 0, 40, 0], [0, 60, 30, 0], [0, 0, 1, 0]])
BLACK = np.zeros((60, 80, 3), dtype=np.uint8)


def draw(boxes, color, camera=CAMERA):
    """Draw boxes on a black (60, 80, 3) image."""
    visualizer = Visualizer(BLACK.copy())
    draw_boxes3d(visualizer, boxes, camera, color)
    return visualizer.output.get_image()


def test_3d_box_is_drawn_inside_its_2d_box():
    boxes = Boxes3D([[0.5, 1.5, 10, 1.5, 1.6, 3.9, 0.4]])
    rows, columns = np.nonzero(draw(boxes, (255, 255, 255)).max(axis=2) > 40)
    x1, y1, x2, y2 = boxes.projected_boxes(CAMERA).tensor[0].tolist()
    assert (columns.min(), columns.max()) == pytest.approx((x1, x2), abs=1.5)
    assert (rows.min(), rows.max()) == pytest.approx((y1, y2), abs=1.5)


def test_boxes_are_drawn_in_given_color():
    figure = draw(Boxes3D([[0.5, 1.5, 10, 1.5, 1.6, 3.9, 0.4]]), (200, 100, 0)).astype(int)
    strongest = figure.reshape(-1, 3)[figure.sum(axis=2).argmax()]
    assert strongest[0] > 100
    assert strongest[1] == pytest.approx(strongest[0] / 2, abs=6)
    assert strongest[2] < 6


def test_boxes_behind_camera_and_extreme_boxes_are_drawn_without_error():
    boxes = Boxes3D([[0, 1.5, -5, 1.5, 1.6, 3.9, 0], [0, 1.5, 0.5, 1.5, 1.6, 3.9, 0], [1e7, 0, 1e-3, 1, 1, 1, 1]])
    assert not draw(boxes[0], (255, 0, 0)).any()
    assert draw(boxes, (255, 0, 0)).shape == (60, 80, 3)
    detections = Instances((60, 80), pred_boxes3d=boxes)
    detections.pred_boxes, detections.scores = Boxes(torch.tensor([[1.0, 1, 9, 9]] * 3)), torch.full((3,), 0.9)
    detections.pred_classes = torch.zeros(3, dtype=torch.long)
    for some in (detections, detections[:0]):
        figure = draw_instances(BLACK, some, properties=[Box3DProperty()], inputs={"camera": CAMERA})
        assert figure.shape == (60, 80 + 160, 3)
    assert not BLACK.any()


def test_only_known_ground_truth_is_drawn():
    gt = Instances((60, 80), gt_boxes=Boxes(torch.tensor([[0.0, 0, 1, 1]] * 3)), gt_classes=torch.tensor([0, 0, 0]))
    gt.gt_boxes3d = Boxes3D([[x, 1.5, 10, 1.5, 1.6, 3.9, 0.4] for x in (0.5, -3.5, 3.5)])
    gt.gt_space, gt.gt_ignore = torch.tensor([1.0, 0, 1]), torch.tensor([False, False, True])
    figure = draw_instances(BLACK, gt, properties=[Box3DProperty()], inputs={"camera": CAMERA})
    changed = (figure[:, :80] != draw_instances(BLACK, gt)).any(axis=2)
    x1, _, x2, _ = gt.gt_boxes3d[0].projected_boxes(CAMERA).tensor[0].tolist()
    columns = np.nonzero(changed.any(axis=0))[0]
    assert (columns.min(), columns.max()) == pytest.approx((x1, x2), abs=1.5)


@pytest.mark.parametrize("default", [None, CAMERA.tolist()])
def test_default_camera_of_config_is_used_for_drawing(default):
    gt = Instances((60, 80), gt_boxes=Boxes(torch.tensor([[0.0, 0, 1, 1]])), gt_classes=torch.tensor([0]))
    gt.gt_boxes3d, gt.gt_space = Boxes3D([[0.5, 1.5, 10, 1.5, 1.6, 3.9, 0.4]]), torch.ones(1)
    plain = draw_instances(BLACK, gt)
    figure = draw_instances(BLACK, gt, properties=[Box3DProperty(default_camera=default)])
    if default is None:
        assert (figure == plain).all()
    else:
        expected = draw_instances(BLACK, gt, properties=[Box3DProperty()], inputs={"camera": CAMERA})
        assert (figure == expected).all()


def test_birds_eye_view_axes():
    figure = draw_birds_eye([(Boxes3D([[10, 1, 40, 1.5, 2, 4, 0]]), (255, 0, 0))], (120, 120), depth=60)
    # Thin lines are antialiased, so they are not purely red.
    rows, columns = np.nonzero(figure[..., 0].astype(int) - figure[..., 2] > 100)
    # Two pixels per meter; the heading line is one length ahead, to the right.
    assert rows.mean() == pytest.approx(120 - 80, abs=1.5)
    assert columns.min() == pytest.approx(60 + 20 - 4, abs=1)
    assert columns.max() == pytest.approx(60 + 20 + 8, abs=1)
