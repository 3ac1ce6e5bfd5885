import pickle

import pytest
import torch
from detectron2.structures import Instances

from centernet_d2.data.mapper import annotate_properties
from centernet_d2.modeling.heads import (
    Box3DProperty,
    BoxProperty,
    CenterProperty,
    KeypointProperty,
    Property,
    unflip_vectors,
)
from centernet_d2.modeling.heads.keypoint import KeypointSchema
from centernet_d2.structures.boxes3d import Boxes3D


class Given(Property):
    """A property that says of every image what it was told to say."""

    def __init__(self, name, **annotated):
        self.name, self.annotated = name, annotated

    def annotate(self, record, transforms, size):
        return {name: torch.tensor(value) for name, value in self.annotated.items()}


def annotated(*properties):
    instances = Instances((8, 8), gt_classes=torch.zeros(3, dtype=torch.long))
    annotate_properties(instances, properties, {"annotations": [{}] * 3}, ())
    return instances


def test_supervision_is_multiplied_over_the_properties():
    one, other = Given("one", gt_weight=[1.0, 0.5, 0.0], gt_one=[1, 2, 3]), Given("other", gt_weight=[0.5, 0.5, 1.0])
    assert annotated(one, other).gt_weight.tolist() == annotated(other, one).gt_weight.tolist() == [0.5, 0.25, 0]
    assert annotated(one).gt_weight.tolist() == [1, 0.5, 0]
    assert annotated(one, other).gt_one.tolist() == [1, 2, 3]
    assert not annotated(Property()).has("gt_weight")


@pytest.mark.parametrize("field", ["gt_one", "gt_blind", "gt_classes"])
def test_no_two_may_say_anything_else_of_one_name(field):
    properties = [Given("one", **{field: [1, 2, 3]}), Given("other", **{field: [1, 2, 3]})]
    # Classes are there before any property speaks.
    guilty = "one" if field == "gt_classes" else "other"
    with pytest.raises(ValueError, match=f"the property {guilty} gives {field}, which an earlier one gives too"):
        annotated(*properties)


class Tall(Property):
    name = "tall"
    fields = ("pred_height", "pred_boxes3d")


def test_by_default_every_tensor_of_the_fields_is_written():
    found = Instances((8, 8), pred_height=torch.tensor([1.5, 2.0]), pred_boxes3d=torch.tensor([[1, 2], [3, 4]]))
    assert Tall().to_json(found) == [{"height": 1.5, "boxes3d": [1, 2]}, {"height": 2.0, "boxes3d": [3, 4]}]
    assert Tall().to_json(found[:0]) == []
    assert Property().to_json(found) == [{}, {}]


def test_the_properties_of_the_package_are_plain_and_say_what_they_make():
    keypoints = KeypointProperty(schema=KeypointSchema((1, 0)))
    properties = [CenterProperty(), BoxProperty(), keypoints, Box3DProperty(reference_focal=7.0)]
    copies = pickle.loads(pickle.dumps(properties))
    assert [type(copy) for copy in copies] == [type(prop) for prop in properties]
    assert (copies[2].schema, copies[3].reference_focal) == (keypoints.schema, 7.0)
    names = [name for prop in properties for name in (prop.name, prop.node, *prop.fields) if name]
    assert len(set(names)) == len(names)
    # Boxes in space are no tensor, so they have an own form.
    boxes = Boxes3D([[1, 2, 3, 4, 5, 6, 0.5]])
    found = Instances((8, 8), pred_boxes3d=boxes, pred_alpha=torch.tensor([0.25]))
    assert properties[3].to_json(found) == [{"box3d": [1, 2, 3, 4, 5, 6, 0.5], "alpha": 0.25}]


def test_vectors_of_a_mirrored_image_are_turned_back():
    vectors = torch.zeros(1, 2, 1, 4)
    vectors[0, :, 0, 3] = torch.tensor([0.25, 0.5])
    back = unflip_vectors(vectors, 0.75)
    assert back[0, :, 0, 0].tolist() == [0.5, 0.5]
    assert torch.equal(unflip_vectors(back, 0.75), vectors)
