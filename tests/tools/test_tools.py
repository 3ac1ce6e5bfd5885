import json
from importlib.metadata import version

import pytest

from benchmarks.measure import alternate, ratios, summarize, table
from benchmarks.others import MODELS


def test_flops_and_parameters_are_counted(load_script, capsys):
    load_script("tools/count_flops.py").main(["COCO-Detection/centernet_R_18_1x.yaml", "--size", "64", "64"])
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| `COCO-Detection/centernet_R_18_1x.yaml` | 14,437,349 | 14,437,349 | ")


@pytest.fixture
def benchmark(load_script, tmp_path):
    """Run a benchmark; returns what it writes for programs."""

    def run(*arguments):
        path = tmp_path / "results.json"
        assert load_script("tools/benchmark.py").main([*arguments, "--json", str(path)]) == 0
        return json.loads(path.read_text())

    return run


SMALL = ("COCO-Detection/centernet_R_18_1x.yaml", "--size", "64", "64")


def test_the_benchmark_compares_two_variants(benchmark, capsys):
    results = benchmark("inference", *SMALL, "--runs", "2", "--vs", "MODEL.DEFORM_CONV", "torchvision")
    assert set(results["seconds"]) == {"as it is", "MODEL.DEFORM_CONV torchvision"}
    assert results["share_of_peak"] > 0
    assert results["environment"]["torch"] == version("torch")
    assert "times as fast" in capsys.readouterr().out


def test_the_benchmark_of_a_step_trains(benchmark):
    results = benchmark("step", *SMALL, "--rounds", "1", "--batch", "1")
    assert results["seconds"]["as it is"]["median"] > 0


@pytest.mark.parametrize("command", ["inference", "step"])
def test_others_are_timed_beside(benchmark, monkeypatch, command):
    smallest = "torchvision SSDLite (MobileNetV3)"
    monkeypatch.setattr("benchmarks.others.MODELS", {smallest: MODELS[smallest]})
    rounds = "--runs" if command == "inference" else "--rounds"
    results = benchmark(command, *SMALL, rounds, "1", "--batch", "2", "--others")
    assert set(results["seconds"]) == {"as it is", smallest}


def test_the_benchmark_of_targets_compares_equal_ones(benchmark, monkeypatch, capsys, load_script):
    options = ("targets", "--objects", "3", "0", "--size", "64", "96", "--batch", "2", "--rounds", "2")
    results = benchmark(*options)
    assert set(results["ratio_to_original"]) == {"3", "0"}
    for objects, ratio in results["ratio_to_original"].items():
        assert ratio == results["seconds"][objects]["ours"]["ratio"] > 0
    monkeypatch.setattr("benchmarks.targets.radius", lambda *_: 9.0)
    assert load_script("tools/benchmark.py").main([*options]) == 1
    assert "the targets of both ways differ" in capsys.readouterr().err


def test_the_benchmark_of_evaluations_gives_figures(benchmark):
    results = benchmark("evaluation", "--images", "3", "--detections", "9", "--classes", "2", "--rounds", "1")
    assert 0 < results["figures"]["pycocotools"][0] < 1
    assert max(results["largest_difference"].values()) < 1e-9


def test_the_benchmark_of_a_start_runs_processes(benchmark, monkeypatch):
    monkeypatch.setattr("benchmarks.start.STATEMENTS", {"nothing": "", "a wait": "import time; time.sleep(0.3)"})
    seconds = benchmark("start", "--rounds", "1")["seconds"]
    assert seconds["a wait"]["median"] > 0.3


def test_the_benchmark_says_first_that_it_cannot_write(load_script, tmp_path, capsys):
    command = ["start", "--json", str(tmp_path / "none" / "x.json")]
    assert load_script("tools/benchmark.py").main(command) == 1
    assert "none is no folder, so --json cannot write there" in capsys.readouterr().err


def test_times_are_compared_within_rounds():
    times = {"old": [1.0, 10.0, 3.0], "new": [0.5, 2.0, 1.0]}
    assert ratios(times) == {"old": 1, "new": 3}
    assert ratios(times, "new")["old"] == pytest.approx(1 / 3)
    assert summarize(times)["old"] == {"median": 3, "min": 1, "max": 10, "ratio": 1}
    assert "| new |" in table(times).replace("   ", " ").replace("  ", " ")


def test_variants_take_turns_after_a_warm_up():
    calls = []
    times = alternate({name: lambda name=name: calls.append(name) for name in "ab"}, 2)
    assert calls == list("ababab")
    assert [len(own) for own in times.values()] == [2, 2]
    with pytest.raises(ValueError, match="0 rounds, but at least 1 is needed"):
        alternate({}, 0)


def test_the_picture_of_the_conventions_is_drawn_and_small(load_script, tmp_path):
    load_script("tools/draw_conventions.py").main([str(tmp_path / "x.png")])
    assert 10_000 < (tmp_path / "x.png").stat().st_size < 150_000
