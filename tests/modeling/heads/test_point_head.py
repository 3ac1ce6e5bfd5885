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
    """Property with constant fields for every image."""

    def __init__(self, name, **annotated):
        self.name, self.annotated = name, annotated

    def annotate(self, record, transforms, size):
        return {name: torch.tensor(value) for name, value in self.annotated.items()}


def annotated(*properties):
    instances = Instances((8, 8), gt_classes=torch.zeros(3, dtype=torch.long))
    annotate_properties(instances, properties, {"annotations": [{}] * 3}, ())
    return instances


def test_weights_of_properties_are_multiplied():
    one, other = Given("one", gt_weight=[1.0, 0.5, 0.0], gt_one=[1, 2, 3]), Given("other", gt_weight=[0.5, 0.5, 1.0])
    assert annotated(one, other).gt_weight.tolist() == annotated(other, one).gt_weight.tolist() == [0.5, 0.25, 0]
    assert annotated(one).gt_weight.tolist() == [1, 0.5, 0]
    assert annotated(one, other).gt_one.tolist() == [1, 2, 3]
    assert not annotated(Property()).has("gt_weight")


@pytest.mark.parametrize("field", ["gt_one", "gt_blind", "gt_classes"])
def test_duplicate_field_of_two_properties_raises(field):
    properties = [Given("one", **{field: [1, 2, 3]}), Given("other", **{field: [1, 2, 3]})]
    # The mapper sets classes before it calls properties.
    guilty = "one" if field == "gt_classes" else "other"
    with pytest.raises(
        ValueError, match=f"the property {guilty} returned {field}, which an earlier property returned too"
    ):
        annotated(*properties)


class Tall(Property):
    name = "tall"
    fields = ("pred_height", "pred_boxes3d")


def test_to_json_contains_all_tensor_fields_by_default():
    detections = Instances((8, 8), pred_height=torch.tensor([1.5, 2.0]), pred_boxes3d=torch.tensor([[1, 2], [3, 4]]))
    assert Tall().to_json(detections) == [{"height": 1.5, "boxes3d": [1, 2]}, {"height": 2.0, "boxes3d": [3, 4]}]
    assert Tall().to_json(detections[:0]) == []
    assert Property().to_json(detections) == [{}, {}]


def test_properties_are_picklable_and_convert_to_json():
    keypoints = KeypointProperty(schema=KeypointSchema((1, 0)))
    properties = [CenterProperty(), BoxProperty(), keypoints, Box3DProperty(reference_focal=7.0)]
    copies = pickle.loads(pickle.dumps(properties))
    assert [type(copy) for copy in copies] == [type(prop) for prop in properties]
    assert (copies[2].schema, copies[3].reference_focal) == (keypoints.schema, 7.0)
    names = [name for prop in properties for name in (prop.name, prop.node, *prop.fields) if name]
    assert len(set(names)) == len(names)
    # Boxes3D is not a tensor, so it has a custom conversion.
    boxes = Boxes3D([[1, 2, 3, 4, 5, 6, 0.5]])
    detections = Instances((8, 8), pred_boxes3d=boxes, pred_alpha=torch.tensor([0.25]))
    assert properties[3].to_json(detections) == [{"box3d": [1, 2, 3, 4, 5, 6, 0.5], "alpha": 0.25}]


def test_unflip_vectors():
    vectors = torch.zeros(1, 2, 1, 4)
    vectors[0, :, 0, 3] = torch.tensor([0.25, 0.5])
    back = unflip_vectors(vectors, 0.75)
    assert back[0, :, 0, 0].tolist() == [0.5, 0.5]
    assert torch.equal(unflip_vectors(back, 0.75), vectors)
