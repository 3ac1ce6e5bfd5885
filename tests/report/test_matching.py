import pytest

from centernet_d2.report.matching import find_pairs, match, select
from support.objects import detections, truth


def test_pairs_are_in_one_image_and_overlap():
    objects = truth((0, 0, 0, 0, 10, 10, 0), (0, 0, 100, 0, 10, 10, 0), (1, 0, 0, 0, 10, 10, 0))
    found = detections((0, 0, 0, 5, 10, 10, 0.9), (1, 0, 0, 0, 10, 10, 0.8), (2, 0, 0, 0, 10, 10, 0.7))
    for chunk in (1, 1 << 20):
        pairs = find_pairs(objects, found, chunk)
        assert pairs.detection.tolist() == [0, 1]
        assert pairs.truth.tolist() == [0, 2]
        assert pairs.iou == pytest.approx([1 / 3, 1])


def test_iou_with_ignored_region_is_relative_to_the_detection():
    pairs = find_pairs(truth((0, 0, 0, 0, 100, 100, 1)), detections((0, 0, 90, 0, 20, 10, 0.9)))
    assert pairs.iou == pytest.approx([0.5])


def test_detections_take_the_best_free_object_in_the_order_of_scores():
    objects = truth((0, 0, 0, 0, 10, 10, 0), (0, 0, 2, 0, 10, 10, 0))
    # The second one prefers the first object, which is taken; the third one finds nothing.
    found = detections((0, 0, 0, 0, 10, 10, 0.9), (0, 0, 0, 0, 10, 10, 0.8), (0, 0, 1, 0, 10, 10, 0.7))
    pairs = find_pairs(objects, found)
    assert match(pairs, objects, found).tolist() == [0, 1, -1]
    assert match(select(pairs, pairs.truth == 1), objects, found).tolist() == [1, -1, -1]


def test_ignored_regions_match_repeatedly_but_only_without_other_objects():
    objects = truth((0, 0, 0, 0, 10, 10, 1), (0, 0, 0, 0, 9, 10, 0))
    found = detections(*[(0, 0, 0, 0, 10, 10, score) for score in (0.9, 0.8, 0.7)])
    assert match(find_pairs(objects, found), objects, found).tolist() == [1, 0, 0]


def test_empty_sets():
    objects, found = truth((0, 0, 0, 0, 10, 10, 0)), detections((0, 0, 0, 0, 10, 10, 0.9))
    assert match(find_pairs(truth(), found), truth(), found).tolist() == [-1]
    assert match(find_pairs(objects, detections()), objects, detections()).tolist() == []
