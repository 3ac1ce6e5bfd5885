import math

import pytest

from centernet_d2.evaluation.summary import evaluation_row, format_metric, summarize

BOXES = {"AP": 12.34, "AP50": 40.0, "AP75": 0.0, "AP-cell": 12.3}


@pytest.mark.parametrize(("value", "text"), [(46.12, "46.1"), (3.0, "3.0"), (0.0342, "0.034"), (0, "0")])
def test_format_metric(value, text):
    assert format_metric(value) == text


def test_row_contains_metric_best_and_others():
    row = evaluation_row({"bbox": BOXES}, "bbox/AP", 300, best=(13.0, 200), epoch=2.5)
    assert row == "iteration   300  epoch   2.5  bbox/AP 12.3 (best 13.0 at 200)  AP50 40.0  AP75 0"


def test_row_of_several_datasets_fits_into_the_width():
    results = {"a_val": {"bbox": BOXES}, "a_test": {"bbox": {"AP": 1.0, "AP50": 2.0}}}
    row = evaluation_row(results, "a_val/bbox/AP", 5, best=(12.34, 5), width=60)
    assert row == "iteration     5  a_val/bbox/AP 12.3 (best 12.3 at 5)"


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_row_without_detections_is_a_sentence(value):
    row = evaluation_row({"bbox": {"AP": value, "AP50": 0.0}}, "bbox/AP", 20)
    assert row == f"iteration    20  no correct detections yet (bbox/AP is {value:g})"


def test_tasks_with_zeros_collapse():
    zeros = {"AP": 0.0, "AP50": math.nan}
    assert summarize({"bbox": BOXES, "keypoints": zeros}) == [
        "results (complete tables: log.txt)",
        "  bbox: AP 12.3  AP50 40.0  AP75 0",
        "  bbox AP of classes: cell 12.3",
        "  keypoints: no correct detections (all metrics are 0 or nan)",
    ]
    assert summarize({"a": {"bbox": BOXES}, "b": {"bbox": zeros}})[-1].startswith("  b bbox: no correct")


def test_long_lists_of_classes_fold_and_wrap():
    classes = {f"AP-class number {index}": float(index + 1) for index in range(80)}
    lines = summarize({"bbox": {"AP": 40.5, **classes, "AP-unseen": math.nan}}, width=80)
    text = " ".join(line.strip() for line in lines)
    assert "lowest 10 of 80: class number 0 1.0  class number 1 2.0" in text
    assert "highest 10 of 80: class number 79 80.0" in text
    assert "class number 10 " not in text
    assert "class number 69 " not in text
    assert max(map(len, lines)) <= 80
    assert sum("class number 9 10.0" in line for line in lines) == 1, "items are not broken"


def test_names_of_classes_cannot_control_the_terminal():
    lines = summarize({"bbox": {"AP": 1.0, "AP-a\x1b[2Jb\n": 1.0, "AP-c": 2.0}})
    assert "a\\x1b[2Jb\\n 1.0" in lines[-1]
