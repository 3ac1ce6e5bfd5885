"""Reports of tiny trainings, evaluations and existing runs."""

import json
import logging
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from centernet_d2.checkpoint import load_file, set_threshold
from centernet_d2.checkpoint.integrity import check_hash
from centernet_d2.cli import reporting
from centernet_d2.cli.report import main as report_command
from centernet_d2.cli.train import main
from centernet_d2.data.loaded import load_dataset
from centernet_d2.engine import Trainer
from centernet_d2.evaluation.record import load_detections
from centernet_d2.report.build import FORMAT
from support.pages import check_page

pytestmark = pytest.mark.reports

KEYS = {"format", "dataset", "training", "evaluation"}
PARTS = {"ap", "threshold", "curve", "confusion", "error_types", "calibration", "oracle", "worst", "properties"}


@pytest.fixture
def tiny(monkeypatch, tiny_model):
    monkeypatch.setattr(Trainer, "build_model", classmethod(lambda cls, cfg: tiny_model(cfg)))


def read(folder):
    data = json.loads((folder / "report.json").read_text())
    assert data.keys() >= KEYS
    assert data["format"] == FORMAT
    text = (folder / "report.html").read_text()
    assert len(text) < 8_000_000
    return data, check_page(text)


def test_training_writes_all_parts_and_the_threshold(tiny, arguments, tmp_path, monkeypatch):
    steps = []
    train = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda self: steps.append(read(tmp_path / "out")) or train(self))
    metrics = main(arguments(SOLVER__MAX_ITER=20, TEST__EVAL_PERIOD=10, TEST__BEST_METRIC="bbox/AP"))
    out = tmp_path / "out"
    (before, _), (data, page) = steps[0], read(out)
    assert before["dataset"]["splits"]["shapes_train"]["images"] == 6
    assert before["evaluation"] == {}
    assert data["dataset"] == before["dataset"]
    assert set(data["dataset"]["collisions"]) == {"8", "4", "2"}
    assert data["training"]["losses"]["total_loss"][0] == [19]
    own = data["evaluation"]["shapes_val"]
    assert own.keys() >= PARTS
    for name in ("AP", "AP50", "AP75"):
        assert own["ap"][name] == pytest.approx(metrics["bbox"][name], abs=1e-4)
    for one in own["ap"]["classes"]:
        if one["objects"]:
            assert one["AP"] == pytest.approx(metrics["bbox"][f"AP-{one['name']}"], abs=1e-4)
    assert own["error_types"]["AP50"] * 100 == pytest.approx(metrics["bbox"]["AP50"], abs=1e-4)
    rows = {row["maps"]: row for row in own["oracle"]["rows"]}
    assert rows["none"]["AP"] == pytest.approx(own["ap"]["AP"], abs=1e-4)
    assert rows["all"]["AP"] > 90
    assert {"Summary", "Training", "Dataset"} <= set(page.texts)
    threshold = own["threshold"]["value"]
    for name in ("model_final.pth", "model_best.pth"):
        assert load_file(out / name)["metadata"].get("threshold") == threshold
    assert f"report: {out / 'report.html'}" in (out / "log.txt").read_text()


def test_threshold_is_written_with_a_new_hash(tiny, arguments, tmp_path):
    main(arguments(DATASETS__TEST="()"))
    path = tmp_path / "out" / "model_final.pth"
    before = load_file(path)
    set_threshold(path, 0.25)
    assert check_hash(path)
    after = load_file(path, verify=True)
    assert after["metadata"] == {**before["metadata"], "threshold": 0.25}
    assert all(torch.equal(after["model"][name], tensor) for name, tensor in before["model"].items())
    assert after["iteration"] == before["iteration"]
    path.write_bytes(path.read_bytes()[:-100])
    damaged = path.read_bytes()
    with pytest.raises(ValueError, match="damaged"):
        set_threshold(path, 0.5)
    assert path.read_bytes() == damaged


def test_suggested_threshold_comes_from_the_validation_set(tiny, arguments, tmp_path, monkeypatch):
    written, evaluate = {}, reporting.add_evaluation
    monkeypatch.setattr(reporting, "set_threshold", lambda path, value: written.update({path.name: value}))
    monkeypatch.setattr(reporting, "add_evaluation", lambda *args, **options: evaluate(*args, **options) and 0.125)
    monkeypatch.setattr("centernet_d2.report.evaluation.suggest_threshold", lambda curves: (0.375, 0.5))
    main(arguments())
    assert written == {"model_final.pth": 0.125}
    data, _ = read(tmp_path / "out")
    assert data["evaluation"]["shapes_val"]["threshold"]["value"] == 0.375


def test_weights_with_and_without_report_are_equal(tiny, arguments, tmp_path, monkeypatch):
    options = {"SOLVER__MAX_ITER": 4, "SEED": 1, "TEST__EVAL_PERIOD": 2}
    main(arguments(OUTPUT_DIR=tmp_path / "with", **options))
    monkeypatch.setattr("centernet_d2.cli.training.start_report", lambda run: None)
    main(arguments(OUTPUT_DIR=tmp_path / "without", **options))
    assert (tmp_path / "with" / "report.html").exists()
    assert not (tmp_path / "without" / "report.html").exists()
    first, second = (load_file(tmp_path / name / "model_final.pth")["model"] for name in ("with", "without"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_error_in_the_report_does_not_end_the_training(tiny, arguments, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(reporting, "add_dataset", lambda *_: 1 / 0)
    monkeypatch.setattr(reporting, "add_training", lambda *_: 1 / 0)
    with caplog.at_level(logging.WARNING, "centernet_d2"):
        main(arguments())
    assert (tmp_path / "out" / "model_final.pth").exists()
    assert "the dataset part of the report was not written (ZeroDivisionError: division by zero)" in caplog.text
    assert "the report was not written (ZeroDivisionError: division by zero)" in caplog.text


def test_evaluation_reports_but_changes_no_checkpoint(tiny, arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("centernet_d2.report.evaluation.coco_metrics", None)  # The evaluator computes the metrics.
    main(arguments())
    out = tmp_path / "out"
    before = (out / "model_final.pth").read_bytes()
    (out / "report.html").unlink()
    main(arguments("--eval-only", "--resume"))
    assert (out / "model_final.pth").read_bytes() == before
    data, _ = read(out)
    assert list(data["dataset"]["splits"]) == ["shapes_val"]
    assert data["evaluation"]["shapes_val"]["images"] == 3


def test_existing_runs_are_reported_and_compared(tiny, arguments, tmp_path, capsys):
    main(arguments())
    main(arguments(OUTPUT_DIR=tmp_path / "other", SOLVER__BASE_LR=0.5))
    (first, _), target = read(tmp_path / "out"), tmp_path / "again"
    assert report_command([str(tmp_path / "out"), "--output", str(target)]) == 0
    data, _ = read(target)
    for one in (first, data):
        one["evaluation"]["shapes_val"]["oracle"].pop("seconds")
    assert data["evaluation"] == first["evaluation"]
    assert data["dataset"] == first["dataset"]
    assert "shapes_val: AP " in capsys.readouterr().out

    runs = [str(tmp_path / name) for name in ("out", "other")]
    assert report_command([*runs, "--output", str(tmp_path / "both")]) == 0
    data, page = read(tmp_path / "both")
    assert [run["name"] for run in data["runs"]] == ["out", "other"]
    assert data["runs"][1]["settings"] == {"SOLVER.BASE_LR": "0.5"}
    assert "SOLVER.BASE_LR" in page.texts
    assert report_command([runs[0], str(tmp_path)]) == 1
    assert "only runs (folders with config.yaml) can be compared" in capsys.readouterr().err


def test_detections_are_recorded_exactly(tiny, arguments, tmp_path):
    main(arguments())
    folder = tmp_path / "out" / "inference" / "shapes_val"
    ids, found = load_detections(folder)
    results = json.loads((folder / "coco_instances_results.json").read_text())
    assert ids == sorted({result["image_id"] for result in results})
    expected = [result["score"] for result in results]
    assert [score for one in found for score in one.scores.tolist()] == expected
    assert found[0].pred_boxes.tensor.shape == (len(found[0]), 4)
    sizes = {x["image_id"]: (x["height"], x["width"]) for x in load_dataset("shapes_val")}
    assert [one.image_size for one in found] == [sizes[image_id] for image_id in ids]


def test_folder_of_data_and_config(shapes_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_folder))
    assert report_command(["Shapes/centernet_R_18_shapes.yaml", "--output", str(tmp_path / "config")]) == 0
    data, page = read(tmp_path / "config")
    assert data["dataset"]["splits"]["shapes_train"]["images"] == 6
    assert "Splits" in page.texts
    assert data["evaluation"] == data["training"] == {}
    assert report_command([str(tmp_path / "nothing"), "--output", str(tmp_path / "none")]) == 1
    assert "does not exist" in capsys.readouterr().err


HOSTILE = "<script>alert(1)</script>&\"'"


@pytest.mark.parametrize(("classes", "images", "objects"), [(1000, 1, 1), (1, 2, 1), (1, 1, 0)])
def test_unusual_datasets(tiny, arguments, tmp_path, monkeypatch, classes, images, objects):
    """Many classes or one, a single image, no objects in the test set, and names with HTML."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    files = [f"<b>{HOSTILE.replace('/', ' ')} {number}.png" for number in range(images)]
    categories = [{"id": number + 1, "name": f"{HOSTILE} {number}"} for number in range(classes)]
    for split, count in (("train", 1), ("test", objects)):
        (tmp_path / split).mkdir()
        for file in files:
            Image.new("RGB", (64, 48)).save(tmp_path / split / file)
        content = {
            "images": [{"id": i + 1, "file_name": file, "width": 64, "height": 48} for i, file in enumerate(files)],
            "annotations": [
                {"id": i + 1, "image_id": 1, "category_id": classes, "bbox": [8, 8, 20, 16], "area": 320, "iscrowd": 0}
                for i in range(count)
            ],
            "categories": categories,
        }
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    sets = [[f"{split}_{classes}_{images}", f"{split}.json", split] for split in ("train", "test")]
    keys = {"DATASETS__REGISTER": sets, "DATASETS__TRAIN": (sets[0][0],), "DATASETS__TEST": (sets[1][0],)}
    main(arguments(SOLVER__MAX_ITER=1, SOLVER__IMS_PER_BATCH=1, MODEL__CENTERNET__NUM_CLASSES=classes, **keys))
    data, page = read(tmp_path / "out")
    own = data["evaluation"][sets[1][0]]
    assert own.keys() >= PARTS - {"oracle"}
    assert len(own["ap"]["classes"]) == classes
    assert (own["threshold"]["value"] is None) or objects
    assert data["dataset"]["splits"][sets[1][0]]["objects"] == objects
    assert any(HOSTILE in text for text in page.texts)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_page_in_a_browser(tiny, arguments, tmp_path):
    """Render the page in another process, a browser, at the width of a phone."""
    main(arguments())
    shot = tmp_path / "shot.png"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=390,900"]
    page = tmp_path / "out" / "report.html"
    subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=120)
    from PIL import Image

    pixels = np.asarray(Image.open(shot).convert("L")).astype(int)
    assert pixels.shape[1] == 390
    # Text on the left, and a margin on the right: nothing is wider than the page.
    assert np.ptp(pixels[:, :200]) > 100
    assert np.ptp(pixels[:, -6:]) < 20
