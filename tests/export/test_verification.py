import pytest

from centernet_d2.export.verification import Comparison, compare


def entry(score=0.9, box=(10, 20, 30, 40), category=1, **others):
    return {"image_id": 0, "category_id": category, "score": score, "bbox": list(box), **others}


def test_equal_sets_in_any_order():
    first = [entry(), entry(0.8, (50, 50, 5, 5)), entry(0.1)]
    second = [entry(0.8, (50, 50, 5, 5.05)), entry(0.9005), entry(0.1)]
    result = compare(first, second, 0.3)
    assert result[:2] == (4, 0)
    assert result.value_error == pytest.approx(0.05)
    assert result.score_error == pytest.approx(5e-4)


@pytest.mark.parametrize(
    "other",
    [entry(0.897), entry(box=(10, 20, 30, 40.2)), entry(category=2), entry(angle=0.0, bbox=[10, 20, 30, 40])],
    ids=["score", "box", "class", "other values"],
)
def test_different_detections_are_counted_on_both_sides(other):
    one = entry(angle=0.5) if "angle" in other else entry()
    assert compare([one], [other], 0.3)[:2] == (2, 2)


def test_missing_and_additional_detections():
    assert compare([entry(), entry(0.7, (1, 1, 2, 2))], [entry()], 0.3)[:2] == (3, 1)
    assert compare([entry()], [entry(), entry(0.7, (1, 1, 2, 2))], 0.3)[:2] == (3, 1)
    assert compare([entry()], [], 0.3)[:2] == (1, 1)
    assert compare([], [], 0.3) == Comparison()


def test_scores_near_the_cut_need_no_counterpart():
    assert compare([entry(0.3005)], [entry(0.2995, (0, 0, 1, 1))], 0.3)[:2] == (0, 0)
    # A detection above the cut may match one just below it.
    assert compare([entry(0.3012)], [entry(0.3005)], 0.3)[:2] == (1, 0)


def test_results_of_images_are_added():
    assert Comparison(5, 1, 0.1, 0.5).merge(Comparison(2, 1, 0.3, 0.2)) == Comparison(7, 2, 0.3, 0.5)
