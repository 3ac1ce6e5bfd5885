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
    """What a perfect network would say; cells without a target say 0."""
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
def test_unlabelled_joints_and_those_outside_the_image_have_no_target(joint):
    keypoints = [[joint, *PERSON[0][1:]]]
    targets = targets_of(pose_model(), [ground_truth([[8, 12, 40, 44]], keypoints)])
    assert targets["keypoint_displacement"].weight[0].tolist() == [0, 0, 1, 1, 1, 1]
    assert targets["keypoint_heatmap"].value[0, 0].sum() == 0
    assert targets["keypoint_offset"].weight[:, 0].tolist() == [0, 1, 1]


def test_joints_may_lie_outside_the_box():
    targets = targets_of(pose_model(), [ground_truth([[8, 12, 40, 44]], [[[90, 60, 2], *PERSON[0][1:]]])])
    assert targets["keypoint_heatmap"].value[0, 0, 15, 22] == 1


def test_images_without_people_train():
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
    found = model.detect(perfect_maps(model, [gt]), [Geometry((64, 96), (64, 96), to_image)])[0]
    order = found.pred_boxes.tensor[:, 0].argsort()
    # Half a pixel up: Detectron2 takes it off again when it writes results.
    np.testing.assert_allclose(found.pred_keypoints[order, :, :2] - 0.5, np.array(people)[..., :2], atol=1e-4)
    assert found.pred_keypoints[..., 2].tolist() == [[1, 1, 1], [1, 1, 1]]


def annotate(*annotations, transforms=(), prop=PROPERTY):
    return prop.annotate({"annotations": list(annotations)}, transforms, (64, 96))


def annotation(**fields):
    return {"bbox": [8, 12, 40, 44], **fields}


def test_annotations_are_mirrored_and_swapped():
    keypoints = [20.5, 20.5, 2, 10.5, 30.5, 1, 33.5, 41.5, 2]
    fields = annotate(annotation(keypoints=keypoints), transforms=[MirrorTransform(96)])
    assert fields["gt_keypoints"][0].tolist() == [[75, 20, 2], [62, 41, 2], [85, 30, 1]]
    twice = annotate(annotation(keypoints=keypoints), transforms=[MirrorTransform(96)] * 2)
    assert twice["gt_keypoints"][0].tolist() == [[20, 20, 2], [10, 30, 1], [33, 41, 2]]


def test_people_without_labelled_joints_keep_their_center_only():
    annotations = [annotation(keypoints=[0] * 9), annotation(), annotation(keypoints=[1, 1, 1] + [0] * 6)]
    fields = annotate(*annotations)
    # The second is of a class that has no keypoints.
    assert fields["gt_weight"].tolist() == [0, 1, 1]
    assert fields["gt_keypoints"].shape == (3, 3, 3)


def test_boxes_of_people_without_labelled_joints_are_learned_if_the_config_says_so():
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


def test_joint_heatmaps_of_images_that_do_not_label_keypoints_are_not_learned():
    model = pose_model()
    batch = [{"instances": ground_truth([[8, 12, 40, 44]], people)} for people in ([[[0, 0, 0]] * 3], PERSON)]

    def gradients(*unlabelled):
        inputs = [{**x, "unlabelled": names} for x, names in zip(batch, unlabelled, strict=True)]
        generator = torch.Generator().manual_seed(0)
        maps = {
            name: torch.randn(2, count, 16, 24, generator=generator, requires_grad=True)
            for head in model.heads.values()
            for name, count in head.maps.items()
        }
        losses = model.losses([maps], model.targets(*model.ground_truth(inputs, (16, 24))))
        names = ("keypoint_heatmap", "heatmap", "size")
        found = torch.autograd.grad(sum(losses.values()), [maps[name] for name in names])
        return dict(zip(names, found, strict=True))

    all_known, one_unknown = gradients((), ()), gradients(["keypoint"], ["box3d"])
    assert (all_known["keypoint_heatmap"].abs().amax(dim=(2, 3)) > 0).all()
    assert one_unknown["keypoint_heatmap"][0].abs().max() == 0
    assert torch.equal(one_unknown["keypoint_heatmap"][1], all_known["keypoint_heatmap"][1])
    for name in ("heatmap", "size"):
        assert torch.equal(one_unknown[name], all_known[name])


def test_classes_without_keypoints_do_not_disturb():
    model = pose_model(num_classes=2)
    gt = ground_truth([[8, 12, 40, 44], [56, 12, 88, 44]], [*PERSON, [[0, 0, 0]] * 3], classes=[0, 1])
    alone = ground_truth([[8, 12, 40, 44]], PERSON)
    torch.manual_seed(0)
    maps = model.compute_maps(torch.randn(1, 3, 64, 96))[0]
    head = model.heads["KeypointHead"]
    for name, loss in head.losses(maps, targets_of(model, [gt])).items():
        assert loss.item() == pytest.approx(head.losses(maps, targets_of(model, [alone]))[name].item()), name
    assert targets_of(model, [gt])["size"].weight.tolist() == [[1, 1], [1, 1]]


def test_turned_images_teach_joint_heatmaps_only():
    upright, turned = affine_matrix((48, 32), 96, (64, 96)), affine_matrix((48, 32), 96, (64, 96), 90)
    window = AffineTransform(turned, (64, 96), (64, 96), upright)
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
    # The same if nothing is left of the upright box.
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


def test_joints_snap_to_near_confident_peaks_inside_the_box():
    # The box is 20 wide, so a peak may be 6 away.
    assert snap((14.0, 12.0), 0.4) == ([14, 12], pytest.approx(0.4))
    assert snap((14.0, 12.0), 0.1) == ([10, 10], pytest.approx(0.05))  # not confident
    assert snap((16.5, 10.0), 0.4) == ([10, 10], pytest.approx(0.05))  # too far
    assert snap((4.5, 10.0), 0.4) == ([10, 10], pytest.approx(0.05))  # outside the box


def test_joints_that_stay_score_what_their_heatmap_says():
    model = pose_model(max_detections=1)
    maps = perfect_maps(model, [ground_truth([[8, 12, 40, 44]], PERSON)])
    maps["keypoint_heatmap"][0, 0] = 0
    maps["keypoint_heatmap"][0, 0, 5, 5] = 0.07
    keypoints = model.decode(maps)["keypoints"][0, 0]
    assert keypoints[0].tolist() == pytest.approx([5, 5, 0.07])
    constant = pose_model(max_detections=1, constant_score=True).decode(maps)["keypoints"][0, 0]
    assert constant[:, 2].tolist() == [1, 1, 1]


def test_exact_joints_score_as_their_peaks_even_where_they_may_not_snap():
    # All joints lie outside the box: their displacements decide, and end in the cells of the peaks.
    model = pose_model(max_detections=1)
    joints = [[[23.6, 23.6, 2], [11, 30.4, 1], [33, 43, 2]]]
    maps = perfect_maps(model, [ground_truth([[40, 8, 60, 30]], joints)])
    keypoints = model.decode(maps)["keypoints"][0, 0]
    np.testing.assert_allclose(4 * keypoints[:, :2], np.array(joints)[0, :, :2], atol=1e-4)
    assert keypoints[:, 2].tolist() == [1, 1, 1]


def test_unflip_undoes_a_mirrored_image():
    model = pose_model()
    gt = ground_truth([[7, 12, 37, 43]], [[[20.0, 20, 2], [10, 30, 1], [33, 41, 2]]])
    mirrored = ground_truth([[95 - 37, 12, 95 - 7, 43]], [[[75.0, 20, 2], [62, 41, 2], [85, 30, 1]]])
    head = model.heads["KeypointHead"]
    back = head.unflip(perfect_maps(model, [mirrored]))
    plain = perfect_maps(model, [gt])
    assert back["keypoint_offset"] is None
    # Cells mirror to W - 1 - j on the map while pixels mirror to W - 1 - x: displacements agree within a cell.
    cell = (plain["heatmap"][0, 0] == 1).nonzero()[0]
    ours, theirs = (maps["keypoint_displacement"][0, :, cell[0], cell[1]] for maps in (plain, back))
    assert (ours - theirs).abs().max() < 1
    twice = head.unflip({**back, "keypoint_offset": plain["keypoint_offset"]})
    assert torch.equal(twice["keypoint_displacement"], perfect_maps(model, [mirrored])["keypoint_displacement"])


def test_decoding_exports():
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


def test_averaged_offsets_mirror_exactly():
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
def test_images_without_objects_or_keypoints_train(tmp_path, augmentations):
    """Mapper to losses, each kind alone and all in one batch."""
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
            found = sum(loss > 0 for name, loss in losses.items() if name.startswith("loss_keypoint_d"))
            assert found == (isinstance(head, KeypointHead) and any(len(gt) == 2 for gt in batch))
