import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from centernet_d2 import load_config, model_zoo
from centernet_d2.modeling import CenterNet
from centernet_d2.modeling.heads import POINT_HEAD_REGISTRY, PointHead
from centernet_d2.modeling.losses import regression_loss
from support.detections import same_detections
from support.models import stub_heads, stub_model


def sample(size, boxes=(), classes=(), seed=0):
    gt = Instances(size)
    gt.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    gt.gt_classes = torch.tensor(classes, dtype=torch.long)
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return {"image": image, "instances": gt, "height": size[0], "width": size[1]}


def random_sample(size, objects, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(objects, 2, generator=generator) * torch.tensor([size[1] - 20.0, size[0] - 20.0])
    boxes = torch.cat([corner, corner + 4 + 16 * torch.rand(objects, 2, generator=generator)], dim=1)
    return sample(size, boxes.tolist(), torch.randint(0, 3, (objects,), generator=generator).tolist(), seed)


@pytest.mark.parametrize("counts", [(0,), (1,), (0, 3), (1000, 2)])
def test_losses_are_finite_and_reach_every_parameter(counts):
    model = stub_model(stub_heads(stacks=2), stacks=2).train()
    batch = [random_sample((64, 96), count, seed) for seed, count in enumerate(counts)]
    losses = model(batch)
    assert set(losses) == {"loss_heatmap", "loss_offset", "loss_size"}
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_training_pads_smaller_images_with_black():
    model = stub_model()
    images = model.preprocess_training([sample((64, 96)), sample((32, 64))])
    assert tuple(images.tensor.shape) == (2, 3, 64, 96)
    black = model.normalize(torch.zeros(3, 1, 1))
    assert torch.equal(images.tensor[1, :, 32:], black.expand(3, 32, 96))


def test_losses_average_over_stacks():
    model = stub_model(stub_heads(stacks=2), stacks=2).train()
    batch = [random_sample((64, 96), 3, 0)]
    maps = model.compute_maps(model.preprocess_training(batch).tensor)
    gt = [batch[0]["instances"]]
    both, first, second = (model.losses(m, gt) for m in (maps, maps[:1], maps[1:]))
    for name in both:
        assert both[name].item() == pytest.approx((first[name].item() + second[name].item()) / 2, rel=1e-5)


@pytest.mark.parametrize("resolution", ["keep", "fixed"])
def test_a_batch_gives_what_single_images_give(resolution):
    model = stub_model(test_resolution=resolution, max_detections=20).eval()
    batch = [sample(size, seed=seed) for seed, size in enumerate([(50, 70), (64, 96), (33, 70), (200, 40), (50, 70)])]
    with torch.no_grad():
        together = model(batch)
        for inputs, result in zip(batch, together, strict=True):
            alone = model([inputs])[0]["instances"]
            found = result["instances"]
            assert found.image_size == alone.image_size == tuple(inputs["image"].shape[-2:])
            assert same_detections(found, alone, atol=1e-4)


def test_results_are_in_pixels_of_the_original_image():
    model = stub_model(stub_heads(box={"clip": False}), max_detections=10).eval()
    inputs = sample((64, 96))
    with torch.no_grad():
        plain = model([inputs])[0]["instances"].pred_boxes.tensor
        resized = model([{**inputs, "height": 128, "width": 288}])[0]["instances"]
    assert resized.image_size == (128, 288)
    assert torch.allclose(resized.pred_boxes.tensor, plain * torch.tensor([3.0, 2, 3, 2]), atol=1e-3)


@pytest.mark.parametrize("resolution", ["keep", "fixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32])
def test_images_of_any_type_give_the_same_result(resolution, dtype):
    model = stub_model(test_resolution=resolution, max_detections=10).eval()
    inputs = sample((50, 70))
    with torch.no_grad():
        whole = model([inputs])[0]["instances"].scores
        assert torch.equal(model([{**inputs, "image": inputs["image"].to(dtype)}])[0]["instances"].scores, whole)


@pytest.mark.parametrize("deformable", [False, True])
def test_a_real_network_treats_images_alone_and_runs_under_autocast(deformable):
    torch.manual_seed(0)
    cfg = small_config("MODEL.UPCONV.DEFORMABLE", deformable, "TEST.DETECTIONS_PER_IMAGE", 10)
    model = CenterNet(cfg)
    batch = [random_sample((40, 60), 3, 0), random_sample((40, 60), 0, 1), random_sample((70, 30), 1, 2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch)
        sum(losses.values()).backward()
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        for inputs, result in zip(batch, model(batch), strict=True):
            alone = model([inputs])[0]["instances"]
            assert same_detections(result["instances"], alone)


def test_options_of_the_heads_follow_the_config():
    node = "MODEL.CENTERNET."
    heads = CenterNet(
        small_config(
            node + "CLASS_SPECIFIC_SIZE", True, node + "OFFSET", False, node + "HEATMAP_WEIGHT", 2.0,
            node + "SIZE_WEIGHT", 0.5, node + "OFFSET_WEIGHT", 3.0, node + "OFFSET_LOSS", "smooth_l1",
        )
    ).heads  # fmt: skip
    center, box = heads["CenterHead"], heads["BoxHead"]
    assert (center.maps, box.maps) == ({"heatmap": 5}, {"size": 10})
    assert (center.heatmap_weight, center.offset_weight, center.offset_loss, box.weight) == (2.0, 3.0, "smooth_l1", 0.5)


def test_score_threshold_and_number_of_detections():
    inputs = [sample((64, 96))]
    with torch.no_grad():
        model = stub_model(max_detections=7).eval()
        found = model(inputs)[0]["instances"]
        assert len(found) == 7
        model.score_threshold = found.scores[3].item()
        assert len(model(inputs)[0]["instances"]) == 3


def test_half_precision_decodes_in_float32():
    model = stub_model(max_detections=5).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = model([sample((64, 96))])[0]["instances"]
    assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32


def test_network_and_decoding_export_with_fixed_shapes():
    class Exported(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model.decode(self.model.compute_test_maps(images))

    wrapped = Exported(stub_model(max_detections=9).eval())
    images = torch.rand(2, 3, 64, 96)
    program = torch.export.export(wrapped, (images,))
    for name, value in program.module()(images).items():
        assert torch.allclose(value.float(), wrapped(images)[name].float(), atol=1e-5), name


def test_ground_truth_is_not_modified():
    batch = [random_sample((64, 96), 3, 0)]
    before = batch[0]["instances"].gt_boxes.tensor.clone()
    stub_model().train()(batch)
    assert torch.equal(batch[0]["instances"].gt_boxes.tensor, before)


def test_pictures_of_training_reach_the_event_storage():
    model = stub_model(vis_period=2).train()
    with EventStorage(start_iter=2) as storage:
        model([random_sample((64, 96), 2, 0)])
        ((name, picture, _),) = storage._vis_data
    assert "heatmap" in name
    assert picture.shape[0] == 3


class TiltHead(PointHead):
    """A property that nobody knew of: one file, one name."""

    requires = ("centers",)
    provides = ("tilt",)

    def __init__(self, cfg, input_shape, num_stacks):
        super().__init__({"tilt": 1}, **self.common_config(cfg, input_shape, num_stacks))

    @classmethod
    def build_annotator(cls, cfg):
        return lambda annotations, transforms, size: {"gt_tilt": torch.tensor([x["tilt"] for x in annotations])}

    def targets(self, gt, points):
        return {"tilt": points.target(torch.cat([x.gt_tilt for x in gt])[:, None])}

    def losses(self, maps, targets):
        target = targets["tilt"]
        return {"loss_tilt": regression_loss(target.gather(maps["tilt"]), target.value, target.weight)}

    def unflip(self, maps):
        return {"tilt": -maps["tilt"].flip(-1)}

    def decode(self, maps, peaks, fields):
        return {"tilt": peaks.gather(maps["tilt"])[..., 0]}

    def to_image(self, fields, geometry):
        return {"pred_tilt": fields["tilt"]}


@pytest.fixture
def tilt_head():
    POINT_HEAD_REGISTRY.register(TiltHead)
    yield
    del POINT_HEAD_REGISTRY._obj_map["TiltHead"]


@pytest.mark.usefixtures("tilt_head")
def test_a_new_property_is_one_class_and_one_name():
    cfg = small_config("MODEL.CENTERNET.HEADS", "['CenterHead','BoxHead','TiltHead']")
    model = CenterNet(cfg)
    batch = [sample((64, 64), [[8, 8, 40, 40]], [1])]
    batch[0]["instances"].gt_tilt = torch.tensor([0.3])
    assert "loss_tilt" in model.train()(batch)
    with torch.no_grad():
        found = model.eval()(batch)[0]["instances"]
    assert len(found.pred_tilt) == len(found.pred_boxes)


def small_config(*overrides):
    file = model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml")
    return load_config(file, ["MODEL.DEVICE", "cpu", *overrides])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "MODEL.CENTERNET.HEADS",
            "['CenterHead','Nose']",
            "no 'Nose' in the registry POINT_HEAD; it has: Box3DHead, Box",
        ),
        (
            "MODEL.CENTERNET.HEADS",
            "['BoxHead','CenterHead']",
            "BoxHead needs centers, classes from a head listed before",
        ),
        ("MODEL.BACKBONE.NAME", "build_nothing", "MODEL.BACKBONE.NAME: there is no 'build_nothing'.*resnet_upconv"),
        ("MODEL.RESNETS.DEPTH", 19, "MODEL.RESNETS.DEPTH is 19, known"),
        ("INPUT.AFFINE.SIZE", "[100, 128]", "multiples of 32"),
        ("INPUT.AFFINE.SIZE", "[128]", "multiples of 32"),
        ("INPUT.FORMAT", "bgr", "INPUT.FORMAT is 'bgr', known: BGR, RGB"),
        ("MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.NORM is 'GN', known: BN, SyncBN, FrozenBN"),
        ("MODEL.UPCONV.NORM", "", "MODEL.UPCONV.NORM is '', known"),
        ("MODEL.CENTERNET.HEADS", "[]", "no head predicts the heatmap of the centers; CenterHead does"),
        ("MODEL.CENTERNET.TEST_RESOLUTION", "full", "TEST_RESOLUTION is 'full', known: keep, fixed, fixed_width"),
        ("MODEL.CENTERNET.GAUSSIAN_RADIUS", "mine", "GAUSSIAN_RADIUS is 'mine', known: original, corrected"),
    ],
)
def test_a_wrong_config_is_one_clear_error(key, value, message):
    with pytest.raises((KeyError, ValueError), match=message):
        CenterNet(small_config(key, value))


def test_a_map_predicted_twice_is_an_error():
    heads = {**stub_heads(), "Again": stub_heads()["BoxHead"]}
    with pytest.raises(ValueError, match="Again predicts size a second time"):
        stub_model(heads)


def test_the_constructor_needs_no_config():
    shape = stub_model().backbone.output_shape()["stack_0"]
    assert shape == ShapeSpec(channels=4, stride=4)
