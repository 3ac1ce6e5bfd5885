import torch
from detectron2.structures import Boxes, Instances

from centernet_d2.modeling.points import build_points
from centernet_d2.structures.points import Peaks, known_objects, optional_field


def instances(boxes, **fields):
    result = Instances((16, 20))
    result.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.gt_classes = torch.arange(len(boxes))
    for name, value in fields.items():
        result.set(name, value)
    return result


def points_of(*boxes, **labels):
    return build_points([instances([box]) for box in boxes], (4, 5), stride=4, **labels)


def test_gather_reads_values_at_cells():
    tensor = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    points = points_of([0, 0, 8, 8], [8, 4, 16, 12])
    target = points.target(torch.zeros(2, 3))
    assert target.gather(tensor)[1].tolist() == tensor[1, :, points.cells[1, 1], points.cells[1, 0]].tolist()
    peaks = Peaks(torch.ones(2, 1), torch.zeros(2, 1), torch.tensor([[[4, 2]], [[1, 3]]]))
    assert peaks.gather(tensor)[:, 0].tolist() == [tensor[0, :, 2, 4].tolist(), tensor[1, :, 3, 1].tolist()]


def test_target_weight_defaults_to_object_weight():
    points = points_of([0, 0, 8, 8], [80, 4, 90, 12])
    assert points.target(torch.zeros(2, 3)).weight.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert points.target(torch.zeros(2, 1), torch.full((2, 1), 0.5)).weight.tolist() == [[0.5], [0.5]]


def test_labeled_properties_of_images():
    boxes = [0, 0, 8, 8], [8, 4, 16, 12]
    for labels in ({}, {"unlabeled": [(), ()]}, {"unlabeled": [["box3d"], ()]}):
        assert points_of(*boxes, **labels).labeled("keypoint") is None
    known = points_of(*boxes, unlabeled=[["box3d", "keypoint"], ["box3d"]]).labeled("keypoint")
    assert tuple(known.shape) == (2, 1, 1, 1)
    assert known.flatten().tolist() == [False, True]


def test_optional_field_default():
    batch = [instances([[0, 0, 8, 8]] * 2), instances([[0, 0, 8, 8]], gt_weight=torch.tensor([0.5])), instances([])]
    assert optional_field(batch, "gt_weight", torch.ones(())).tolist() == [1, 1, 0.5]


def test_known_objects_excludes_ignored_regions():
    gt = instances([[0, 0, 8, 8]] * 3, gt_ignore=torch.tensor([False, True, False]))
    assert known_objects(gt).gt_classes.tolist() == [0, 2]
    plain = instances([[0, 0, 8, 8]])
    assert known_objects(plain) is plain
