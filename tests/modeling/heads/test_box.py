import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from centernet_d2.imaging.geometry import Geometry
from centernet_d2.structures.points import DenseTarget
from support.models import stub_heads, stub_model


def maps_of(model, gt, map_size):
    """Build the output of a perfect network from the targets."""
    points = model.build_points([gt], map_size)
    maps = {}
    for head in model.heads.values():
        for name, target in head.targets([gt], points).items():
            if isinstance(target, DenseTarget):
                maps[name] = target.value
            else:
                maps[name] = torch.zeros(1, target.value.shape[1], *map_size)
                maps[name][target.image, :, target.cells[:, 1], target.cells[:, 0]] = target.value
    return maps


@pytest.mark.parametrize("class_specific", [False, True])
def test_perfect_maps_decode_to_the_ground_truth(class_specific):
    gt = Instances((96, 160))
    gt.gt_boxes = Boxes(torch.tensor([[8.0, 8, 31, 33], [60, 50, 150, 90], [100, 3, 120, 44]]))
    gt.gt_classes = torch.tensor([2, 0, 1])
    model = stub_model(stub_heads(box={"class_specific": class_specific}), max_detections=3)
    to_image = torch.tensor([[4.0, 0, 0], [0, 4, 0]], dtype=torch.float64)
    detections = model.detect(maps_of(model, gt, (24, 40)), [Geometry((96, 160), (96, 160), to_image)])[0]
    order = detections.pred_boxes.tensor[:, 0].argsort()
    np.testing.assert_allclose(detections.pred_boxes.tensor[order], gt.gt_boxes.tensor, atol=1e-4)
    assert detections.pred_classes[order].tolist() == [2, 0, 1]
    assert detections.scores.tolist() == [1, 1, 1]


def test_class_specific_size_only_supervises_own_class():
    gt = Instances((64, 64))
    gt.gt_boxes, gt.gt_classes = Boxes(torch.tensor([[8.0, 8, 32, 16]])), torch.tensor([1])
    model = stub_model(stub_heads(box={"class_specific": True}))
    target = model.heads["BoxHead"].targets([gt], model.build_points([gt], (16, 16)))["size"]
    assert target.value.tolist() == [[0, 0, 6, 2, 0, 0]]
    assert target.weight.tolist() == [[0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize(("clip", "expected"), [(True, [0, 0, 20, 10]), (False, [-8, -4, 24, 12])])
def test_clipping_is_optional(clip, expected):
    head = stub_heads(box={"clip": clip})["BoxHead"]
    to_image = torch.tensor([[4.0, 0, 0], [0, 4, 0]], dtype=torch.float64)
    fields = {"boxes": torch.tensor([[-2.0, -1, 6, 3]])}
    boxes = head.to_image(fields, Geometry((10, 20), (32, 32), to_image))["pred_boxes"]
    assert boxes.tolist() == [expected]


def test_unflip_of_size():
    maps = {"size": torch.rand(1, 2, 4, 6)}
    assert torch.equal(stub_heads()["BoxHead"].unflip(maps)["size"].flip(-1), maps["size"])


def test_smooth_l1_loss():
    gt = Instances((64, 64))
    gt.gt_boxes, gt.gt_classes = Boxes(torch.tensor([[8.0, 8, 32, 16]])), torch.tensor([1])
    zeros = {"size": torch.zeros(1, 2, 16, 16)}
    losses = {}
    for loss in ("l1", "smooth_l1"):
        model = stub_model(stub_heads(box={"loss": loss, "weight": 1.0}))
        head = model.heads["BoxHead"]
        losses[loss] = head.losses(zeros, head.targets([gt], model.build_points([gt], (16, 16))))["loss_size"].item()
    # Sizes 6 and 2: the mean over values for l1, and the sum 5.5 + 1.5 over one object for smooth l1.
    assert losses == {"l1": pytest.approx(4, rel=1e-3), "smooth_l1": pytest.approx(7, rel=1e-3)}


def test_class_specific_size_always_uses_l1():
    assert stub_heads(box={"loss": "smooth_l1", "class_specific": True})["BoxHead"].loss == "l1"


def test_unknown_loss_raises():
    with pytest.raises(ValueError, match="^loss is 'l2', known: l1, smooth_l1"):
        stub_heads(box={"loss": "l2"})
