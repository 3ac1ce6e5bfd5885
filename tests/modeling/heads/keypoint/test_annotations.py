import numpy as np
import pytest
from detectron2.structures import BoxMode

from centernet_d2.modeling.heads.keypoint import KeypointProperty, KeypointSchema

PROPERTY = KeypointProperty(schema=KeypointSchema.from_names(["nose", "left", "right"], [["left", "right"]]))


def image(*keypoints):
    return [{"file_name": "a.png", "annotations": [{"bbox": [0, 0, 1, 1]}, *({"keypoints": k} for k in keypoints)]}]


def test_valid_annotations_pass():
    PROPERTY.check(image([1, 1, 2, 0, 0, 0, 5, 5, 1], None, [], np.array([1.5, 1, 2, 0, 0, 0, 5, 5, 1])))


def test_null_and_empty_keypoints_are_ignored():
    """Objects without keypoints supervise their centers, unlike objects with only unlabeled keypoints."""
    box = {"bbox": [0, 0, 5, 5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    lists = ({}, {"keypoints": None}, {"keypoints": []}, {"keypoints": [0] * 9}, {"keypoints": [1, 2, 2, *[0] * 6]})
    record = {"file_name": "a.png", "annotations": [{**box, **one} for one in lists]}
    fields = PROPERTY.annotate(record, [], (8, 8))
    assert fields["gt_weight"].tolist() == [1, 1, 1, 0, 1]
    assert fields["gt_keypoints"][:, 0, 2].tolist() == [0, 0, 0, 0, 2]
    assert fields["gt_keypoints"][4, 0].tolist() == [0.5, 1.5, 2]


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        ([1, 1, 2, 1, 1, 2], r"a\.png, annotation 1 of this image: an annotation has 2 keypoints, but .* is 3"),
        ([1, 1, 2, 0, 0, 3, 5, 5, 1], r"a\.png, annotation 1 of this image: visibilities must be 0, 1 or 2"),
        ([1, 1, 2, 0, 0, -1, 5, 5, 1], "visibilities must be 0, 1 or 2"),
        ([1, 1, float("nan"), 0, 0, 0, 5, 5, 1], "visibilities must be 0, 1 or 2"),
        ([1, float("nan"), 2, 0, 0, 0, 5, 5, 1], r"a\.png, annotation 1 of this image: coordinates of the keypoints"),
        ([1, 1, 2, float("inf"), 0, 0, 5, 5, 1], "coordinates of the keypoints .* must be finite and at most"),
        ([1, 1, 2, 0, 0, 0, 1e300, 5, 1], "coordinates of the keypoints"),
        ([1, 1, 2, 0, 0, 0, "5", 5, 1], "coordinates of the keypoints"),
        (7, "annotation 1 of this image: "),
    ],
)
def test_invalid_annotation_error_names_image(keypoints, message):
    with pytest.raises(ValueError, match=message):
        PROPERTY.check(image(keypoints))
