import pytest
import torch
from detectron2.structures import Boxes, Instances

from support.models import stub_heads, stub_model


def ground_truth(boxes, classes, ignore=None):
    gt = Instances((64, 64))
    gt.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    gt.gt_classes = torch.tensor(classes, dtype=torch.long)
    if ignore is not None:
        gt.gt_ignore = torch.tensor(ignore)
    return gt


def targets_of(gt, num_classes=3):
    model = stub_model(stub_heads(num_classes=num_classes))
    head = model.heads["CenterHead"]
    return head, head.targets(gt, model.build_points(gt, (16, 16)))


def test_each_object_is_a_one_on_the_plane_of_its_class():
    _, targets = targets_of(
        [ground_truth([[8, 8, 32, 32]], [2]), ground_truth([[0, 0, 8, 8], [40, 40, 60, 60]], [0, 1])]
    )
    ones = (targets["heatmap"] == 1).nonzero().tolist()
    assert ones == [[0, 2, 5, 5], [1, 0, 1, 1], [1, 1, 12, 12]]
    assert targets["heatmap"].shape == (2, 3, 16, 16)


def test_offset_is_what_the_cell_leaves_of_the_center():
    _, targets = targets_of([ground_truth([[8, 8, 31, 33]], [0])])
    # Center (19.5, 20.5) in input pixels: (4.875, 5.125) on the map.
    assert targets["offset"].value.tolist() == [[0.875, 0.125]]


def test_empty_images_give_an_empty_heatmap():
    _, targets = targets_of([ground_truth([], [])])
    assert targets["heatmap"].sum() == 0


def test_ignored_regions_are_no_objects_and_cost_nothing():
    head, targets = targets_of([ground_truth([[8, 8, 31, 31], [40, 40, 60, 60]], [0, 0], ignore=[True, False])])
    assert (targets["heatmap"] == 1).nonzero().tolist() == [[0, 0, 12, 12]]
    region = targets["heatmap_weight"][0, 0] == 0
    assert region.nonzero().amin(dim=0).tolist() == [2, 2]
    assert region.nonzero().amax(dim=0).tolist() == [8, 8]
    assert (targets["heatmap_weight"][0, 1:] == 1).all()

    logits = torch.full((1, 3, 16, 16), -2.0)
    quiet = {"heatmap": logits, "offset": torch.zeros(1, 2, 16, 16)}
    loud = {**quiet, "heatmap": torch.where(targets["heatmap_weight"] == 0, 3.0, logits)}
    assert head.losses(loud, targets)["loss_heatmap"] == head.losses(quiet, targets)["loss_heatmap"]
    _, unmasked = targets_of([ground_truth([[40, 40, 60, 60]], [0])])
    assert head.losses(loud, unmasked)["loss_heatmap"] > head.losses(quiet, unmasked)["loss_heatmap"]


def test_unflip_mirrors_the_heatmap_and_keeps_the_offset_out():
    head = stub_heads()["CenterHead"]
    maps = {"heatmap": torch.rand(1, 3, 4, 6), "offset": torch.rand(1, 2, 4, 6)}
    back = head.unflip(maps)
    assert torch.equal(back["heatmap"].flip(-1), maps["heatmap"])
    assert back["offset"] is None


def test_without_offset_centers_are_at_the_middle_of_their_cell():
    model = stub_model(stub_heads(offset=False), max_detections=1)
    heatmap = torch.zeros(1, 3, 8, 8)
    heatmap[0, 1, 2, 5] = 0.9
    fields = model.decode({"heatmap": heatmap, "size": torch.full((1, 2, 8, 8), 2.0)})
    assert fields["centers"].tolist() == [[[5.5, 2.5]]]
    assert "offset" not in model.heads["CenterHead"].maps


def test_unknown_loss_is_an_error():
    with pytest.raises(ValueError, match="OFFSET_LOSS is 'l2', known: l1, smooth_l1"):
        stub_heads(offset_loss="l2")
