import json

import pytest


def test_count_flops(load_script, capsys):
    load_script("tools/count_flops.py").main(["COCO-Detection/centernet_R_18_1x.yaml", "--size", "64", "64"])
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| `COCO-Detection/centernet_R_18_1x.yaml` | 14,437,349 | 14,437,349 | ")


@pytest.fixture
def benchmark(load_script, tmp_path):
    """Run a benchmark; return the content of its --json file."""

    def run(*arguments):
        path = tmp_path / "results.json"
        assert load_script("tools/benchmark.py").main([*arguments, "--json", str(path)]) == 0
        return json.loads(path.read_text())

    return run


def test_targets_benchmark_checks_that_targets_are_equal(benchmark, monkeypatch, capsys, load_script):
    options = ("targets", "--objects", "3", "0", "--size", "64", "96", "--batch", "2", "--rounds", "2")
    results = benchmark(*options)
    assert set(results["ratio_to_reference"]) == {"3", "0"}
    for objects, ratio in results["ratio_to_reference"].items():
        assert ratio == results["seconds"][objects]["ours"]["ratio"] > 0
    monkeypatch.setattr("benchmarks.targets.radius", lambda *_: 9.0)
    assert load_script("tools/benchmark.py").main([*options]) == 1
    assert "the targets of both implementations differ" in capsys.readouterr().err


def test_evaluation_benchmark_returns_metrics(benchmark):
    results = benchmark("evaluation", "--images", "3", "--detections", "9", "--classes", "2", "--rounds", "1")
    assert 0 < results["figures"]["pycocotools"][0] < 1
    assert max(results["largest_difference"].values()) < 1e-9


def test_figure_of_conventions_is_written(load_script, tmp_path):
    load_script("tools/draw_conventions.py").main([str(tmp_path / "x.png")])
    assert 10_000 < (tmp_path / "x.png").stat().st_size < 150_000
