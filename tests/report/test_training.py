import json

import pytest

from centernet_d2.report.training import changed_settings, read_training


def test_metrics_of_a_resumed_and_killed_run(tmp_path):
    rows = [
        {"iteration": 19, "total_loss": 3.0, "loss_size": 1.0, "lr": 0.1, "time": 0.5, "data_time": 0.1},
        {"iteration": 39, "total_loss": 9.0, "time": 0.7},
        {"iteration": 39, "total_loss": 2.0, "bbox/AP": 10.0},  # The resumed run repeats iteration 39.
    ]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, rows)) + '\n{"iterat')
    result = read_training(tmp_path)
    assert result["losses"] == {"total_loss": ([19, 39], [3.0, 2.0]), "loss_size": ([19], [1.0])}
    assert result["metrics"] == {"bbox/AP": ([39], [10.0])}
    assert result["rate"] == {"lr": ([19], [0.1])}
    assert result["seconds"]["data_time"] == ([19], [0.1])
    assert result["seconds_per_iteration"] == pytest.approx(0.6)
    assert result["training_seconds"] == pytest.approx(0.6 * 40)


def test_long_curves_are_averaged(tmp_path):
    rows = (json.dumps({"iteration": i, "total_loss": i % 2}) for i in range(1000))
    (tmp_path / "metrics.json").write_text("\n".join(rows))
    iterations, values = read_training(tmp_path)["losses"]["total_loss"]
    assert len(iterations) <= 400
    assert iterations[-1] == 999
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.05)


def test_no_metrics(tmp_path):
    assert read_training(tmp_path) == {}


def test_only_different_settings_are_compared():
    first = {"A": 1, "B": [1], "OUTPUT_DIR": "a"}
    assert changed_settings([first, {"A": 1, "B": [2], "C": 3, "OUTPUT_DIR": "b"}]) == [
        ["B", "[1]", "[2]"],
        ["C", "-", "3"],
    ]
