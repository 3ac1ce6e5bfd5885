import json
from importlib.metadata import version

import pytest

from centernet_d2.cli import benchmark, benchmarking

SMALL = ("COCO-Detection/centernet_R_18_1x.yaml", "--size", "64", "64")


@pytest.fixture
def run(tmp_path):
    """Run a command; return the content of its --json file."""

    def run(*arguments):
        path = tmp_path / "results.json"
        assert benchmark.main([*arguments, "--json", str(path)]) == 0
        return json.loads(path.read_text())

    return run


def test_inference_compares_two_configs(run, capsys):
    results = run("inference", *SMALL, "--rounds", "2", "--vs", "MODEL.DEFORM_CONV", "torchvision")
    assert set(results["seconds"]) == {"config", "MODEL.DEFORM_CONV torchvision"}
    assert results["share_of_peak"] > 0
    assert results["environment"]["torch"] == version("torch")
    assert "relative speed" in capsys.readouterr().out


def test_step_reports_time_and_memory(run):
    results = run("step", *SMALL, "--rounds", "1", "--batch", "1")
    assert results["seconds"]["config"]["median"] > 0
    assert results["peak_memory_bytes"] > 0


@pytest.mark.parametrize("command", ["inference", "step"])
def test_detectors_of_torchvision_are_timed(run, monkeypatch, command):
    smallest = "torchvision SSDLite (MobileNetV3)"
    monkeypatch.setattr(benchmarking, "OTHERS", {smallest: benchmarking.OTHERS[smallest]})
    results = run(command, *SMALL, "--rounds", "1", "--batch", "2", "--others")
    assert set(results["seconds"]) == {"config", smallest}


def test_start_times_processes(run, monkeypatch):
    monkeypatch.setattr(benchmarking, "STATEMENTS", {"nothing": "", "sleep": "import time; time.sleep(0.3)"})
    seconds = run("start", "--rounds", "1")["seconds"]
    assert seconds["sleep"]["median"] > 0.3


def test_missing_folder_of_json_raises_before_the_measurement(tmp_path, capsys):
    assert benchmark.main(["start", "--json", str(tmp_path / "none" / "x.json")]) == 1
    captured = capsys.readouterr()
    assert "none does not exist; create it" in captured.err
    assert captured.out == ""
