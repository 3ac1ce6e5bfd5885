import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer

from centernet_d2 import Predictor, load_config, model_zoo
from centernet_d2.data.catalog import dataset_metadata
from centernet_d2.evaluation.coco import to_coco
from centernet_d2.layers.folding import NORMS
from centernet_d2.modeling import Box3DHead, CenterNet, CenterNetWithTTA
from centernet_d2.modeling.heads import Box3DProperty, BoxProperty, CenterProperty, KeypointProperty, Property
from centernet_d2.modeling.heads.build import build_properties
from centernet_d2.modeling.heads.keypoint import KeypointSchema
from centernet_d2.structures.boxes3d import pinhole_camera
from support.detections import same_detections
from support.models import stub_heads, stub_model

ZOO = "Shapes/centernet_R_18_shapes.yaml"


def random_image(seed=0, size=(48, 70)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def detect(predictor, images, **inputs):
    """Return the Instances of an image, or of each image in a list."""
    results = predictor(images, **inputs)
    return [result["instances"] for result in results] if isinstance(results, list) else results["instances"]


@pytest.fixture
def predictor():
    torch.manual_seed(0)
    return Predictor(stub_model(max_detections=5), batch_size=2)


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


def test_from_zoo(weights, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    predictor = Predictor.from_zoo(ZOO, weights=weights, device="cpu", overrides=["TEST.DETECTIONS_PER_IMAGE", 3])
    assert len(detect(predictor, random_image())) == 3
    assert predictor.class_names is predictor.category_ids is None
    augmented = Predictor.from_zoo(ZOO, weights, overrides=["TEST.AUG.ENABLED", True])
    assert isinstance(augmented.model, CenterNetWithTTA)
    folded = Predictor.from_zoo(ZOO, weights, overrides=["TEST.FOLD_NORMS", True])
    assert [any(isinstance(module, NORMS) for module in p.network.modules()) for p in (predictor, folded)] == [1, 0]
    maps = [p.network.compute_test_maps(torch.ones(1, 3, 64, 64)) for p in (predictor, folded)]
    assert all(torch.allclose(maps[1][name], maps[0][name], rtol=1e-4, atol=1e-5) for name in maps[0])
    with pytest.raises(ValueError, match="MODEL.WEIGHTS is empty, but detection requires weights: set MODEL.WEIGHTS"):
        Predictor.from_config(load_config(model_zoo.get_config_file(ZOO)))
    with pytest.raises(ValueError, match="must be at least 1"):
        Predictor(predictor.model, batch_size=0)


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
    entry = predictor.to_coco(many[0], 1)[0]
    assert entry["box3d"] == pytest.approx(many[0].pred_boxes3d.tensor[0].tolist())


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
    metadata = Metadata(thing_dataset_id_to_contiguous_id={20: 1, 10: 0})
    model = stub_model()
    found.remove("pred_keypoints")
    found.remove("pred_tilt")
    assert Predictor(model, metadata=metadata).to_coco(found, 7) == [{**plain, "category_id": 20}]
    assert to_coco(found[:0], 7, properties[:2]) == []
