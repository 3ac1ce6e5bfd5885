import numpy as np
import pytest

from centernet_d2.report.errors import TYPES, box_errors, confusion, error_types
from centernet_d2.report.matching import find_pairs, match, select
from support.objects import detections, truth

CLASSES = 2


def analyze(objects, found):
    pairs = find_pairs(objects, found)
    same = found.classes[pairs.detection] == objects.classes[pairs.truth]
    partner = match(select(pairs, same & (pairs.iou >= 0.5)), objects, found)
    counts = np.bincount(objects.classes[~objects.ignore], minlength=CLASSES)
    return error_types(pairs, objects, found, partner, counts)


OBJECTS = truth((0, 0, 0, 0, 10, 10, 0), (0, 1, 50, 0, 10, 10, 0))
HIT, OTHER = (0, 0, 0, 0, 10, 10, 0.9), (0, 1, 50, 0, 10, 10, 0.5)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ((0, 0, 4, 0, 10, 10, 0.95), "localization"),  # IoU 3/7
        ((0, 0, 50, 0, 10, 10, 0.95), "class"),
        ((0, 1, 4, 0, 10, 10, 0.95), "both"),
        ((0, 0, 0, 0, 10, 10, 0.2), "duplicate"),
        ((0, 0, 200, 0, 10, 10, 0.95), "background"),
    ],
)
def test_each_type_is_recognized(wrong, kind):
    rows = sorted([HIT, wrong, OTHER], key=lambda row: -row[-1])
    result = analyze(OBJECTS, detections(*rows))
    counts = {name: one["count"] for name, one in result["types"].items() if one["count"]}
    assert counts == {kind: 1}


def test_costs_of_hand_computed_cases():
    # Class 0 has AP 1/2 because of a background detection with a higher score; class 1 is missed.
    result = analyze(OBJECTS, detections((0, 0, 200, 0, 10, 10, 0.95), HIT))
    assert result["AP50"] == pytest.approx(0.25)
    costs = {name: result["types"][name]["cost"] for name in TYPES}
    assert costs["background"] == pytest.approx(0.25)
    # Without class 1, the mean is the AP of class 0.
    assert costs["missed"] == pytest.approx(0.25)
    assert {name for name in TYPES if costs[name] > 0} == {"background", "missed"}
    assert result["types"]["missed"]["share"] == pytest.approx(0.5)


def test_corrected_class_and_box_count_for_their_object():
    for wrong in ((0, 0, 50, 0, 10, 10, 0.5), (0, 1, 54, 0, 10, 10, 0.5)):
        result = analyze(OBJECTS, detections(HIT, wrong))
        kind = "class" if wrong[1] == 0 else "localization"
        assert result["AP50"] == pytest.approx(0.5)
        assert result["types"][kind]["cost"] == pytest.approx(0.5)
        assert result["types"]["missed"]["count"] == 0


def test_ignored_regions_are_no_errors():
    objects = truth((0, 0, 0, 0, 10, 10, 0), (0, 0, 200, 0, 50, 50, 1))
    result = analyze(objects, detections((0, 0, 210, 10, 10, 10, 0.95), HIT))
    assert result["AP50"] == 1
    assert not any(one["count"] for one in result["types"].values())


def test_no_objects_and_no_detections():
    assert np.isnan(analyze(truth(), detections(HIT))["AP50"])
    assert analyze(truth(), detections(HIT))["types"]["background"]["count"] == 1
    assert analyze(OBJECTS, detections())["types"]["missed"] == {"cost": 0.0, "count": 2, "share": 0.0}


def test_confusion_matrix_of_hand_computed_case():
    objects = truth((0, 0, 0, 0, 10, 10, 0), (0, 1, 50, 0, 10, 10, 0), (1, 1, 0, 0, 10, 10, 0), (1, 0, 90, 0, 9, 9, 1))
    found = detections(
        (0, 0, 0, 0, 10, 10, 0.9),  # correct
        (0, 0, 50, 0, 10, 10, 0.8),  # wrong class
        (0, 1, 0, 0, 10, 10, 0.7),  # duplicate: background
        (0, 1, 50, 0, 10, 10, 0.1),  # below the threshold
        (1, 0, 90, 0, 9, 9, 0.9),  # in a region to ignore
    )
    matrix, partner = confusion(find_pairs(objects, found), objects, found, 0.5, CLASSES)
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert partner.tolist() == [0, 1, -1, -2, 3]


def test_threshold_is_inclusive():
    found = detections((0, 0, 0, 0, 10, 10, 0.5))
    objects = truth((0, 0, 0, 0, 10, 10, 0))
    assert confusion(find_pairs(objects, found), objects, found, 0.5, 1)[0].tolist() == [[1, 0], [0, 0]]


def test_errors_of_boxes():
    objects, found = truth((0, 0, 0, 0, 10, 10, 0)), detections((0, 0, 0, 0, 20, 10, 0.9), (0, 0, 0, 0, 1, 1, 0.8))
    errors = box_errors(objects, found, np.array([0, -1]))
    assert {name: values.tolist() for name, values in errors.items()} == {
        "width": [1.0],
        "height": [0.0],
        "aspect": [1.0],
        "center": [0.5],
    }
