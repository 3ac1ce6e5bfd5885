import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from centernet_d2 import load_config, model_zoo
from centernet_d2.imaging.geometry import Geometry
from centernet_d2.modeling.heads import Box3DHead, Box3DProperty
from centernet_d2.modeling.heads.box3d.head import describe_orientation, orientation_bins, raw_to_depth
from centernet_d2.structures.boxes3d import Boxes3D, orientation_to_alpha, project, rotation_y_to_alpha
from centernet_d2.structures.points import DenseTarget
from support.models import stub_heads, stub_model

CAMERA = torch.tensor([[100.0, 0, 48, 5], [0, 100, 32, 1], [0, 0, 1, 0.0]], dtype=torch.float64)


def model_3d(max_detections=4, prop=(), **options):
    heads = stub_heads(num_classes=3, box={"clip": False})
    heads["Box3DHead"] = Box3DHead(prop=Box3DProperty(**dict(prop)), in_channels=4, head_conv=0, **options)
    return stub_model(heads, max_detections=max_detections)


def ground_truth(rows, metric=1.0, camera=CAMERA):
    """Objects of x, y, z, h, w, l, rotation_y whose 2-D box is centered at the projection of their center."""
    boxes3d = Boxes3D(torch.tensor(rows, dtype=torch.float32).reshape(-1, 7))
    middle = boxes3d.location.double() - torch.stack(
        [torch.zeros(len(boxes3d)), boxes3d.dimensions[:, 0] / 2, torch.zeros(len(boxes3d))], dim=1
    )
    places = project(middle, camera).float()
    half = torch.tensor([6.0, 5.0])
    gt = Instances((64, 96))
    gt.gt_boxes = Boxes(torch.cat([places - half, places + half], dim=1).reshape(-1, 4))
    gt.gt_classes = torch.arange(len(boxes3d)) % 3
    gt.gt_boxes3d = boxes3d
    gt.gt_depth = boxes3d.tensor[:, 2]
    gt.gt_alpha = rotation_y_to_alpha(boxes3d.rotation_y, places[:, 0], camera)
    gt.gt_focal = torch.full((len(boxes3d),), camera[0, 0].item())
    gt.gt_space = torch.ones(len(boxes3d))
    gt.gt_metric = torch.full((len(boxes3d),), metric)
    return gt


def targets_of(model, gt):
    points = model.build_points(gt, (16, 24))
    return {name: t for head in model.heads.values() for name, t in head.targets(gt, points).items()}


def perfect_maps(model, gt):
    """What a perfect network would say, activated; cells without a target say 0."""
    maps = {}
    for name, target in targets_of(model, [gt]).items():
        if isinstance(target, DenseTarget):
            maps[name] = target.value
            continue
        maps[name] = torch.zeros(1, target.value.shape[1], 16, 24)
        maps[name][target.image, :, target.cells[:, 1], target.cells[:, 0]] = target.value
    return maps


CARS = [[-2.0, 1.5, 12, 1.5, 1.6, 3.9, 0.4], [1.5, 1.4, 9, 1.7, 0.6, 0.8, -2.9], [0.0, 1.0, 30, 1.8, 0.5, 1.7, 3.1]]


@pytest.mark.parametrize("reference", [0.0, 50.0, 700.0])
@pytest.mark.parametrize("zoom", [0.5, 1.0, 2.0])
def test_perfect_maps_give_the_boxes_back(reference, zoom):
    """Whatever the resolution; with a reference focal length the network may say something else than metres."""
    camera = torch.diag(torch.tensor([zoom, zoom, 1.0], dtype=torch.float64)) @ CAMERA
    model = model_3d(max_detections=3, prop={"reference_focal": reference})
    # The network input is the image of CAMERA, the original image is `zoom` times as large.
    maps = perfect_maps(model, ground_truth(CARS))
    to_image = torch.tensor([[4.0 * zoom, 0, 0], [0, 4.0 * zoom, 0]], dtype=torch.float64)
    found = model.detect(maps, [Geometry((64, 96), (64, 96), to_image, {"camera": camera})])[0]
    order = found.pred_classes.argsort()
    assert torch.allclose(found.pred_boxes3d.tensor[order], torch.tensor(CARS), atol=1e-3)
    assert torch.allclose(found.pred_alpha[order].cos(), ground_truth(CARS).gt_alpha.cos(), atol=1e-4)


def test_the_reference_makes_depth_independent_of_the_focal_length():
    model = model_3d(prop={"reference_focal": 200.0})
    assert targets_of(model, [ground_truth(CARS)])["depth"].value.flatten().tolist() == [24, 18, 60]
    wide = ground_truth(CARS, camera=CAMERA * torch.tensor([[0.5], [0.5], [1.0]], dtype=torch.float64))
    assert targets_of(model, [wide])["depth"].value.flatten().tolist() == [48, 36, 120]


def test_images_without_metric_scale_supervise_everything_but_metres():
    targets = targets_of(model_3d(), [ground_truth(CARS, metric=0.0)])
    assert targets["depth"].weight.sum() == targets["dimensions"].weight.sum() == 0
    assert targets["orientation"].weight.min() == targets["size"].weight.min() == targets["offset"].weight.min() == 1


@pytest.mark.parametrize("loss", ["l1", "log"])
def test_perfect_predictions_cost_no_metres_and_images_without_objects_train(loss):
    model = model_3d(depth_loss=loss)
    gt = ground_truth(CARS)
    head, targets = model.heads["Box3DHead"], targets_of(model, [gt])
    maps = perfect_maps(model, gt)
    raw = {**maps, "depth": -(maps["depth"].clamp(min=1e-2)).log()}
    losses = head.losses(raw, targets)
    assert losses["loss_depth"] < 1e-3
    assert losses["loss_dimensions"] == 0
    # Bins are as good as their logits; sines and cosines are exact.
    assert losses["loss_orientation"] == pytest.approx(2 * math.log(1 + math.exp(-1)), abs=1e-3)

    empty = ground_truth([])
    maps = {name: torch.randn(1, channels, 16, 24, requires_grad=True) for name, channels in head.maps.items()}
    losses = head.losses(maps, targets_of(model, [empty]))
    sum(losses.values()).backward()
    assert sum(losses.values()) == 0
    assert all(tensor.grad is not None for tensor in maps.values())


def test_slots_count_missing_objects():
    model = model_3d(loss_slots=50)
    head, gt = model.heads["Box3DHead"], ground_truth(CARS)
    maps = {name: torch.zeros(1, channels, 16, 24) for name, channels in head.maps.items()}
    losses = head.losses(maps, targets_of(model, [gt]))
    # A raw depth of 0 is one metre.
    assert losses["loss_depth"] == pytest.approx((11 + 8 + 29) / 50, abs=1e-3)
    assert losses["loss_dimensions"] == pytest.approx(sum(sum(car[3:6]) for car in CARS) / 150, abs=1e-4)


def test_bins_cover_all_angles_and_give_them_back():
    alpha = torch.linspace(-math.pi, math.pi, 721)
    bins, residual = orientation_bins(alpha)
    assert bins.amax(dim=1).min() == 1
    back = orientation_to_alpha(describe_orientation(bins, residual))
    # Where both bins are equally sure, the second one speaks, and is right too.
    assert torch.allclose(back.cos(), alpha.cos(), atol=1e-5)
    assert torch.allclose(back.sin(), alpha.sin(), atol=1e-5)


def test_depth_is_positive_falling_and_float32():
    raw = torch.linspace(-8, 8, 100)
    depth = raw_to_depth(raw)
    assert (depth[1:] < depth[:-1]).all()
    assert depth.min() > 0
    assert raw_to_depth(raw.half()).dtype == torch.float32


def test_a_mirrored_image_turned_back_says_the_same():
    head = model_3d().heads["Box3DHead"]
    alpha = torch.linspace(-3, 3, 24)

    def say(angle):
        return describe_orientation(*orientation_bins(angle)).T[None, :, None]

    mirrored = torch.atan2(alpha.sin(), -alpha.cos()).flip(0)
    maps = {"orientation": say(mirrored), "depth": torch.rand(1, 1, 1, 24), "dimensions": torch.rand(1, 3, 1, 24)}
    back = head.unflip(maps)
    found = orientation_to_alpha(back["orientation"][0, :, 0].T)
    assert torch.allclose(found.cos(), alpha.cos(), atol=1e-5)
    assert torch.allclose(found.sin(), alpha.sin(), atol=1e-5)
    assert torch.equal(head.unflip(back)["depth"], maps["depth"])


LABELS = {"location": [1, 2, 8], "dimensions": [1.5, 1.6, 4], "rotation_y": 0.5, "depth": 8.0, "alpha": 0.25}


def annotate(annotations, **image):
    record = {"annotations": annotations, "camera": CAMERA.tolist(), **image}
    return Box3DProperty().annotate({key: x for key, x in record.items() if x is not None}, [], (64, 96))


def test_annotations_become_fields():
    fields = annotate([LABELS])
    assert (fields["gt_focal"].item(), fields["gt_space"].item()) == (100.0, 1.0)
    assert fields["gt_boxes3d"].tensor.tolist() == torch.tensor([[1, 2, 8, 1.5, 1.6, 4, 0.5]]).tolist()
    assert (fields["gt_depth"].item(), fields["gt_alpha"].item(), fields["gt_metric"].item()) == (8.0, 0.25, 1.0)
    assert len(annotate([])["gt_boxes3d"]) == 0


@pytest.mark.parametrize("camera", [None, CAMERA.tolist()])
def test_nothing_in_space_is_learned_without_labels_or_without_a_camera(camera):
    fields = annotate([LABELS, {}, {**LABELS, "ignore": True}], camera=camera)
    known = [float(camera is not None), 0, 0]
    assert fields["gt_space"].tolist() == fields["gt_metric"].tolist() == known
    gt = ground_truth(CARS)
    for name, value in fields.items():
        gt.set(name, value)
    model = model_3d()
    targets = targets_of(model, [gt])
    for name in ("depth", "dimensions", "orientation"):
        assert targets[name].weight.amin(dim=1).tolist() == targets[name].weight.amax(dim=1).tolist() == known, name
    for name in ("size", "offset"):
        assert targets[name].weight.min() == 1, name
    maps = {
        name: torch.randn(1, count, 16, 24, requires_grad=True) for name, count in model.heads["Box3DHead"].maps.items()
    }
    total = sum(model.heads["Box3DHead"].losses(maps, targets).values())
    x, y = targets["depth"].cells.unbind(1)
    for name, gradient in zip(maps, torch.autograd.grad(total, list(maps.values())), strict=True):
        assert (gradient[0].abs().sum(dim=0)[y, x] > 0).tolist() == [bool(x) for x in known], name


def test_scaled_images_need_a_reference_focal_length():
    with pytest.raises(ValueError, match="^reference_focal is 0.0, but .* needs a positive one"):
        model_3d(prop={"augmented_depth": "camera"})
    with pytest.raises(ValueError, match="^depth_loss is 'l2', known: l1, log"):
        model_3d(depth_loss="l2")


def test_without_any_camera_there_are_no_boxes():
    model = model_3d()
    geometry = Geometry((64, 96), (64, 96), torch.tensor([[4.0, 0, 0], [0, 4, 0]], dtype=torch.float64))
    maps = perfect_maps(model, ground_truth(CARS))
    with pytest.raises(ValueError, match="3-D boxes need the camera"):
        model.detect(maps, [geometry])
    model = model_3d(prop={"default_camera": CAMERA.tolist()})
    assert len(model.detect(maps, [geometry])[0].pred_boxes3d) == 3


@pytest.mark.parametrize(
    "camera", [CAMERA * 0, CAMERA * math.nan, CAMERA[:2], CAMERA * torch.tensor([[1.0], [1], [0]])]
)
def test_a_default_camera_that_is_none_shows_at_once(camera):
    with pytest.raises(ValueError, match=r"^default_camera is invalid: the camera (has|is)"):
        model_3d(prop={"default_camera": camera.tolist()})


@pytest.mark.parametrize("reference", [0.0, 50.0])
@pytest.mark.parametrize("loss", ["l1", "log"])
@pytest.mark.parametrize("depth", [-0.18, 0.0, 1e-3, math.nan])
def test_no_depth_is_learned_from_what_is_not_in_front(loss, reference, depth):
    model = model_3d(prop={"reference_focal": reference}, depth_loss=loss)
    gt = ground_truth(CARS)
    gt.gt_depth = torch.tensor([CARS[0][2], depth, CARS[2][2]])
    targets = targets_of(model, [gt])
    assert targets["depth"].weight.flatten().tolist() == [1, float(depth > 0), 1]
    for name in ("dimensions", "orientation", "size", "offset"):
        assert targets[name].weight.min() == 1
    assert (targets["heatmap"].value == 1).sum() == 3
    head = model.heads["Box3DHead"]
    maps = {name: torch.randn(1, channels, 16, 24, requires_grad=True) for name, channels in head.maps.items()}
    losses = head.losses(maps, targets)
    gradients = torch.autograd.grad(sum(losses.values()), list(maps.values()))
    assert all(value.isfinite() for value in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients)
    x, y = targets["depth"].cells[1].tolist()
    assert (gradients[list(maps).index("depth")][0, 0, y, x] != 0) == (depth > 0)


def test_decoding_exports():
    model = model_3d().eval()

    class Exported(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model.decode(self.model.compute_test_maps(images))

    images = torch.rand(1, 3, 64, 96)
    program = torch.export.export(Exported(), (images,)).module()
    assert torch.allclose(program(images)["depth"], Exported()(images)["depth"], atol=1e-4)


def test_images_with_boxes_in_space_are_not_turned():
    cfg = load_config(model_zoo.get_config_file("KITTI-3D/centernet_3d_R_18.yaml"), ["INPUT.AFFINE.TURN", 90])
    with pytest.raises(ValueError, match="INPUT.AFFINE.TURN is 90, but boxes in space stand upright"):
        Box3DProperty(cfg)
