import cv2
import numpy as np
import pytest
import torch
from detectron2.config import configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.events import EventStorage

from centernet_d2 import load_config, model_zoo
from centernet_d2.data import CenterNetDatasetMapper
from centernet_d2.data.checks import load_checked
from centernet_d2.evaluation.errors import ErrorEvaluator
from centernet_d2.imaging.transforms import MirrorTransform, is_mirrored
from centernet_d2.imaging.visualization import draw_instances
from centernet_d2.modeling import CenterNet
from centernet_d2.modeling.heads import POINT_HEAD_REGISTRY, PointHead, Property, build_properties
from centernet_d2.modeling.losses import regression_loss
from centernet_d2.predictor import Predictor
from support.detections import same_detections
from support.models import stub_heads, stub_model, widen_boxes


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
def test_losses_are_finite_and_all_parameters_have_gradients(counts):
    model = stub_model(stub_heads(stacks=2), stacks=2).train()
    batch = [random_sample((64, 96), count, seed) for seed, count in enumerate(counts)]
    losses = model(batch)
    assert set(losses) == {"loss_heatmap", "loss_offset", "loss_size"}
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_losses_are_averaged_over_stacks():
    model = stub_model(stub_heads(stacks=2), stacks=2).train()
    batch = [random_sample((64, 96), 3, 0)]
    maps = model.compute_maps(model.preprocessor.training_batch(batch).tensor)
    truth = model.ground_truth(batch, (16, 24))
    both, first, second = (model.losses(m, model.targets(*truth)) for m in (maps, maps[:1], maps[1:]))
    for name in both:
        assert both[name].item() == pytest.approx((first[name].item() + second[name].item()) / 2, rel=1e-5)


@pytest.mark.parametrize("resolution", ["keep", "fixed"])
def test_batch_gives_same_results_as_single_images(resolution):
    torch.manual_seed(0)
    model = stub_model(stub_heads(box={"clip": False}), test_resolution=resolution, max_detections=20).eval()
    for branch in (branch for head in model.heads.values() for stack in head.stacks for branch in stack.values()):
        torch.nn.init.normal_(branch[-1].weight)  # maps without ties
    batch = [sample(size, seed=seed) for seed, size in enumerate([(50, 70), (64, 96), (33, 70), (200, 40), (50, 70)])]
    with torch.no_grad():
        results = model(batch)
        assert not same_detections(results[0]["instances"], results[4]["instances"], atol=1e-4)
        for inputs, result in zip(batch, results, strict=True):
            expected = model([inputs])[0]["instances"]
            detections = result["instances"]
            assert detections.image_size == expected.image_size == tuple(inputs["image"].shape[-2:])
            assert same_detections(detections, expected, atol=1e-4)


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
def test_image_dtype_does_not_change_results(resolution, dtype):
    model = stub_model(test_resolution=resolution, max_detections=10).eval()
    inputs = sample((50, 70))
    with torch.no_grad():
        expected = model([inputs])[0]["instances"].scores
        converted = model([{**inputs, "image": inputs["image"].to(dtype)}])[0]["instances"].scores
        assert torch.equal(converted, expected)


@pytest.mark.parametrize("deformable", [False, True])
def test_real_network_is_batch_independent_and_supports_autocast(deformable):
    torch.manual_seed(0)
    keys = ("MODEL.UPCONV.DEFORMABLE", deformable, "MODEL.CENTERNET.QUIRKS.CLIP_BOXES", False)
    model = CenterNet(small_config("TEST.DETECTIONS_PER_IMAGE", 10, *keys))
    batch = [random_sample((40, 60), 3, 0), random_sample((40, 60), 0, 1), random_sample((70, 30), 1, 2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch)
        sum(losses.values()).backward()
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        # Compare maps, not detections: an untrained network predicts plateaus, whose peaks depend on rounding.
        canvases, _ = model.preprocessor.canvases(batch[:2])
        batched = model.compute_test_maps(model.preprocessor.batch(canvases))
        for i, canvas in enumerate(canvases):
            single = model.compute_test_maps(model.preprocessor.batch([canvas]))
            for name, values in single.items():
                assert torch.allclose(batched[name][i], values[0], rtol=1e-3, atol=1e-4), name
        assert [len(result["instances"]) for result in model(batch)] == [10, 10, 10]


def test_channels_last_does_not_change_results():
    models = []
    for last in (False, True):
        torch.manual_seed(0)
        models.append(CenterNet(small_config("MODEL.CENTERNET.CHANNELS_LAST", last)).eval())
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        plain, last = (model.compute_test_maps(images) for model in models)
    assert last["heatmap"].is_contiguous(memory_format=torch.channels_last)
    assert plain["heatmap"].is_contiguous()
    assert all(torch.allclose(last[name], plain[name], rtol=1e-3, atol=1e-4) for name in plain)


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ((), False),
        (("TEST.PRECISION", "bfloat16"), True),
        (("SOLVER.AMP.ENABLED", True), True),
        (("TEST.PRECISION", "bfloat16", "MODEL.CENTERNET.CHANNELS_LAST", False), False),
    ],
)
def test_half_precision_implies_channels_last(options, last):
    model = CenterNet(small_config(*options))
    assert (model.memory_format == torch.channels_last) == last


def test_half_precision_inference_gives_similar_maps():
    models = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        models.append(CenterNet(small_config("TEST.PRECISION", precision)).eval())
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        full, half = (model.compute_test_maps(images) for model in models)
    assert all(half[name].dtype == torch.float32 for name in full)
    assert not torch.equal(full["heatmap"], half["heatmap"])
    assert all(torch.allclose(half[name], full[name], rtol=0.1, atol=0.05) for name in full)
    with pytest.raises(ValueError, match=r"TEST.PRECISION is 'int8', known: auto, float32, bfloat16, float16"):
        CenterNet(small_config("TEST.PRECISION", "int8"))


def test_config_sets_head_options():
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
        model = stub_model(stub_heads(box={"clip": False}), max_detections=7).eval()
        detections = model(inputs)[0]["instances"]
        assert len(detections) == 7
        model.score_threshold = detections.scores[3].item()
        above = int((detections.scores > detections.scores[3]).sum())  # scores may be equal
        assert 0 < above < 7
        assert len(model(inputs)[0]["instances"]) == above


def test_detections_without_area_are_discarded():
    """With `clip`, boxes have a positive width and height inside the image, and all fields keep the same rows."""
    inputs = [sample((50, 70)), sample((40, 90), seed=1)]
    found = {}
    for clip in (True, False):
        torch.manual_seed(0)
        model = stub_model(stub_heads(box={"clip": clip}), max_detections=40).eval()
        for branch in model.heads["BoxHead"].stacks:
            torch.nn.init.zeros_(list(branch.parameters())[-1])  # Sizes of both signs.
        with torch.no_grad():
            found[clip] = [result["instances"] for result in model(inputs)]
    for valid, raw in zip(found[True], found[False], strict=True):
        assert 0 < len(valid) < len(raw) == 40
        sides = valid.pred_boxes.tensor[:, 2:] - valid.pred_boxes.tensor[:, :2]
        assert (sides > 0).all()
        clipped = Boxes(raw.pred_boxes.tensor.clone())
        clipped.clip(raw.image_size)
        kept = clipped.nonempty()
        assert torch.equal(valid.pred_boxes.tensor, clipped.tensor[kept])
        assert torch.equal(valid.scores, raw.scores[kept])
        assert torch.equal(valid.pred_classes, raw.pred_classes[kept])


def test_half_precision_decodes_in_float32():
    model = stub_model(max_detections=5).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        detections = model([sample((64, 96))])[0]["instances"]
    assert detections.scores.dtype == detections.pred_boxes.tensor.dtype == torch.float32


def test_network_and_decoding_are_exportable():
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


def test_training_visualization_is_in_event_storage():
    model = stub_model(vis_period=2).train()
    with EventStorage(start_iter=2) as storage:
        model([random_sample((64, 96), 2, 0)])
        ((name, figure, _),) = storage._vis_data
    assert "heatmap" in name
    assert figure.shape[0] == 3


class TiltProperty(Property):
    """Custom property: tilt of an object in degrees, relative to the horizon of its image."""

    name = "tilt"
    node = "TILT"
    annotation_keys = ("tilt",)
    input_keys = ("horizon",)
    fields = ("pred_tilt",)

    @configurable
    def __init__(self, *, unit=1.0):
        self.unit = unit

    @classmethod
    def from_config(cls, cfg):
        return {"unit": cfg.MODEL.CENTERNET.TILT.UNIT}

    @classmethod
    def add_config(cls, node):
        node.UNIT = 1.0
        node.WEIGHT = 1.0

    def check(self, dicts):
        if any(abs(x.get("tilt", 0)) > 90 for image in dicts for x in image["annotations"]):
            raise ValueError("an object is upside down")

    def carry(self, inputs, transforms):
        if not -90 <= inputs.get("horizon", 0) <= 90:
            raise ValueError(f"the horizon is {inputs['horizon']} degrees")
        return {key: value * self._sign(transforms) for key, value in inputs.items()}

    def annotate(self, record, transforms, size):
        tilts = torch.tensor([float(x["tilt"]) for x in record["annotations"]])
        return {"gt_tilt": tilts * self._sign(transforms)}

    @staticmethod
    def _sign(transforms):
        return -1 if is_mirrored(transforms) else 1

    def errors(self, detections, truth):
        return {"degrees": float((detections.pred_tilt - truth.gt_tilt).abs().mean())}

    def draw(self, visualizer, instances, inputs):
        tilts = instances.pred_tilt if instances.has("scores") else instances.gt_tilt
        for tilt in tilts.tolist():
            visualizer.draw_text(f"{tilt:.0f}", (20, 20), color="red")
        return [np.full((8, 5, 3), 77, dtype=np.uint8)] if "horizon" in inputs else []


class TiltHead(PointHead):
    """Head of the custom property."""

    property_type = TiltProperty
    requires = ("centers",)
    provides = ("tilt",)

    @configurable
    def __init__(self, *, weight=1.0, **common):
        super().__init__({"tilt": 1}, **common)
        self.weight = weight

    @classmethod
    def from_config(cls, cfg, input_shape, num_stacks):
        return {"weight": cfg.MODEL.CENTERNET.TILT.WEIGHT, **cls.common_config(cfg, input_shape, num_stacks)}

    def targets(self, gt, points):
        return {"tilt": points.target(torch.cat([x.gt_tilt for x in gt])[:, None] / self.prop.unit)}

    def losses(self, maps, targets):
        target = targets["tilt"]
        return {"loss_tilt": self.weight * regression_loss(target.gather(maps["tilt"]), target.value, target.weight)}

    def unflip(self, maps):
        return {"tilt": -maps["tilt"].flip(-1)}

    def decode(self, maps, peaks, fields):
        return {"tilt": peaks.gather(maps["tilt"])[..., 0]}

    def to_image(self, fields, geometry):
        return {"pred_tilt": fields["tilt"] * self.prop.unit + geometry.inputs.get("horizon", 0)}


@pytest.fixture
def tilt_config():
    POINT_HEAD_REGISTRY.register(TiltHead)
    heads, node = "['CenterHead','BoxHead','TiltHead']", "MODEL.CENTERNET.TILT."
    yield small_config("MODEL.CENTERNET.HEADS", heads, node + "UNIT", 10.0, node + "WEIGHT", 3.0)
    del POINT_HEAD_REGISTRY._obj_map["TiltHead"]


def tilted_record(folder, tilt):
    """Create a black image with a tilted object, in Detectron2's format."""
    cv2.imwrite(str(folder / "black.png"), np.zeros((64, 64, 3), dtype=np.uint8))
    annotation = {"bbox": [8, 8, 40, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "tilt": tilt}
    image = {"file_name": str(folder / "black.png"), "height": 64, "width": 64, "image_id": 0, "horizon": 5.0}
    return {**image, "annotations": [annotation]}


def test_custom_property_end_to_end(tilt_config, tmp_path):
    """Config keys, annotations and inputs, from the dataset to losses, detections, figures, JSON and errors."""
    record = tilted_record(tmp_path, 20.0)
    DatasetCatalog.register("leaning", lambda: [record])
    MetadataCatalog.get("leaning").thing_classes = list("abcde")
    (checked,) = load_checked(["leaning"], 5, build_properties(tilt_config))
    assert "unlabeled" not in checked
    mapper = CenterNetDatasetMapper(
        True,
        augmentations=[MirrorTransform(64)],
        image_format="BGR",
        num_classes=5,
        properties=build_properties(tilt_config),
    )
    mirrored = mapper(checked)
    assert (mirrored["instances"].gt_tilt.tolist(), mirrored["horizon"]) == ([-20.0], -5.0)

    model = CenterNet(tilt_config).train()
    for parameter in model.heads["TiltHead"].parameters():
        torch.nn.init.zeros_(parameter)
    # The prediction is 0 instead of -2 units of 10 degrees, and the loss weight is 3.
    assert model([mirrored])["loss_tilt"].item() == pytest.approx(6, rel=1e-3)

    torch.nn.init.constant_(model.heads["TiltHead"].stacks[0]["tilt"][-1].bias, 1.2)
    widen_boxes(model.heads["BoxHead"])
    predictor = Predictor(model)
    detections = predictor(record["file_name"], horizon=5.0, threshold=0)["instances"]
    plain = predictor(record["file_name"], threshold=0)["instances"]
    assert detections.pred_tilt.tolist() == pytest.approx([17.0] * len(detections))
    assert plain.pred_tilt.tolist() == pytest.approx([12.0] * len(detections))
    assert len(detections) == len(detections.pred_boxes) > 0
    with pytest.raises(ValueError, match="the horizon is 120 degrees"):
        predictor(record["file_name"], horizon=120)

    written = predictor(record["file_name"], horizon=5.0, threshold=0).to_coco(3)
    assert set(written[0]) == {"image_id", "category_id", "score", "bbox", "tilt"}
    assert [entry["tilt"] for entry in written] == pytest.approx([17.0] * len(detections))
    best = Instances(
        (64, 64), scores=torch.ones(1), pred_classes=torch.ones(1).long(), pred_tilt=torch.full((1,), 17.0)
    )
    best.pred_boxes = Boxes([[8.0, 8, 40, 40]])
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    for instances in (best, mirrored["instances"]):
        without, narrow, wide = (
            draw_instances(image, instances, properties=properties, inputs=inputs)
            for properties, inputs in (((), {}), (model.properties, {}), (model.properties, {"horizon": 5.0}))
        )
        assert (narrow != without).any()
        assert (wide[:, :64] == narrow).all()
        assert (wide[:8, 64:] == 77).all()

    evaluator = ErrorEvaluator("leaning", model.properties)
    evaluator.process([record], [{"instances": best}])
    assert evaluator.evaluate() == {"tilt_error": {"degrees": 3.0, "found": 100.0}}


def test_custom_property_validates_datasets(tilt_config, tmp_path):
    DatasetCatalog.register("upside down", lambda: [tilted_record(tmp_path, 120.0)])
    upright = tilted_record(tmp_path, 0.0)
    del upright["annotations"][0]["tilt"]
    DatasetCatalog.register("unknown", lambda: [upright])
    properties = build_properties(tilt_config)
    with pytest.raises(ValueError, match="an object is upside down"):
        load_checked(["upside down"], 5, properties)
    (checked,) = load_checked(["unknown"], 5, properties)
    assert checked["unlabeled"] == ["tilt"]


def test_unused_custom_property_has_no_effect(tilt_config):
    plain = small_config()
    assert plain.MODEL.CENTERNET.TILT.UNIT == 1.0
    model = CenterNet(plain)
    assert [prop.name for prop in model.properties] == ["center", "box"]
    assert model.input_keys == []
    assert CenterNet(tilt_config).input_keys == ["horizon"]


class NamedHead(PointHead):
    """Head with configurable names."""

    def __init__(self, maps=("own",), provides=("own",), fields=("pred_own",), prop="own", node="OWN", loss="own"):
        own = Property()
        own.name, own.node, own.fields = prop, node, fields
        super().__init__(dict.fromkeys(maps, 1), prop=own, in_channels=4, head_conv=0)
        self.provides, self.loss = provides, f"loss_{loss}"

    def targets(self, gt, points):
        return {}

    def losses(self, maps, targets):
        return {self.loss: sum(maps[name].sum() for name in self.maps)}

    def unflip(self, maps):
        return dict.fromkeys(self.maps)

    def decode(self, maps, peaks, fields):
        return dict.fromkeys(self.provides, peaks.scores)

    def to_image(self, fields, geometry):
        return {"pred_own": fields[self.provides[0]]}


OTHER = {"maps": ("b",), "provides": ("b",), "fields": ("pred_b",), "prop": "b", "node": "B", "loss": "b"}


@pytest.mark.parametrize(
    ("same", "message"),
    [
        ({"maps": ("b", "own")}, "maps own"),
        ({"provides": ("b", "own")}, "decoded fields own"),
        ({"fields": ("pred_b", "pred_own")}, "fields pred_own"),
        ({"prop": "own"}, "property own"),
        ({"node": "OWN"}, "property OWN"),
        ({"maps": ("size",)}, "maps size"),
        ({"provides": ("boxes",)}, "decoded fields boxes"),
        ({"fields": ("pred_boxes",)}, "fields pred_boxes"),
        ({"prop": "box"}, "property box"),
    ],
)
def test_conflicting_heads_raise_at_construction(same, message):
    first, second = NamedHead(), NamedHead(**{**OTHER, **same})
    with pytest.raises(ValueError, match=f"^heads is .*, but an earlier head already has the {message} of Second"):
        stub_model({**stub_heads(), "First": first, "Second": second})


def test_duplicate_loss_name_raises():
    batch = [random_sample((64, 96), 1, 0)]
    heads = {**stub_heads(), "First": NamedHead(), "Second": NamedHead(**OTHER)}
    assert {"loss_own", "loss_b"} <= set(stub_model(heads).train()(batch))
    heads["Second"].loss = "loss_own"
    with pytest.raises(ValueError, match="losses of Second are also losses of an earlier head: loss_own"):
        stub_model(heads).train()(batch)


def test_undeclared_and_missing_fields_raise():
    model = stub_model({**stub_heads(), "Own": NamedHead()}).eval()
    with torch.no_grad():
        assert model([sample((64, 96))])[0]["instances"].has("pred_own")
        model.heads["Own"].prop.fields = ("pred_other",)
        with pytest.raises(ValueError, match="Own produced pred_own, which its property does not declare"):
            model([sample((64, 96))])
        model.heads["Own"].prop.fields = ("pred_own", "pred_other")
        with pytest.raises(ValueError, match="Own did not produce pred_other, which its property declares"):
            model([sample((64, 96))])


def test_sequence_of_heads_uses_class_names():
    heads = stub_heads()
    names = list(stub_model(heads).state_dict())
    assert list(stub_model(list(heads.values())).state_dict()) == names
    assert "heads.BoxHead.stacks.0.size.0.weight" in names
    assert "heads.CenterHead.stacks.0.heatmap.0.bias" in names
    with pytest.raises(ValueError, match="an earlier head already has the maps size of BoxHead"):
        stub_model([*heads.values(), stub_heads()["BoxHead"]])


def small_config(*overrides):
    file = model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml")
    return load_config(file, ["MODEL.DEVICE", "cpu", *overrides])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "MODEL.CENTERNET.HEADS",
            "['CenterHead','Nose']",
            "HEADS: 'Nose' is not registered in POINT_HEAD; registered names: Box3DHead, Box",
        ),
        (
            "MODEL.CENTERNET.HEADS",
            "['BoxHead','CenterHead']",
            r"MODEL.CENTERNET.HEADS is \[BoxHead, CenterHead\], but BoxHead requires centers, classes, which no",
        ),
        ("MODEL.BACKBONE.NAME", "build_nothing", "BACKBONE.NAME: 'build_nothing' is not registered.*resnet_upconv"),
        ("MODEL.RESNETS.DEPTH", 19, "MODEL.RESNETS.DEPTH is 19, known"),
        ("INPUT.AFFINE.SIZE", "[100, 128]", "multiples of 32"),
        ("INPUT.AFFINE.SIZE", "[128]", "INPUT.AFFINE.SIZE is .128. .*multiples of 32"),
        ("INPUT.FORMAT", "bgr", "INPUT.FORMAT is 'bgr', known: BGR, RGB"),
        ("MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.NORM is 'GN', known: BN, SyncBN, FrozenBN"),
        ("MODEL.UPCONV.NORM", "", "MODEL.UPCONV.NORM is '', known"),
        (
            "MODEL.CENTERNET.HEADS",
            "[]",
            r"MODEL.CENTERNET.HEADS is \[\], but no head predicts the center heatmap: add CenterHead",
        ),
        (
            "MODEL.CENTERNET.HEADS",
            "['CenterHead','BoxHead','BoxHead']",
            "an earlier head already has the maps size of BoxHead",
        ),
        ("MODEL.CENTERNET.TEST_RESOLUTION", "full", "TEST_RESOLUTION is 'full', known: keep, fixed, fixed_width"),
        ("MODEL.CENTERNET.QUIRKS.GAUSSIAN_RADIUS", "mine", "GAUSSIAN_RADIUS is 'mine', known: original, corrected"),
        ("MODEL.UPCONV.CHANNELS", "[8]", r"MODEL.UPCONV.CHANNELS is \[8\], but must have 3 values"),
        ("MODEL.DEFORM_CONV", "fast", "MODEL.DEFORM_CONV is 'fast', known"),
        ("MODEL.CENTERNET.HEAD_INIT", "other", "MODEL.CENTERNET.HEAD_INIT is 'other', known"),
        ("MODEL.CENTERNET.OFFSET_LOSS", "l3", "MODEL.CENTERNET.OFFSET_LOSS is 'l3', known"),
        ("MODEL.CENTERNET.SIZE_LOSS", "l3", "MODEL.CENTERNET.SIZE_LOSS is 'l3', known"),
        ("MODEL.CENTERNET.QUIRKS.IGNORE_REGIONS", "no", "MODEL.CENTERNET.QUIRKS.IGNORE_REGIONS is 'no', known"),
        ("TEST.NMS", "soft", "TEST.NMS is 'soft', known"),
    ],
)
def test_invalid_config_error_names_key(key, value, message):
    with pytest.raises((KeyError, ValueError), match=message):
        CenterNet(small_config(key, value))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["TEST.NMS", "class"], "TEST.NMS is 'class', but NMS needs boxes: add BoxHead to the heads"),
        (["MODEL.CENTERNET.BOX3D.DEPTH_LOSS", "l3"], "MODEL.CENTERNET.BOX3D.DEPTH_LOSS is 'l3', known"),
        (
            ["MODEL.CENTERNET.QUIRKS.BOX3D.AUGMENTED_DEPTH", "no"],
            "MODEL.CENTERNET.QUIRKS.BOX3D.AUGMENTED_DEPTH is 'no', known",
        ),
        (
            ["MODEL.CENTERNET.QUIRKS.BOX3D.AUGMENTED_DEPTH", "camera"],
            "MODEL.CENTERNET.BOX3D.REFERENCE_FOCAL is 0.0, but must be positive to learn the depth of scaled",
        ),
        (
            ["MODEL.CENTERNET.BOX3D.DEFAULT_CAMERA", "[[1.0]]"],
            "MODEL.CENTERNET.BOX3D.DEFAULT_CAMERA is invalid: the camera must be",
        ),
    ],
)
def test_invalid_3d_config_error_names_key(overrides, message):
    with pytest.raises(ValueError, match=message):
        CenterNet(small_config("MODEL.CENTERNET.HEADS", "['CenterHead','Box3DHead']", *overrides))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gaussian_radius": "mine"}, "^gaussian_radius is 'mine', known: original, corrected"),
        ({"test_resolution": "full"}, "^test_resolution is 'full', known"),
        ({"input_format": "bgr"}, "^input_format is 'bgr', known"),
        (
            {"fixed_size": (100,)},
            r"^fixed_size is \[100\] .* this backbone needs positive multiples of",
        ),
    ],
)
def test_invalid_argument_error_names_argument(options, message):
    with pytest.raises(ValueError, match=message):
        stub_model(**options)


def test_duplicate_map_raises():
    heads = {**stub_heads(), "Again": stub_heads()["BoxHead"]}
    with pytest.raises(ValueError, match="an earlier head already has the maps size of Again"):
        stub_model(heads)


def test_constructor_without_config():
    shape = stub_model().backbone.output_shape()["stack_0"]
    assert shape == ShapeSpec(channels=4, stride=4)
