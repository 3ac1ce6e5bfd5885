import numpy as np
import pytest

from centernet_d2.report.curves import (
    THRESHOLDS,
    average_precision,
    calibration,
    mean_average_precision,
    score_curves,
    suggest_threshold,
)


def curves(scores, classes, hits, counts):
    return score_curves(np.array(scores), np.array(classes), np.array(hits, dtype=bool), np.array(counts))


def at(values, threshold):
    return values[..., int(np.flatnonzero(np.isclose(THRESHOLDS, threshold))[0])]


def test_precision_recall_and_f1_count_scores_from_the_threshold():
    result = curves([0.9, 0.6, 0.6, 0.3], [0, 0, 0, 0], [1, 1, 0, 0], [4])
    assert at(result.precision, 0.6)[0] == pytest.approx(2 / 3)
    assert at(result.recall, 0.6)[0] == pytest.approx(2 / 4)
    assert at(result.f1, 0.6)[0] == pytest.approx(2 * 2 / (3 + 4))
    assert at(result.precision, 0.601)[0] == 1
    assert np.isnan(at(result.precision, 0.95)[0])
    assert at(result.f1, 0.95)[0] == 0


def test_threshold_maximizes_the_mean_f1_of_labeled_classes():
    # F1 of class 0: 2/3 up to 0.2, 1 up to 0.8. F1 of class 1: 1 up to 0.4. Class 2 has no objects.
    result = curves([0.8, 0.2, 0.4, 0.9], [0, 0, 1, 2], [1, 0, 1, 0], [1, 1, 0])
    threshold, f1 = suggest_threshold(result)
    assert 0.2 < threshold <= 0.4
    assert threshold == pytest.approx(0.3, abs=0.002)  # The middle of the range.
    assert f1 == 1


def test_no_threshold_without_objects_or_correct_detections():
    assert suggest_threshold(curves([0.5], [0], [0], [3])) is None
    assert suggest_threshold(curves([0.5], [0], [0], [0])) is None


def test_average_precision_of_hand_computed_case():
    # Recall 1/2 at precision 1 (recalls 0..0.5: 51 samples), recall 1 at precision 2/3 (50 samples).
    ap = average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2)
    assert ap == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert np.isnan(average_precision(np.zeros(0), np.zeros(0, dtype=bool), 0))
    assert average_precision(np.zeros(0), np.zeros(0, dtype=bool), 3) == 0


def test_mean_skips_classes_without_objects():
    scores, classes, hits = np.array([0.9, 0.8]), np.array([0, 2]), np.array([True, False])
    assert mean_average_precision(scores, classes, hits, np.array([1, 1, 0])) == pytest.approx(0.5)


def test_calibration_of_hand_computed_case():
    result = calibration(np.array([0.11, 0.19, 0.95, 1.0]), np.array([0, 1, 1, 1]))
    assert result["count"].tolist() == [0, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert result["score"][[1, 9]] == pytest.approx([0.15, 0.975])
    assert result["precision"][[1, 9]] == pytest.approx([0.5, 1])
    assert result["error"] == pytest.approx((2 * 0.35 + 2 * 0.025) / 4)
    assert calibration(np.zeros(0), np.zeros(0))["error"] is None
