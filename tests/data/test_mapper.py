import cv2
import numpy as np
import pytest
import torch
from detectron2.data import detection_utils as utils
from detectron2.data.transforms import TransformList
from detectron2.structures import BoxMode

from centernet_d2 import load_config, model_zoo
from centernet_d2.data import CenterNetDatasetMapper
from centernet_d2.data.augmentations import ColorJitter, RandomMirror, ShiftScaleWindow
from centernet_d2.data.checks import shows_something
from centernet_d2.imaging.geometry import affine_matrix
from centernet_d2.imaging.transforms import AffineTransform, MirrorTransform
from centernet_d2.modeling.heads import CenterProperty, Property


def mapper(is_train=True, augmentations=(), **options):
    return CenterNetDatasetMapper(
        is_train, augmentations=list(augmentations), image_format="BGR", num_classes=3, **options
    )


@pytest.fixture
def record(tmp_path):
    file_name = str(tmp_path / "picture.png")
    cv2.imwrite(file_name, np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    boxes = [[4, 4, 20, 20], [70, 4, 90, 20], [10, 10, 10, 30], [30, 5, 60, 40]]
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": i % 3, "iscrowd": int(i == 3)}
        for i, box in enumerate(boxes)
    ]
    return {"file_name": file_name, "height": 48, "width": 64, "annotations": annotations}


def test_boxes_outside_or_without_area_are_dropped_and_crowds_kept(record):
    instances = mapper()(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[4, 4, 20, 20], [30, 5, 60, 40]]
    assert instances.gt_classes.tolist() == [0, 0]
    assert not instances.has("gt_ignore")


def test_crowds_can_be_marked_as_ignored(record):
    assert mapper(crowd="ignore")(record)["instances"].gt_ignore.tolist() == [False, True]


def test_boxes_follow_the_augmentations(record):
    instances = mapper(augmentations=[MirrorTransform(64), ShiftScaleWindow((64, 64))])(record)["instances"]
    # Mirrored to 43..59, then moved down by (64 - 48) / 2.
    assert instances.gt_boxes.tensor[0].tolist() == pytest.approx([43, 12, 59, 28])


def test_boxes_that_show_nothing_stay_out_whatever_the_transforms_do(record):
    """Transforms put corners in order, and a window that is larger than the image may show what is outside."""
    record["annotations"] = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
        for box in ([20, 20, -10, 10], [20, 20, -10, -10], [65, 5, 10, 10], [-12, 5, 10, 10], [5, 5, 10, 10])
    ]
    for augmentations in ([], [MirrorTransform(64)], [ShiftScaleWindow((128, 128))]):
        assert len(mapper(augmentations=augmentations)(record)["instances"]) == 1


class Numbered(Property):
    """Every annotation has a number, and half the weight; what was asked for is noted."""

    name = "number"
    input_keys = ("floor",)

    def __init__(self):
        super().__init__()
        self.seen = []

    def annotate(self, record, transforms, size):
        annotations = record["annotations"]
        self.seen.append((len(annotations), len(transforms), size))
        return {"gt_number": torch.arange(len(annotations)), "gt_weight": torch.full((len(annotations),), 0.5)}

    def carry(self, inputs, transforms):
        return {key: (value, len(transforms)) for key, value in inputs.items()}


def test_fields_of_properties_stay_with_their_objects(record):
    numbered = Numbered()
    instances = mapper(properties=[numbered])(record)["instances"]
    assert numbered.seen == [(2, 0, (48, 64))]
    assert instances.gt_number.tolist() == [0, 1]
    # The transforms move the first box out.
    matrix = affine_matrix((90, 24), 64, (48, 64))
    instances = mapper(augmentations=[AffineTransform(matrix, (48, 64), (48, 64))], properties=[numbered])(record)
    assert instances["instances"].gt_number.tolist() == [1]


def test_weights_of_properties_are_multiplied_and_other_fields_belong_to_one(record):
    class Other(Numbered):
        name = "other"

        def annotate(self, *args):
            return {"gt_weight": super().annotate(*args)["gt_weight"]}

    assert mapper(properties=[Numbered(), Other()])(record)["instances"].gt_weight.tolist() == [0.25, 0.25]
    with pytest.raises(ValueError, match="the property number gives gt_number, which an earlier one gives too"):
        mapper(properties=[Numbered(), Numbered()])(record)


def test_inputs_of_properties_go_through_the_transforms_in_training(record):
    record["floor"] = 7
    augmentations = [MirrorTransform(64), ShiftScaleWindow((64, 64))]
    assert mapper(augmentations=augmentations, properties=[Numbered()])(record)["floor"] == (7, 2)
    assert mapper(is_train=False, properties=[Numbered()])(record)["floor"] == 7  # the model looks at it itself
    del record["floor"]
    assert "floor" not in mapper(properties=[Numbered()])(record)


def test_images_without_objects_train(record):
    record["annotations"] = []
    instances = mapper(crowd="ignore")(record)["instances"]
    assert len(instances) == 0
    assert instances.gt_boxes.tensor.shape == (0, 4)


def test_an_image_without_annotations_has_no_objects(record):
    del record["annotations"]
    assert len(mapper()(record)["instances"]) == 0


def test_the_record_is_not_modified(record):
    before = [dict(annotation) for annotation in record["annotations"]]
    mapper(augmentations=[MirrorTransform(64)])(record)
    assert record["annotations"] == before


def test_a_test_mapper_gives_the_raw_image(record):
    sample = mapper(is_train=False)(record)
    assert sample["image"].dtype == torch.uint8
    assert torch.equal(sample["image"], torch.from_numpy(cv2.imread(record["file_name"]).transpose(2, 0, 1).copy()))
    assert "instances" not in sample


@pytest.mark.parametrize("content", [None, b"", b"not an image", "cut"])
def test_a_missing_or_corrupt_image_is_named(record, tmp_path, content):
    path = tmp_path / "picture.png"
    content = path.read_bytes()[:2000] if content == "cut" else content
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OSError, match=r"the image .*picture\.png"):
        mapper()(record)


def test_an_unknown_class_is_named(record):
    record["annotations"][0]["category_id"] = 3
    with pytest.raises(ValueError, match=r"picture\.png has objects of a class that MODEL.CENTERNET.NUM_CLASSES = 3"):
        mapper()(record)


def test_unknown_crowd_policy_is_an_error():
    with pytest.raises(ValueError, match="^crowd is 'keep', known: object, ignore"):
        mapper(crowd="keep")
    cfg = load_config(
        model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml"), ["MODEL.CENTERNET.QUIRKS.CROWD", "keep"]
    )
    with pytest.raises(ValueError, match="MODEL.CENTERNET.QUIRKS.CROWD is 'keep', known: object, ignore"):
        CenterNetDatasetMapper(cfg, True)


@pytest.mark.parametrize("is_train", [True, False])
def test_16_bits_are_scaled_and_not_cut_off(record, is_train):
    grey = (np.arange(48 * 64, dtype=np.uint16) * 21).reshape(48, 64)
    cv2.imwrite(record["file_name"], grey)
    image = mapper(is_train=is_train)(record)["image"]
    assert (image[0].numpy() == np.round(grey / 257)).all()


def test_nothing_but_joints_is_known_of_turned_images(record):
    def turned(degrees):
        matrix = affine_matrix((32, 24), 64, (48, 64), degrees)
        return AffineTransform(matrix, (48, 64), (48, 64), affine_matrix((90, 24), 64, (48, 64)))

    record["annotations"] = [record["annotations"][0], {**record["annotations"][0], "bbox": [6, 10, 25, 30]}]
    instances = mapper(augmentations=[turned(40)], properties=[CenterProperty()])(record)["instances"]
    assert len(instances) == 2  # though no box is left in the window
    assert instances.gt_blind.all()
    assert instances.gt_weight.tolist() == [0, 0]


def augmented(record, seed, defer_color, last=()):
    steps = [RandomMirror(), ShiftScaleWindow((64, 96), 0.1, 0.4), ColorJitter(0.4, 0.1), *last]
    numbered = Numbered()
    np.random.seed(seed)
    sample = mapper(augmentations=steps, defer_color=defer_color, properties=[numbered])(record)
    return sample, numbered.seen


@pytest.mark.parametrize("seed", range(4))
def test_colours_can_wait_for_the_device(record, seed):
    """The same sample within 2e-4 of 255, as bytes and a matrix."""
    now, seen = augmented(record, seed, defer_color=False)
    later, also_seen = augmented(record, seed, defer_color=True)
    assert (now["image"].dtype, later["image"].dtype) == (torch.float32, torch.uint8)
    assert (later["color"].dtype, later["color"].shape) == (torch.float32, (3, 4))
    assert now.keys() | {"color"} == later.keys()
    changed = torch.einsum("ij,jhw->ihw", later["color"][:, :3], later["image"].float()) + later["color"][:, 3:, None]
    assert torch.allclose(changed, now["image"], rtol=0, atol=2e-4)
    assert torch.equal(now["instances"].gt_boxes.tensor, later["instances"].gt_boxes.tensor)
    assert seen == also_seen  # The transforms are as many.


def test_colours_wait_only_if_nothing_comes_after_them(record):
    sample, _ = augmented(record, 0, defer_color=True, last=[RandomMirror(1.0)])
    assert "color" not in sample
    assert sample["image"].dtype == torch.float32


def test_colours_wait_for_our_model_only():
    name = "COCO-Detection/centernet_R_18_1x.yaml"
    assert CenterNetDatasetMapper(load_config(name), True).defer_color
    assert not CenterNetDatasetMapper(load_config(name), True, defer_color=False).defer_color
    assert not CenterNetDatasetMapper(load_config(name, ["MODEL.META_ARCHITECTURE", "Other"]), True).defer_color


def test_boxes_are_those_of_detectron2_one_by_one(record):
    random = np.random.default_rng(0)
    record["annotations"] = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": index % 3}
        for index, box in enumerate(random.uniform(-5, 60, (40, 4)).tolist())
    ]
    matrix = affine_matrix((20.3, 30.1), 41.7, (64, 96))
    steps = [MirrorTransform(64), AffineTransform(matrix, (48, 64), (64, 96))]
    ours = mapper(augmentations=steps)(record)["instances"]
    shown = [x for x in record["annotations"] if shows_something([x], (64, 48))[0]]
    moved = [utils.transform_instance_annotations(dict(x), TransformList(steps), (64, 96)) for x in shown]
    theirs = utils.filter_empty_instances(utils.annotations_to_instances(moved, (64, 96)))
    assert 0 < len(ours) < len(shown)
    assert torch.allclose(ours.gt_boxes.tensor, theirs.gt_boxes.tensor, rtol=0, atol=1e-4)
    assert torch.equal(ours.gt_classes, theirs.gt_classes)
