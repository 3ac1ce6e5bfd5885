import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer

from centernet_d2 import Predictor, load_config, model_zoo
from centernet_d2.checkpoint import CenterNetCheckpointer, read_metadata
from centernet_d2.data.catalog import checkpoint_metadata, dataset_metadata
from centernet_d2.evaluation.coco import to_coco
from centernet_d2.layers.folding import NORMS
from centernet_d2.modeling import Box3DHead, CenterNet, CenterNetWithTTA
from centernet_d2.modeling.heads import Box3DProperty, BoxProperty, CenterProperty, KeypointProperty, Property
from centernet_d2.modeling.heads.build import build_properties
from centernet_d2.modeling.heads.keypoint import KeypointSchema
from centernet_d2.predictor import fast_precision
from centernet_d2.structures.boxes3d import pinhole_camera
from support.detections import same_detections
from support.models import stub_heads, stub_model

ZOO = "Shapes/centernet_R_18_shapes.yaml"
FLOAT32 = ["TEST.PRECISION", "float32"]
SMALL_HOURGLASS = ["MODEL.HOURGLASS.WIDTHS", [8, 8], "MODEL.HOURGLASS.COUNTS", [1, 1], "MODEL.CENTERNET.HEAD_CONV", 8]


def random_image(seed=0, size=(48, 70)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def detect(predictor, images, **inputs):
    """Return the Instances of an image, or of each image in a list."""
    results = predictor(images, threshold=0, **inputs)
    return [result["instances"] for result in results] if isinstance(results, list) else results["instances"]


@pytest.fixture
def predictor():
    torch.manual_seed(0)
    predictor = Predictor(stub_model(max_detections=5), batch_size=2)
    predictor.threshold = 0.0
    return predictor


def test_arrays_paths_and_lists_have_equal_detections(predictor, tmp_path):
    path = tmp_path / "ein Bild mit ü.png"
    path.write_bytes(cv2.imencode(".png", random_image())[1].tobytes())
    alone = detect(predictor, random_image())
    assert len(alone) == 5
    assert alone.image_size == (48, 70)
    assert same_detections(detect(predictor, path), alone)
    assert same_detections(detect(predictor, str(path)), alone)
    many = detect(predictor, [random_image(), path, random_image(1, (30, 99)), random_image(2), random_image()])
    assert [found.image_size for found in many] == [(48, 70), (48, 70), (30, 99), (48, 70), (48, 70)]
    assert all(same_detections(many[i], alone) for i in (0, 1, 4))
    assert same_detections(many[2], detect(predictor, random_image(1, (30, 99))))
    assert predictor([]) == []


def test_gray_transparent_and_16_bit_arrays(predictor):
    gray = random_image()[..., 0]
    reference = detect(predictor, np.repeat(gray[..., None], 3, axis=2))
    assert same_detections(detect(predictor, gray), reference)
    assert same_detections(detect(predictor, gray.astype(np.uint16) * 257), reference)
    assert same_detections(detect(predictor, np.dstack([random_image(), gray])), detect(predictor, random_image()))


def test_float_arrays_and_pillow_images(predictor):
    alone = detect(predictor, random_image())
    assert same_detections(detect(predictor, random_image().astype(np.float32)), alone)
    assert same_detections(detect(predictor, PIL.Image.fromarray(random_image()[..., ::-1])), alone)
    with pytest.raises(ValueError, match="multiply it by 255"):
        predictor(random_image() / 255)


def test_output_is_compatible_with_default_predictor(predictor):
    outputs = predictor(random_image())
    assert set(outputs) == {"instances"}
    # Typical use in converters and notebooks for Detectron2:
    instances = outputs["instances"].to("cpu")
    assert type(instances) is Instances
    boxes, scores, classes = (
        instances.pred_boxes.tensor.numpy(),
        instances.scores.numpy(),
        instances.pred_classes.numpy().astype(int),
    )
    assert (boxes.shape, scores.shape, classes.shape) == ((5, 4), (5,), (5,))
    drawn = Visualizer(random_image()[..., ::-1], predictor.metadata).draw_instance_predictions(instances)
    assert drawn.get_image().shape == (48, 70, 3)


def test_rgb_models_receive_rgb(predictor):
    rgb = Predictor(predictor.model)
    before = detect(predictor, random_image())
    rgb.model.input_format = "RGB"
    assert same_detections(detect(rgb, np.ascontiguousarray(random_image()[..., ::-1])), before)


def test_test_time_augmentation_of_lists_matches_single_images():
    torch.manual_seed(0)
    predictor = Predictor(CenterNetWithTTA(model=stub_model(max_detections=5).eval(), scales=(0.5, 1)), batch_size=3)
    images = [random_image(seed, size) for seed, size in enumerate([(48, 70), (30, 99), (48, 70), (48, 70)])]
    together = detect(predictor, images)
    assert all(same_detections(one, detect(predictor, p)) for one, p in zip(together, images, strict=True))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    model = CenterNet(load_config(model_zoo.get_config_file(ZOO), ["MODEL.DEVICE", "cpu"]))
    torch.save({"model": model.state_dict()}, path)
    return path


def test_source_is_a_config_name_with_weights(weights, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    # Boxes of an untrained network may have no area.
    options = [
        "MODEL.WEIGHTS",
        str(weights),
        "TEST.DETECTIONS_PER_IMAGE",
        3,
        "MODEL.CENTERNET.QUIRKS.CLIP_BOXES",
        False,
    ]
    predictor = Predictor(ZOO, device="cpu", overrides=[*options, "TEST.FOLD_NORMS", False])
    assert len(predictor(random_image(), threshold=0)["instances"]) == 3
    assert predictor.class_names is predictor.category_ids is None
    augmented = Predictor(ZOO, overrides=[*options, "TEST.AUG.ENABLED", True])
    assert isinstance(augmented.model, CenterNetWithTTA)
    folded = Predictor(ZOO, overrides=options)
    assert [any(isinstance(module, NORMS) for module in p.network.modules()) for p in (predictor, folded)] == [1, 0]
    maps = [p.network.compute_test_maps(torch.ones(1, 3, 64, 64)) for p in (predictor, folded)]
    assert all(torch.allclose(maps[1][name], maps[0][name], rtol=1e-4, atol=1e-5) for name in maps[0])
    with pytest.raises(ValueError, match="MODEL.WEIGHTS is empty, but detection requires weights: set MODEL.WEIGHTS"):
        Predictor.from_config(load_config(model_zoo.get_config_file(ZOO)))
    with pytest.raises(ValueError, match="must be at least 1"):
        Predictor(predictor.model, batch_size=0)
    with pytest.raises(ValueError, match="the source is a model"):
        Predictor(predictor.model, overrides=options)


def test_default_precision_is_bfloat16_only_on_a_cpu_with_its_instructions(monkeypatch):
    def precision(flags, device="cpu"):
        monkeypatch.setattr("pathlib.Path.read_text", lambda path, encoding: f"flags : fpu {flags}")
        return fast_precision(device)

    assert precision("avx512f amx_bf16") == precision("avx512_bf16") == "bfloat16"
    assert precision("avx512f") == precision("amx_bf16", "cuda") == "float32"


def test_precision_of_the_machine_is_the_default(weights, monkeypatch):
    monkeypatch.setattr("centernet_d2.predictor.fast_precision", lambda device: "bfloat16")
    options = ["MODEL.WEIGHTS", str(weights)]
    found = [Predictor(ZOO, device="cpu", overrides=[*options, *more]).network for more in ([], FLOAT32)]
    assert [(x.precision, x.memory_format == torch.channels_last) for x in found] == [
        ("bfloat16", True),
        ("float32", False),
    ]
    maps = [network.compute_test_maps(torch.ones(1, 3, 64, 64)) for network in found]
    assert all(torch.allclose(maps[0][name], maps[1][name], rtol=0.1, atol=0.05) for name in maps[0])


def test_backbone_that_cannot_be_folded_is_used_unchanged(weights, monkeypatch):
    def refuse(network):
        raise ValueError("cannot be folded")

    monkeypatch.setattr("centernet_d2.predictor.fold_batch_norms", refuse)
    options = ["MODEL.WEIGHTS", str(weights)]
    assert any(isinstance(module, NORMS) for module in Predictor(ZOO, overrides=options).network.modules())
    with pytest.raises(ValueError, match="cannot be folded"):
        Predictor(ZOO, overrides=[*options, "TEST.FOLD_NORMS", True])


@pytest.fixture
def run_folder(tmp_path):
    """Output folder with the final checkpoint of a training."""
    options = [*SMALL_HOURGLASS, "MODEL.DEVICE", "cpu", "MODEL.CENTERNET.NUM_CLASSES", 2, "TEST.NMS", "class"]
    options += ["MODEL.CENTERNET.CLASS_NAMES", ["cat", "dog"], "MODEL.WEIGHTS", str(tmp_path / "initial.pth")]
    cfg = load_config("Shapes/centernet_HG_shapes.yaml", options)
    torch.manual_seed(0)
    metadata = {**checkpoint_metadata(cfg), "threshold": 0.25}
    CenterNetCheckpointer(CenterNet(cfg), str(tmp_path), metadata=metadata).save("model_final", iteration=9)
    return tmp_path


def test_checkpoint_alone_is_sufficient(run_folder, monkeypatch):
    predictor = Predictor(run_folder)
    assert predictor.network.nms == "class"
    assert (predictor.class_names, predictor.threshold) == (["cat", "dog"], 0.25)
    assert Predictor(run_folder / "model_final.pth", device="cpu").threshold == 0.25
    # Boxes of an untrained network may have no area.
    options = ["TEST.DETECTIONS_PER_IMAGE", 2, "MODEL.CENTERNET.QUIRKS.CLIP_BOXES", False, "TEST.NMS", ""]
    overridden = Predictor(run_folder, overrides=options)
    assert len(overridden(random_image(), threshold=0)["instances"]) == 2
    text = read_metadata(run_folder / "model_final.pth")["config"]
    assert str(run_folder) not in text
    assert "MODEL.DEVICE" not in text


def test_checkpoint_without_config(run_folder, weights):
    with pytest.raises(ValueError, match=r"model.pth contains no config, .*: specify the config of its network"):
        Predictor(weights)
    torch.save({"model": torch.load(run_folder / "model_final.pth")["model"]}, run_folder / "model_final.pth")
    cfg = load_config("Shapes/centernet_HG_shapes.yaml", [*SMALL_HOURGLASS, "MODEL.CENTERNET.NUM_CLASSES", 2])
    (run_folder / "config.yaml").write_text(cfg.dump())
    predictor = Predictor(run_folder)
    assert (predictor.network.num_classes, predictor.threshold) == (2, 0.3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("MODEL.CENTERNET.ANGLE.BINS: 3", "model_final.pth: there is no key MODEL.CENTERNET.ANGLE.BINS"),
        ("MODEL.CENTERNET.NUM_CLASSES: many", "model_final.pth: MODEL.CENTERNET.NUM_CLASSES is 'many'"),
        ("a: [", "model_final.pth: its config is not valid YAML"),
        ("3", "model_final.pth: its config is a int, but must be a mapping"),
    ],
)
def test_invalid_config_in_checkpoint(config, message, run_folder):
    data = torch.load(run_folder / "model_final.pth")
    torch.save({**data, "metadata": {"config": config}}, run_folder / "model_final.pth")
    with pytest.raises(ValueError, match=message):
        Predictor(run_folder)


def test_missing_source(tmp_path):
    with pytest.raises(FileNotFoundError, match="contains no checkpoint"):
        Predictor(tmp_path)
    with pytest.raises(FileNotFoundError, match="the weights file .*none.pth does not exist"):
        Predictor(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="config file, run or model nothing does not exist"):
        Predictor("nothing")
    (tmp_path / "model_final.pth").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is not a valid weights file"):
        Predictor(tmp_path)


def test_threshold_selects_detections(predictor):
    every = predictor(random_image(), threshold=0)["instances"]
    limit = float(every.scores[2])
    assert len(predictor(random_image(), threshold=limit)["instances"]) == 3
    predictor.threshold = limit
    assert len(predictor(random_image())["instances"]) == 3
    assert [len(result["instances"]) for result in predictor([random_image(), random_image()])] == [3, 3]
    assert len(predictor.detect([random_image()])[0]["instances"]) == 5
    with pytest.raises(ValueError, match="threshold is 2, but must be from 0 to 1"):
        predictor(random_image(), threshold=2)


def test_result_is_drawn_saved_and_converted(predictor, tmp_path):
    predictor.metadata = Metadata(thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id={20: 1, 10: 0})
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), random_image())
    result = predictor(image)
    indices = result["instances"].pred_classes.tolist()
    assert result.class_names == [["cat", "dog"][index] for index in indices]
    assert [entry["category_id"] for entry in result.to_coco(7)] == [[10, 20][index] for index in indices]
    assert {entry["image_id"] for entry in result.to_coco(7)} == {7}
    original = PIL.Image.open(image).convert("RGB")
    assert result.draw().size == original.size
    assert result.draw().tobytes() != original.tobytes()
    assert result.draw(threshold=1.0).tobytes() == original.tobytes()
    result.save(tmp_path / "result.png")
    assert PIL.Image.open(tmp_path / "result.png").tobytes() == result.draw().tobytes()
    (with_heatmap,) = predictor.detect([image], keep_heatmap=True)
    assert with_heatmap.draw(threshold=1.0).tobytes() != original.tobytes()


def test_class_names_and_category_ids_of_dataset():
    cfg = load_config(model_zoo.get_config_file("COCO-Detection/centernet_R_18_1x.yaml"))
    predictor = Predictor(stub_model(), metadata=dataset_metadata(cfg))
    assert predictor.class_names[:2] == ["person", "bicycle"]
    assert predictor.category_ids[-1] == 90
    cfg.MODEL.CENTERNET.NUM_CLASSES = 3
    assert dataset_metadata(cfg).get("thing_classes") is None


def test_keypoint_names_and_lines_without_dataset():
    properties = build_properties(load_config(model_zoo.get_config_file("Keypoints/centernet_HG_mouse.yaml")))
    (metadata,) = [prop.metadata() for prop in properties if prop.metadata()]
    assert metadata["keypoint_names"][0] == "snout"
    assert metadata["keypoint_connection_rules"][0][:2] == ("snout", "leftear")


def test_depth_depends_on_camera():
    torch.manual_seed(0)
    box3d_head = Box3DHead(in_channels=4, head_conv=0, prop=Box3DProperty(reference_focal=50.0))
    heads = {**stub_heads(), "Box3DHead": box3d_head}
    predictor = Predictor(stub_model(heads, max_detections=5), batch_size=2)
    near, far = (pinhole_camera(focal, (48, 70)) for focal in (100.0, 200.0))
    once, twice = (
        detect(predictor, random_image(), camera=camera).pred_boxes3d.location[:, 2] for camera in (near, far.numpy())
    )
    assert torch.allclose(2 * once, twice, rtol=1e-4)
    many = detect(predictor, [random_image(), random_image(), random_image()], camera=far)
    assert all(torch.allclose(found.pred_boxes3d.location[:, 2], twice) for found in many)
    mixed = predictor.detect([random_image(), random_image()], [{"camera": near}, {"camera": far}])
    assert torch.allclose(mixed[0]["instances"].pred_boxes3d.location[:, 2], once)
    with pytest.raises(ValueError, match="need the camera of the image"):
        predictor(random_image())
    with pytest.raises(ValueError, match=r"the camera must be a \(3, 4\) matrix, but its shape is \(3, 3\)"):
        predictor(random_image(), camera=np.eye(3))
    for bad in (near * 0, near * float("nan"), near * torch.tensor([[1.0], [1], [0]])):
        with pytest.raises(ValueError, match="the camera (has|contains)"):
            predictor(random_image(), camera=bad)
    result = predictor(random_image(), camera=far, threshold=0)
    assert result.to_coco(1)[0]["box3d"] == pytest.approx(many[0].pred_boxes3d.tensor[0].tolist())
    assert result.draw().width > 70, "the bird's-eye view is a panel next to the image"


def test_unknown_inputs_are_named(predictor):
    with pytest.raises(TypeError, match=r"unknown inputs camera, tilt; this model has no additional inputs"):
        predictor(random_image(), tilt=3, camera=np.eye(3, 4))
    heads = {**stub_heads(), "Box3DHead": Box3DHead(in_channels=4, head_conv=0)}
    with pytest.raises(TypeError, match=r"unknown inputs tilt; inputs of this model: camera$"):
        Predictor(stub_model(heads)).detect([random_image()] * 2, [{}, {"tilt": 3, "camera": np.eye(3, 4)}])


class Tilt(Property):
    name = "tilt"
    fields = ("pred_tilt",)


def test_to_coco():
    found = Instances((50, 50))
    found.pred_boxes, found.scores = Boxes(torch.tensor([[1.0, 2, 4, 8]])), torch.tensor([0.5])
    found.pred_classes = torch.tensor([1])
    plain = {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 6], "score": 0.5}
    properties = [CenterProperty(), BoxProperty()]
    assert to_coco(found, 7, properties) == [plain]
    found.pred_keypoints, found.pred_tilt = torch.full((1, 2, 3), 2.5), torch.tensor([0.25])
    rich = {**plain, "category_id": 20, "keypoints": [2.0, 2.0, 2.5] * 2, "tilt": 0.25}
    properties += [KeypointProperty(schema=KeypointSchema((0, 1))), Tilt()]
    assert to_coco(found, 7, properties, [10, 20]) == [rich]
    assert (found.pred_keypoints == 2.5).all()
    assert to_coco(found[:0], 7, properties[:2]) == []
