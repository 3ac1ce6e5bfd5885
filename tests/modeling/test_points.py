import pytest
import torch
from detectron2.structures import Boxes, Instances

from centernet_d2.modeling.points import build_points


def instances(boxes, **fields):
    result = Instances((64, 128))
    result.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.gt_classes = torch.zeros(len(boxes), dtype=torch.long)
    for name, value in fields.items():
        result.set(name, value)
    return result


def test_points_are_in_map_pixels():
    # At stride 4 the box is 2..7 x 1..4 on the map: center (4.5, 2.5), 5 wide, 3 high.
    points = build_points([instances([[8, 4, 28, 16]])], (16, 32), stride=4)
    assert points.boxes.tolist() == [[2, 1, 7, 4]]
    assert points.centers.tolist() == [[4.5, 2.5]]
    assert points.cells.tolist() == [[4, 2]]
    # (sqrt(1.96 * 64 + 3.36 * 15) - 1.4 * 8) / 2 = 1.03
    assert points.radius.tolist() == [1]
    assert points.map_size == (1, 16, 32)


def test_boxes_are_clipped_to_the_last_cell():
    points = build_points([instances([[-10, -10, 400, 400]])], (16, 32), stride=4)
    assert points.boxes.tolist() == [[0, 0, 31, 15]]


def test_box_outside_map_is_invalid_with_zero_weight():
    points = build_points([instances([[200, 0, 240, 20], [0, 0, 20, 20]])], (16, 32), stride=4)
    assert points.valid.tolist() == [False, True]
    assert points.weight.tolist() == [0, 1]


def test_objects_keep_their_order_and_image():
    batch = [instances([[0, 0, 8, 8], [8, 8, 16, 16]]), instances([]), instances([[4, 4, 8, 8]])]
    points = build_points(batch, (16, 32), stride=4)
    assert points.image.tolist() == [0, 0, 2]
    assert points.boxes[:, 0].tolist() == [0, 2, 1]


def test_empty_batch_has_no_points():
    assert len(build_points([instances([]), instances([])], (16, 32), stride=4).image) == 0


def test_optional_fields_may_be_missing_in_some_images():
    batch = [
        instances([[0, 0, 8, 8], [0, 0, 8, 8]], gt_weight=torch.tensor([0.0, 1.0])),
        instances([[0, 0, 8, 8]], gt_ignore=torch.tensor([True])),
    ]
    points = build_points(batch, (16, 32), stride=4)
    assert points.ignore.tolist() == [False, False, True]
    assert points.weight.tolist() == [0, 1, 0]


def test_ground_truth_is_not_modified():
    gt = instances([[-10, -10, 400, 400]])
    build_points([gt], (16, 32), stride=4)
    assert gt.gt_boxes.tensor.tolist() == [[-10, -10, 400, 400]]


@pytest.mark.parametrize(("policy", "expected"), [("original", 17), ("corrected", 5)])
def test_radius_policy_of_points(policy, expected):
    # A box of 64 map pixels: 0.2733 * 64 = 17.5; corrected 0.0817 * 64 = 5.2.
    points = build_points([instances([[0, 0, 256, 256]])], (65, 65), stride=4, radius_policy=policy)
    assert points.radius.item() == expected


def test_radius_cpu_stays_on_cpu():
    points = build_points([instances([[8, 4, 28, 16]])], (16, 32), stride=4)
    moved = points.to(torch.device("meta"))
    assert moved.radius_cpu.tolist() == points.radius.tolist()
    assert {moved.image.device.type, moved.radius.device.type, moved.valid.device.type} == {"meta"}
    assert moved.map_size == points.map_size
    # Not available for points built on another device.
    gt = instances([[8, 4, 28, 16]]).to("meta")
    assert build_points([gt], (16, 32), stride=4).radius_cpu is None
