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


def test_heatmap_is_one_at_object_centers():
    _, targets = targets_of(
        [ground_truth([[8, 8, 32, 32]], [2]), ground_truth([[0, 0, 8, 8], [40, 40, 60, 60]], [0, 1])]
    )
    ones = (targets["heatmap"].value == 1).nonzero().tolist()
    assert ones == [[0, 2, 5, 5], [1, 0, 1, 1], [1, 1, 12, 12]]
    assert targets["heatmap"].value.shape == (2, 3, 16, 16)


def test_offset_is_subcell_part_of_center():
    _, targets = targets_of([ground_truth([[8, 8, 31, 33]], [0])])
    # Center (19.5, 20.5) in input pixels: (4.875, 5.125) on the map.
    assert targets["offset"].value.tolist() == [[0.875, 0.125]]


def test_image_without_objects_has_empty_heatmap():
    _, targets = targets_of([ground_truth([], [])])
    assert targets["heatmap"].value.sum() == 0


def test_ignored_regions_are_not_objects_and_have_no_loss():
    head, targets = targets_of([ground_truth([[8, 8, 31, 31], [40, 40, 60, 60]], [0, 0], ignore=[True, False])])
    assert (targets["heatmap"].value == 1).nonzero().tolist() == [[0, 0, 12, 12]]
    region = targets["heatmap"].weight[0, 0] == 0
    assert region.nonzero().amin(dim=0).tolist() == [2, 2]
    assert region.nonzero().amax(dim=0).tolist() == [8, 8]
    assert (targets["heatmap"].weight[0, 1:] == 1).all()

    logits = torch.full((1, 3, 16, 16), -2.0)
    quiet = {"heatmap": logits, "offset": torch.zeros(1, 2, 16, 16)}
    loud = {**quiet, "heatmap": torch.where(targets["heatmap"].weight == 0, 3.0, logits)}
    assert head.losses(loud, targets)["loss_heatmap"] == head.losses(quiet, targets)["loss_heatmap"]
    _, unmasked = targets_of([ground_truth([[40, 40, 60, 60]], [0])])
    assert head.losses(loud, unmasked)["loss_heatmap"] > head.losses(quiet, unmasked)["loss_heatmap"]


def test_unlabeled_classes_have_no_loss():
    model = stub_model()
    head = model.heads["CenterHead"]
    batch = [
        {"instances": ground_truth([[8, 8, 32, 32]], [0]), "labeled_classes": torch.tensor([True, False, True])},
        {
            "instances": ground_truth([[8, 8, 32, 32], [40, 40, 60, 60]], [1, 0]),
            "labeled_classes": torch.ones(3).bool(),
        },
    ]
    heatmap = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def loss_and_gradient(inputs, logits=heatmap):
        maps = {"heatmap": logits, "offset": torch.zeros(2, 2, 16, 16)}
        loss = head.losses(maps, head.targets(*model.ground_truth(inputs, (16, 16))))["loss_heatmap"]
        return loss.detach(), torch.autograd.grad(loss, logits)[0]

    masked, gradient = loss_and_gradient(batch)
    assert (gradient.abs().amax(dim=(2, 3)) > 0).tolist() == [[True, False, True], [True, True, True]]
    loud = heatmap.detach().clone()
    loud[0, 1] += 3
    assert loss_and_gradient(batch, loud.requires_grad_())[0] == masked
    # All classes are labeled in an image without `labeled_classes`.
    plain = [{"instances": x["instances"]} for x in batch]
    everything, other = loss_and_gradient(plain)
    assert everything > masked
    assert (other.abs().amax(dim=(2, 3)) > 0).all()
    assert torch.equal(loss_and_gradient([batch[0], plain[1]])[1], gradient)


def test_ignored_regions_and_unlabeled_classes_combine():
    gt = ground_truth([[8, 8, 31, 31], [40, 40, 60, 60]], [0, 0], ignore=[True, False])
    model = stub_model()
    batch = [{"instances": gt, "labeled_classes": torch.tensor([True, True, False])}]
    weight = model.heads["CenterHead"].targets(*model.ground_truth(batch, (16, 16)))["heatmap"].weight
    assert (weight[0, 0] == 0).nonzero().amax(dim=0).tolist() == [8, 8]
    assert weight[0, 0, 12, 12] == weight[0, 1].min() == 1
    assert weight[0, 2].max() == 0


def test_unflip_excludes_offset():
    head = stub_heads()["CenterHead"]
    maps = {"heatmap": torch.rand(1, 3, 4, 6), "offset": torch.rand(1, 2, 4, 6)}
    back = head.unflip(maps)
    assert torch.equal(back["heatmap"].flip(-1), maps["heatmap"])
    assert back["offset"] is None


def test_without_offset_centers_are_cell_centers():
    model = stub_model(stub_heads(offset=False), max_detections=1)
    heatmap = torch.zeros(1, 3, 8, 8)
    heatmap[0, 1, 2, 5] = 0.9
    fields = model.decode({"heatmap": heatmap, "size": torch.full((1, 2, 8, 8), 2.0)})
    assert fields["centers"].tolist() == [[[5.5, 2.5]]]
    assert "offset" not in model.heads["CenterHead"].maps


def test_unknown_loss_raises():
    with pytest.raises(ValueError, match="^offset_loss is 'l2', known: l1, smooth_l1"):
        stub_heads(offset_loss="l2")


def ignored_heatmap(policy, boxes, ignore, classes=None):
    """Render the heatmap (2 classes, 16x16 cells) of boxes in input pixels, including regions to ignore."""
    gt = Instances((64, 64))
    gt.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    gt.gt_classes = torch.tensor(classes or [0] * len(boxes))
    gt.gt_ignore = torch.tensor(ignore)
    model = stub_model(stub_heads(num_classes=2, ignore_regions=policy))
    points = model.build_points([gt], (16, 16))
    return model.heads["CenterHead"].targets([gt], points)["heatmap"].value[0]


SAME = [[16, 16, 40, 40], [20, 20, 36, 36]]


@pytest.mark.parametrize("policy", ["center", "box"])
def test_later_of_peak_and_ignored_center_wins(policy):
    assert ignored_heatmap(policy, SAME, [True, False])[0, 7, 7] == 1
    assert ignored_heatmap(policy, SAME, [False, True])[0, 7, 7] == pytest.approx(0.9999)
    both = [*SAME, SAME[0], SAME[1]]
    assert ignored_heatmap(policy, both, [True, False, True, False])[0, 7, 7] == 1
    assert ignored_heatmap(policy, both, [False, True, False, True])[0, 7, 7] == pytest.approx(0.9999)


def test_regions_of_all_classes_apply_to_every_plane():
    heatmap = ignored_heatmap("center", [[16, 16, 40, 40]], [True], classes=[-1])
    assert torch.equal(heatmap[0], heatmap[1])
    assert heatmap[0, 7, 7] == pytest.approx(0.9999)
    assert heatmap.max() < 1
    # The Gaussian around it is painted too.
    assert 0 < heatmap[0, 7, 8] < 0.9999


def test_box_policy_ignores_inclusive_corners():
    heatmap = ignored_heatmap("box", [[9, 17, 30, 41]], [True], classes=[1])
    expected = torch.zeros(2, 16, 16)
    expected[1, 4:11, 2:8] = 0.9999
    assert torch.allclose(heatmap, expected)


def test_policies_agree_without_ignored_regions():
    plain = ignored_heatmap("mask", SAME, [False, False], classes=[0, 1])
    for policy in ("center", "box"):
        assert torch.equal(ignored_heatmap(policy, SAME, [False, False], classes=[0, 1]), plain)
