import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("onnxscript", reason="needs the extra [export]")
pytest.importorskip("onnxruntime", reason="needs the extra [export]")

from centernet_d2 import load_config, model_zoo
from centernet_d2.cli.export import main
from centernet_d2.export import exporting, verification
from support.models import stub_heads, stub_model


class FakeFile(verification.TorchModel):
    """Stand-in for an exported file: the model itself."""

    detector = SimpleNamespace(metadata={"threshold": 0.3})


def build(cfg):
    """Build a tiny network with different scores in all cells."""
    torch.manual_seed(0)
    classes, count = cfg.MODEL.CENTERNET.NUM_CLASSES, cfg.TEST.DETECTIONS_PER_IMAGE
    model = stub_model(stub_heads(num_classes=classes), max_detections=count)
    torch.nn.init.normal_(model.heads["CenterHead"].stacks[0]["heatmap"][-1].weight)
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run, with its config and untrained weights."""
    folder = tmp_path_factory.mktemp("run")
    cfg = load_config(model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml"), ["MODEL.DEVICE", "cpu"])
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": build(cfg).state_dict()}, folder / "model_final.pth")
    return folder


@pytest.fixture
def call(run, shapes_folder, tmp_path, monkeypatch, capsys):
    """Function (arguments...) -> exit code, standard output and standard error."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_folder))
    monkeypatch.setattr("centernet_d2.predictor.build_model", build)

    def start(*arguments, model=("--model", run)):
        code = main([*map(str, (*model, "--output", tmp_path / "out", *arguments))])
        return code, *capsys.readouterr()

    return start


def test_images_of_the_dataset_verify_a_run(call, tmp_path):
    code, output, error = call()
    assert error == "" or code == 0, error
    assert code == 0
    assert "detections in 3 images agree with the model" in output
    assert f"saved {tmp_path / 'out' / 'model.onnx'} (" in output
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert report["class_names"][0] == "disk"
    assert report["verification"]["images"] == 3


def test_int8_is_evaluated(call, tmp_path):
    code, output, _ = call("--precision", "int8", "--format", "onnx")
    assert code == 0
    assert "bbox/AP: " in output
    assert set(json.loads((tmp_path / "out" / "export.json").read_text())["evaluation"]) >= {"before", "after"}


def test_too_few_images(call, shapes_folder, tmp_path, run, monkeypatch):
    # The model itself in place of a file, to save time.
    monkeypatch.setattr(exporting, "_write", lambda graph, path, *_: path.write_bytes(b""))
    monkeypatch.setattr(exporting, "ExportedModel", lambda path, network: FakeFile(network))
    image = next((shapes_folder / "shapes" / "val").glob("*.png"))
    model = ("--config-file", run / "config.yaml", "--weights", run / "model_final.pth")
    settings = ("--images", image, "--opts", "TEST.DETECTIONS_PER_IMAGE", "20")
    code, _, error = call(*settings, model=model)
    assert code == 1
    assert re.search("not verified: the model has [0-9]+ detections in 1 images", error)
    assert not list((tmp_path / "out").iterdir())


def test_missing_package_is_named(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, error = call()
    assert code == 1
    assert "export needs onnxscript: install the extra, pip install" in error
