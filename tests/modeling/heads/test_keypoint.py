import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from centernet_d2 import load_config, model_zoo
from centernet_d2.data import CenterNetDatasetMapper
from centernet_d2.imaging.geometry import Geometry, affine_matrix
from centernet_d2.imaging.transforms import AffineTransform, MirrorTransform
from centernet_d2.modeling.heads import CenterProperty, KeypointHead, KeypointProperty
from centernet_d2.modeling.heads.center import ALMOST_CENTER
from centernet_d2.modeling.heads.keypoint import KeypointSchema
from centernet_d2.modeling.heads.keypoint.head import snap_to_peaks
from centernet_d2.structures.points import DenseTarget
from support.models import stub_heads, stub_model

PROPERTY = KeypointProperty(schema=KeypointSchema.from_names(["nose", "left", "right"], [("left", "right")]))


def pose_model(num_classes=1, max_detections=5, **options):
    heads = stub_heads(num_classes=num_classes)
    heads["KeypointHead"] = KeypointHead(prop=PROPERTY, in_channels=4, head_conv=0, **options)
    return stub_model(heads, max_detections=max_detections)


def ground_truth(boxes, keypoints, classes=None):
    gt = Instances((64, 96))
    gt.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    gt.gt_classes = torch.tensor(classes or [0] * len(boxes), dtype=torch.long)
    gt.gt_keypoints = torch.tensor(keypoints, dtype=torch.float32).reshape(-1, 3, 3)
    return gt


def targets_of(model, gt):
    points = model.build_points(gt, (16, 24))
    return {name: t for head in model.heads.values() for name, t in head.targets(gt, points).items()}


def perfect_maps(model, gt):
    """Build the output of a perfect network, 0 at cells without a target."""
    maps = {}
    for name, target in targets_of(model, gt).items():
        if isinstance(target, DenseTarget):
            maps[name] = target.value
        else:
            maps[name] = torch.zeros(len(gt), target.value.shape[1], 16, 24)
            known = target.weight[:, 0] > 0
            cells = target.cells[known]
            maps[name][target.image[known], :, cells[:, 1], cells[:, 0]] = target.value[known]
    return maps


PERSON = [[[20.0, 20, 2], [10, 30, 1], [33, 41, 2]]]


def test_targets_by_hand():
    # Box 8..40 x 12..44: center (24, 28) in the input, cell (6, 7) on the map.
    targets = targets_of(pose_model(), [ground_truth([[8, 12, 40, 44]], PERSON)])
    displacement = targets["keypoint_displacement"]
    assert displacement.value.tolist() == [[5 - 6, 5 - 7, 2.5 - 6, 7.5 - 7, 8.25 - 6, 10.25 - 7]]
    assert displacement.weight.tolist() == [[1] * 6]
    assert (targets["keypoint_heatmap"].value == 1).nonzero().tolist() == [[0, 0, 5, 5], [0, 1, 7, 2], [0, 2, 10, 8]]
    assert targets["keypoint_offset"].value.tolist() == [[0, 0], [0.5, 0.5], [0.25, 0.25]]


@pytest.mark.parametrize("joint", [[20, 20, 0], [-1, 20, 2], [20, 64, 2], [96, 20, 1]])
def test_unlabeled_and_outside_joints_have_no_target(joint):
    keypoints = [[joint, *PERSON[0][1:]]]
    targets = targets_of(pose_model(), [ground_truth([[8, 12, 40, 44]], keypoints)])
    assert targets["keypoint_displacement"].weight[0].tolist() == [0, 0, 1, 1, 1, 1]
    assert targets["keypoint_heatmap"].value[0, 0].sum() == 0
    assert targets["keypoint_offset"].weight[:, 0].tolist() == [0, 1, 1]


def test_joints_may_lie_outside_the_box():
    targets = targets_of(pose_model(), [ground_truth([[8, 12, 40, 44]], [[[90, 60, 2], *PERSON[0][1:]]])])
    assert targets["keypoint_heatmap"].value[0, 0, 15, 22] == 1


def test_images_without_objects_have_finite_loss():
    model = pose_model().train()
    batch = [
        {"image": torch.zeros(3, 64, 96), "instances": ground_truth([], [])},
        {"image": torch.zeros(3, 64, 96), "instances": ground_truth([[8, 12, 40, 44]], PERSON)},
    ]
    for inputs in (batch, batch[:1]):
        losses = model(inputs)
        assert {"loss_keypoint_displacement", "loss_keypoint_heatmap", "loss_keypoint_offset"} <= set(losses)
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()


@pytest.mark.parametrize("refine", [True, False])
def test_perfect_maps_decode_to_the_ground_truth(refine):
    model = pose_model(max_detections=2, refine=refine)
    people = [*PERSON, [[70.0, 22, 2], [61, 33, 2], [80, 31, 2]]]
    gt = ground_truth([[8, 12, 40, 44], [56, 12, 88, 44]], people)
    to_image = torch.tensor([[4.0, 0, 0], [0, 4, 0]], dtype=torch.float64)
    detections = model.detect(perfect_maps(model, [gt]), [Geometry((64, 96), (64, 96), to_image)])[0]
    order = detections.pred_boxes.tensor[:, 0].argsort()
    # Detectron2 adds half a pixel to keypoints, and subtracts it when it writes results.
    np.testing.assert_allclose(detections.pred_keypoints[order, :, :2] - 0.5, np.array(people)[..., :2], atol=1e-4)
    assert detections.pred_keypoints[..., 2].tolist() == [[1, 1, 1], [1, 1, 1]]


def annotate(*annotations, transforms=(), prop=PROPERTY):
    return prop.annotate({"annotations": list(annotations)}, transforms, (64, 96))


def annotation(**fields):
    return {"bbox": [8, 12, 40, 44], **fields}


def test_annotations_are_flipped_and_swapped():
    keypoints = [20.5, 20.5, 2, 10.5, 30.5, 1, 33.5, 41.5, 2]
    fields = annotate(annotation(keypoints=keypoints), transforms=[MirrorTransform(96)])
    assert fields["gt_keypoints"][0].tolist() == [[75, 20, 2], [62, 41, 2], [85, 30, 1]]
    twice = annotate(annotation(keypoints=keypoints), transforms=[MirrorTransform(96)] * 2)
    assert twice["gt_keypoints"][0].tolist() == [[20, 20, 2], [10, 30, 1], [33, 41, 2]]


def test_objects_without_labeled_joints_only_supervise_heatmap():
    annotations = [annotation(keypoints=[0] * 9), annotation(), annotation(keypoints=[1, 1, 1] + [0] * 6)]
    fields = annotate(*annotations)
    # The class of the second object has no keypoints.
    assert fields["gt_weight"].tolist() == [0, 1, 1]
    assert fields["gt_keypoints"].shape == (3, 3, 3)


def test_needs_joints_false_supervises_boxes_without_joints():
    people = [annotation(keypoints=[0] * 9), annotation(keypoints=[1, 1, 1] + [0] * 6)]
    file, node = model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml"), "MODEL.CENTERNET.KEYPOINTS."
    names = [node + "NAMES", "['nose','left','right']", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3]
    quirk = "MODEL.CENTERNET.QUIRKS.KEYPOINTS.NEEDS_JOINTS"
    for needs_joints, weight in ((True, [0, 1]), (False, [1, 1])):
        prop = KeypointProperty(load_config(file, [*names, quirk, needs_joints]))
        fields = annotate(*people, prop=prop)
        assert fields["gt_weight"].tolist() == weight
        gt = ground_truth([[8, 12, 40, 44], [56, 12, 88, 44]], fields["gt_keypoints"].tolist())
        gt.gt_weight = fields["gt_weight"]
        targets = targets_of(pose_model(), [gt])
        assert targets["size"].weight[:, 0].tolist() == targets["offset"].weight[:, 0].tolist() == weight
        assert targets["keypoint_displacement"].weight[0].sum() == 0


def test_joint_heatmaps_are_unsupervised_in_unlabeled_datasets():
    model = pose_model()
    batch = [{"instances": ground_truth([[8, 12, 40, 44]], people)} for people in ([[[0, 0, 0]] * 3], PERSON)]

    def gradients(*unlabeled):
        inputs = [{**x, "unlabeled": names} for x, names in zip(batch, unlabeled, strict=True)]
        generator = torch.Generator().manual_seed(0)
        maps = {
            name: torch.randn(2, count, 16, 24, generator=generator, requires_grad=True)
            for head in model.heads.values()
            for name, count in head.maps.items()
        }
        losses = model.losses([maps], model.targets(*model.ground_truth(inputs, (16, 24))))
        names = ("keypoint_heatmap", "heatmap", "size")
        values = torch.autograd.grad(sum(losses.values()), [maps[name] for name in names])
        return dict(zip(names, values, strict=True))

    all_known, one_unknown = gradients((), ()), gradients(["keypoint"], ["box3d"])
    assert (all_known["keypoint_heatmap"].abs().amax(dim=(2, 3)) > 0).all()
    assert one_unknown["keypoint_heatmap"][0].abs().max() == 0
    assert torch.equal(one_unknown["keypoint_heatmap"][1], all_known["keypoint_heatmap"][1])
    for name in ("heatmap", "size"):
        assert torch.equal(one_unknown[name], all_known[name])


def test_classes_without_keypoints_do_not_change_keypoint_loss():
    model = pose_model(num_classes=2)
    gt = ground_truth([[8, 12, 40, 44], [56, 12, 88, 44]], [*PERSON, [[0, 0, 0]] * 3], classes=[0, 1])
    single = ground_truth([[8, 12, 40, 44]], PERSON)
    torch.manual_seed(0)
    maps = model.compute_maps(torch.randn(1, 3, 64, 96))[0]
    head = model.heads["KeypointHead"]
    for name, loss in head.losses(maps, targets_of(model, [gt])).items():
        assert loss.item() == pytest.approx(head.losses(maps, targets_of(model, [single]))[name].item()), name
    assert targets_of(model, [gt])["size"].weight.tolist() == [[1, 1], [1, 1]]


def test_rotated_images_only_supervise_joint_heatmaps():
    upright, rotated = affine_matrix((48, 32), 96, (64, 96)), affine_matrix((48, 32), 96, (64, 96), 90)
    window = AffineTransform(rotated, (64, 96), (64, 96), upright)
    fields = annotate(annotation(keypoints=[58.5, 32.5, 2] + [0] * 6), transforms=[window])
    np.testing.assert_allclose(fields["gt_keypoints"][0, 0], [48, 22, 2], atol=1e-4)
    assert window.apply_box(np.array([[8.0, 12, 40, 44]])).tolist() == [[8, 12, 40, 44]]
    gt = ground_truth([[8, 12, 40, 44]], fields["gt_keypoints"].tolist())
    for name, value in CenterProperty().annotate({"annotations": [annotation()]}, [window], (64, 96)).items():
        gt.set(name, value)
    targets = targets_of(pose_model(), [gt, ground_truth([[8, 12, 40, 44]], PERSON)])
    assert (targets["heatmap"].value[0] == ALMOST_CENTER).all()
    assert targets["heatmap"].value[1].max() == 1
    assert targets["keypoint_heatmap"].value[0, 0].max() == 1
    for name in ("size", "offset", "keypoint_displacement"):
        assert targets[name].weight[0].sum() == 0
    # Independent of the visible part of the box.
    gt.gt_boxes = Boxes(torch.tensor([[200.0, 12, 240, 44]]))
    targets = targets_of(pose_model(), [gt])
    assert (targets["heatmap"].value == ALMOST_CENTER).all()
    assert targets["keypoint_heatmap"].value[0, 0].max() == 1


def snap(position, score, joint=(10.0, 10.0), box=(5.0, 5.0, 25.0, 15.0)):
    joints, boxes = torch.tensor(joint).view(1, 1, 1, 2), torch.tensor(box).view(1, 1, 4)
    candidates = torch.tensor([[50.0, 50.0], list(position)]).view(1, 1, 2, 2)
    moved, scores = snap_to_peaks(
        joints, boxes, candidates, torch.tensor([0.9, score]).view(1, 1, 2), torch.full((1, 1, 1), 0.05)
    )
    return moved.flatten().tolist(), scores.item()


def test_joints_snap_to_near_confident_peaks_inside_box():
    # The box is 20 wide, so the maximum distance of a peak is 6.
    assert snap((14.0, 12.0), 0.4) == ([14, 12], pytest.approx(0.4))
    assert snap((14.0, 12.0), 0.1) == ([10, 10], pytest.approx(0.05))  # not confident
    assert snap((16.5, 10.0), 0.4) == ([10, 10], pytest.approx(0.05))  # too far
    assert snap((4.5, 10.0), 0.4) == ([10, 10], pytest.approx(0.05))  # outside the box


def test_unsnapped_joints_have_heatmap_score():
    model = pose_model(max_detections=1)
    maps = perfect_maps(model, [ground_truth([[8, 12, 40, 44]], PERSON)])
    maps["keypoint_heatmap"][0, 0] = 0
    maps["keypoint_heatmap"][0, 0, 5, 5] = 0.07
    keypoints = model.decode(maps)["keypoints"][0, 0]
    assert keypoints[0].tolist() == pytest.approx([5, 5, 0.07])
    constant = pose_model(max_detections=1, constant_score=True).decode(maps)["keypoints"][0, 0]
    assert constant[:, 2].tolist() == [1, 1, 1]


def test_exact_joints_outside_box_have_peak_score():
    # All joints are outside the box, so they do not snap, but they are in the cells of the peaks.
    model = pose_model(max_detections=1)
    joints = [[[23.6, 23.6, 2], [11, 30.4, 1], [33, 43, 2]]]
    maps = perfect_maps(model, [ground_truth([[40, 8, 60, 30]], joints)])
    keypoints = model.decode(maps)["keypoints"][0, 0]
    np.testing.assert_allclose(4 * keypoints[:, :2], np.array(joints)[0, :, :2], atol=1e-4)
    assert keypoints[:, 2].tolist() == [1, 1, 1]


def test_unflip_inverts_flip():
    model = pose_model()
    gt = ground_truth([[7, 12, 37, 43]], [[[20.0, 20, 2], [10, 30, 1], [33, 41, 2]]])
    mirrored = ground_truth([[95 - 37, 12, 95 - 7, 43]], [[[75.0, 20, 2], [62, 41, 2], [85, 30, 1]]])
    head = model.heads["KeypointHead"]
    back = head.unflip(perfect_maps(model, [mirrored]))
    plain = perfect_maps(model, [gt])
    assert back["keypoint_offset"] is None
    # Flipping maps cells to W - 1 - j but pixels to W - 1 - x, so displacements agree within one cell.
    cell = (plain["heatmap"][0, 0] == 1).nonzero()[0]
    ours, theirs = (maps["keypoint_displacement"][0, :, cell[0], cell[1]] for maps in (plain, back))
    assert (ours - theirs).abs().max() < 1
    twice = head.unflip({**back, "keypoint_offset": plain["keypoint_offset"]})
    assert torch.equal(twice["keypoint_displacement"], perfect_maps(model, [mirrored])["keypoint_displacement"])


def test_decoding_is_exportable():
    model = pose_model(max_detections=4).eval()

    class Exported(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model.decode(self.model.compute_test_maps(images))

    images = torch.rand(1, 3, 64, 96)
    program = torch.export.export(Exported(), (images,)).module()
    assert torch.allclose(program(images)["keypoints"], Exported()(images)["keypoints"], atol=1e-4)


def test_average_offsets_unflips_exactly():
    head = KeypointHead(prop=PROPERTY, in_channels=4, head_conv=0, average_offsets=True)
    plain, mirrored = ([[20.0, 20, 2], [10, 30, 1], [33, 41, 2]], [[75.0, 20, 2], [62, 41, 2], [85, 30, 1]])
    model = pose_model()
    maps = perfect_maps(model, [ground_truth([[7, 12, 37, 43]], [plain])])
    back = head.unflip(perfect_maps(model, [ground_truth([[95 - 37, 12, 95 - 7, 43]], [mirrored])]))
    for name in ("keypoint_displacement", "keypoint_offset", "keypoint_heatmap"):
        known = maps[name] != 0
        assert known.any(), name
        assert torch.allclose(maps[name][known], back[name][known], atol=1e-6), name


@pytest.mark.parametrize("augmentations", [[], [MirrorTransform(96)]])
def test_images_without_objects_or_keypoints_have_finite_loss(tmp_path, augmentations):
    """From the mapper to losses, for each kind of image separately and in one batch."""
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((64, 96, 3), dtype=np.uint8))
    mapper = CenterNetDatasetMapper(
        True,
        augmentations=augmentations,
        image_format="BGR",
        num_classes=1,
        properties=[PROPERTY],
    )
    thing = {"bbox": [8, 8, 30, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    keypoints = [10.5, 10.5, 2, 20.5, 20.5, 1, 0, 0, 0]
    kinds = ([], [thing], [{**thing, "keypoints": None}, {**thing, "keypoints": keypoints}])
    images = [
        mapper({"file_name": str(path), "height": 64, "width": 96, "annotations": kind})["instances"] for kind in kinds
    ]
    assert [tuple(gt.gt_keypoints.shape) for gt in images] == [(0, 3, 3), (1, 3, 3), (2, 3, 3)]
    model = pose_model()
    for batch in (*([gt] for gt in images), images, images[:1] * 2):
        points = model.build_points(batch, (16, 24))
        for head in model.heads.values():
            maps = {name: torch.zeros(len(batch), count, 16, 24) for name, count in head.maps.items()}
            losses = head.losses(maps, head.targets(batch, points))
            assert all(loss.isfinite() for loss in losses.values())
            supervised = sum(loss > 0 for name, loss in losses.items() if name.startswith("loss_keypoint_d"))
            assert supervised == (isinstance(head, KeypointHead) and any(len(gt) == 2 for gt in batch))
