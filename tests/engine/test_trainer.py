import json
import logging
import shutil
import sys

import cv2
import pytest
import torch
import yaml
from detectron2.engine import DefaultPredictor, launch

from centernet_d2 import load_config
from centernet_d2.checkpoint import load_file
from centernet_d2.data.checks import load_checked
from centernet_d2.engine import Trainer
from centernet_d2.layers.folding import NORMS
from centernet_d2.modeling.heads import POINT_HEAD_REGISTRY


@pytest.fixture(scope="module")
def main(load_script):
    return load_script("train_net.py").main


def test_training_saves_evaluates_and_resumes(main, arguments, tmp_path, monkeypatch):
    results = main(arguments())
    assert {"AP", "AP50", "AP75"} <= set(results["bbox"])
    out = tmp_path / "out"
    final = load_file(out / "model_final.pth")
    assert final["iteration"] == 2
    assert final["metadata"]["category_ids"] == [10, 20, 30, 40, 50]
    assert len(final["metadata"]["thing_classes"]) == 5
    results = json.loads((out / "inference" / "shapes_val" / "coco_instances_results.json").read_text())
    assert {"image_id", "category_id", "bbox", "score"} == set(results[0])
    assert {result["category_id"] for result in results} <= {10, 20, 30, 40, 50}

    main(arguments("--resume", SOLVER__MAX_ITER=5))
    assert load_file(out / "model_final.pth")["iteration"] == 4

    weights = str(out / "model_final.pth")
    evaluated = main(arguments("--eval-only", MODEL__WEIGHTS=weights, OUTPUT_DIR=tmp_path / "other"))
    again = main(arguments("--eval-only", MODEL__WEIGHTS=weights, OUTPUT_DIR=tmp_path / "other"))
    assert evaluated["bbox"] == pytest.approx(again["bbox"], nan_ok=True)

    tested = []
    monkeypatch.setattr(Trainer, "test", lambda cfg, model: tested.append(model) or {})
    for fold in (False, True):
        main(arguments("--eval-only", MODEL__WEIGHTS=weights, OUTPUT_DIR=tmp_path / "other", TEST__FOLD_NORMS=fold))
    assert [any(isinstance(module, NORMS) for module in model.modules()) for model in tested] == [True, False]


def test_existing_run_is_not_overwritten(main, arguments, tmp_path):
    main(arguments())
    out = tmp_path / "out"
    before = {name: (out / name).read_bytes() for name in ("config.yaml", "model_final.pth", "metrics.json")}
    with pytest.raises(FileExistsError, match="already contains trained weights: continue with --resume"):
        main(arguments())
    (tmp_path / "link").symlink_to(out)
    main(arguments("--resume", OUTPUT_DIR=f"{tmp_path}/link/", SOLVER__MAX_ITER=4))
    before = {name: (out / name).read_bytes() for name in before}
    with pytest.raises(FileExistsError, match=r"SOLVER.OPTIMIZER: Adam -> SGD"):
        main(arguments("--resume", SOLVER__OPTIMIZER="SGD"))
    for name in before:
        assert (out / name).read_bytes() == before[name], name


def learning_rates(out):
    """Return the learning rates in metrics.json by iteration; later lines take precedence."""
    rows = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    return {row["iteration"]: row["lr"] for row in rows if "lr" in row}


def test_resume_changes_the_learning_rate_by_keys_on_the_command_line(main, arguments, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("detectron2.engine.hooks.PeriodicWriter.after_step", write_every_iteration)
    common = {"SOLVER__STEPS": "(3, 8)", "DATASETS__TEST": "()"}
    main(arguments(SOLVER__MAX_ITER=4, **common))
    shutil.copytree(tmp_path / "out", tmp_path / "plain")
    expected = {0: 1e-3, 1: 1e-3, 2: 1e-3, 3: 1e-4}
    assert learning_rates(tmp_path / "out") == pytest.approx(expected)

    logging.getLogger("centernet_d2").addHandler(caplog.handler)
    main(arguments("--resume", SOLVER__MAX_ITER=6, OUTPUT_DIR=tmp_path / "plain", **common))
    assert learning_rates(tmp_path / "plain") == pytest.approx({**expected, 4: 1e-4, 5: 1e-4})
    assert "learning rate at" not in caplog.text

    common["SOLVER__STEPS"] = "(3, 5)"
    main(arguments("--resume", SOLVER__MAX_ITER=6, SOLVER__BASE_LR=0.01, SOLVER__GAMMA=0.5, **common))
    logging.getLogger("centernet_d2").removeHandler(caplog.handler)
    assert learning_rates(tmp_path / "out") == pytest.approx({**expected, 4: 5e-3, 5: 2.5e-3})
    assert "--resume changes SOLVER.BASE_LR: 0.001 -> 0.01" in caplog.text
    assert "learning rate at iteration 4: 0.0001 -> 0.005" in caplog.text


def write_every_iteration(self):
    for writer in self._writers:
        writer.write()


@pytest.mark.parametrize("state", [{"iteration": 0}, {"iteration": 0, "_trainer": {"optimizer": None}}])
def test_incomplete_training_state_raises(main, arguments, tmp_path, state):
    main(arguments(SOLVER__MAX_ITER=1, DATASETS__TEST="()"))
    path = tmp_path / "out" / "model_final.pth"
    torch.save({**load_file(path), "trainer": state}, path)
    with pytest.raises(
        ValueError, match=r"training state in .*model_final.pth is incomplete .*with MODEL.WEIGHTS set to"
    ):
        main(arguments("--resume", SOLVER__MAX_ITER=2, DATASETS__TEST="()"))


def test_resume_with_an_edited_learning_rate_in_the_config_file_raises(main, arguments, tmp_path):
    main(arguments(SOLVER__MAX_ITER=1, DATASETS__TEST="()"))
    args = arguments("--resume", SOLVER__MAX_ITER=2, DATASETS__TEST="()")
    edited = tmp_path / "edited.yaml"
    edited.write_text(f"_BASE_: {args.config_file}\nSOLVER: {{BASE_LR: 0.1}}\n")
    args.config_file = str(edited)
    with pytest.raises(FileExistsError, match=r"by keys on the command line(.|\n)*SOLVER.BASE_LR: 0.001 -> 0.1"):
        main(args)


def test_evaluation_does_not_change_the_config_of_the_training(main, arguments, tmp_path):
    main(arguments())
    before = (tmp_path / "out" / "config.yaml").read_text()
    main(
        arguments("--eval-only", MODEL__WEIGHTS=str(tmp_path / "out" / "model_final.pth"), TEST__DETECTIONS_PER_IMAGE=7)
    )
    assert (tmp_path / "out" / "config.yaml").read_text() == before


PLUGIN = """
from detectron2.data import DatasetCatalog
from centernet_d2.data.coco import CocoDataset
from centernet_d2.modeling.heads import POINT_HEAD_REGISTRY, BoxHead, BoxProperty

class CustomProperty(BoxProperty):
    name = "custom"
    node = "CUSTOM"

    @classmethod
    def add_config(cls, node):
        node.VALUE = 1.0

@POINT_HEAD_REGISTRY.register()
class CustomHead(BoxHead):
    property_type = CustomProperty

DatasetCatalog.register("custom", CocoDataset("custom", {json!r}, {images!r}))
"""


def test_imported_file_registers_heads_keys_and_datasets(main, arguments, shapes_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(POINT_HEAD_REGISTRY, "_obj_map", dict(POINT_HEAD_REGISTRY._obj_map))
    monkeypatch.setattr("sys.path", list(sys.path))
    source = tmp_path / "custom_head_of_a_test.py"
    folder = shapes_folder / "shapes"
    source.write_text(PLUGIN.format(json=str(folder / "annotations" / "train.json"), images=str(folder / "train")))
    args = arguments(
        SOLVER__MAX_ITER=1,
        DATASETS__TRAIN="('custom',)",
        DATASETS__TEST="()",
        MODEL__CENTERNET__HEADS="['CenterHead', 'CustomHead']",
        MODEL__CENTERNET__CUSTOM__VALUE=2.0,
    )
    with pytest.raises(ValueError, match=r"there is no key MODEL.CENTERNET.CUSTOM.VALUE"):
        main(args)
    args.imports = [str(source)]
    try:
        main(args)
    finally:
        del sys.modules[source.stem]
    weights = load_file(tmp_path / "out" / "model_final.pth")["model"]
    assert any(name.startswith("heads.CustomHead.") for name in weights)
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["MODEL"]["CENTERNET"]["CUSTOM"] == {
        "VALUE": 2.0
    }


def test_half_precision_on_the_cpu(main, arguments, tmp_path, monkeypatch):
    dtypes = []
    build = Trainer.build_model

    def build_model(cfg):
        model = build(cfg)
        model.backbone.register_forward_hook(lambda _module, _inputs, maps: dtypes.append(maps["stack_0"].dtype))
        return model

    monkeypatch.setattr(Trainer, "build_model", staticmethod(build_model))
    main(arguments(SOLVER__AMP__ENABLED=True, SOLVER__MAX_ITER=2))
    assert torch.bfloat16 in dtypes[:2], "training"
    assert dtypes[-1] == torch.float32, "evaluation"
    weights = load_file(tmp_path / "out" / "model_final.pth")["model"]
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}


def test_non_finite_loss_raises_with_the_last_checkpoint(main, arguments, tmp_path, monkeypatch):
    build = Trainer.build_model.__func__
    iterations = iter(range(9))

    def build_model(cls, cfg):
        model = build(cls, cfg)
        forward = model.forward

        def forward_with_nan(batch):
            factor = 1.0 if next(iterations) == 0 else float("nan")
            return forward([{**x, "image": x["image"].float() * factor} for x in batch])

        model.forward = forward_with_nan
        return model

    monkeypatch.setattr(Trainer, "build_model", classmethod(build_model))
    with pytest.raises(
        FloatingPointError,
        match=r"iteration 1 \(in the gradients of .*Head.*\)\. Lower SOLVER.BASE_LR .* then resume from "
        r".*out/model_0000000.pth with --resume",
    ):
        main(arguments(SOLVER__CHECKPOINT_PERIOD=1))
    saved = load_file(tmp_path / "out" / "model_0000000.pth")
    assert saved["iteration"] == 0
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())
    assert not (tmp_path / "out" / "model_0000001.pth").exists()


def test_non_finite_gradient_does_not_change_weights(main, arguments, tmp_path, monkeypatch):
    build = Trainer.build_model.__func__
    models = []

    def build_model(cls, cfg):
        models.append(model := build(cls, cfg))
        model.backbone.conv1.weight.register_hook(lambda gradient: gradient * float("inf"))
        return model

    monkeypatch.setattr(Trainer, "build_model", classmethod(build_model))
    with pytest.raises(
        FloatingPointError, match=r"iteration 0 \(in the gradients of backbone\)\. .*, then start a new training$"
    ):
        main(arguments())
    (model,) = models
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert not list((tmp_path / "out").glob("*.pth"))


def test_evaluation_without_weights_raises_and_saves_no_config(main, arguments, tmp_path):
    with pytest.raises(ValueError, match="--eval-only needs weights: set MODEL.WEIGHTS"):
        main(arguments("--eval-only"))
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_default_predictor_of_detectron2_matches_the_evaluation(main, arguments, tmp_path):
    main(arguments(MODEL__CENTERNET__TEST_RESOLUTION="fixed"))
    out = tmp_path / "out"
    cfg = load_config(out / "config.yaml", ["MODEL.WEIGHTS", str(out / "model_final.pth")])
    predictor = DefaultPredictor(cfg)
    record = load_checked(["shapes_val"], 5)[0]
    detections = predictor(cv2.imread(record["file_name"]))["instances"]
    results = json.loads((out / "inference" / "shapes_val" / "coco_instances_results.json").read_text())
    scores = [result["score"] for result in results if result["image_id"] == record["image_id"]]
    assert detections.scores.tolist() == pytest.approx(scores)


def test_trunk_weights_are_loaded(main, arguments, tmp_path):
    import torchvision

    resnet = torchvision.models.resnet18(weights=None)
    path = tmp_path / "resnet18.pth"
    torch.save(resnet.state_dict(), path)
    args = arguments(MODEL__TRUNK_WEIGHTS=path, SOLVER__BASE_LR=1e-12)
    main(args)
    trained = load_file(tmp_path / "out" / "model_final.pth")["model"]
    assert torch.allclose(trained["backbone.layer4.1.conv2.weight"], resnet.layer4[1].conv2.weight)
    with pytest.raises(ValueError, match="TRUNK_WEIGHTS: .*Check MODEL.BACKBONE.NAME and MODEL.RESNETS.DEPTH"):
        main(arguments(MODEL__TRUNK_WEIGHTS=path, MODEL__RESNETS__DEPTH=50, OUTPUT_DIR=tmp_path / "other"))


def test_round_results(main, arguments, tmp_path):
    main(arguments(MODEL__CENTERNET__QUIRKS__ROUND_RESULTS=True))
    path = tmp_path / "out" / "inference" / "shapes_val" / "coco_instances_results.json"
    values = [v for result in json.loads(path.read_text()) for v in (result["score"], *result["bbox"])]
    assert all(value == round(value, 2) for value in values)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"MODEL__CENTERNET__NUM_CLASSES": 4}, "has 5 classes .*NUM_CLASSES is 4"),
        ({"DATASETS__TRAIN": "('nowhere',)"}, "'nowhere' is not registered"),
        ({"DATASETS__TEST": "('nowhere',)"}, "'nowhere' is not registered"),
        ({"INPUT__AFFINE__SIZE": "[50, 64]"}, "multiples of 32"),
        ({"MODEL__CENTERNET__HEADS": "['CenterHead']"}, "evaluation requires boxes; add BoxHead"),
        ({"DATASETS__TRAIN": "()"}, "no datasets are configured"),
    ],
)
def test_invalid_config_raises_before_training(main, arguments, tmp_path, overrides, message):
    with pytest.raises((ValueError, KeyError), match=message):
        main(arguments(**overrides))
    assert not list((tmp_path / "out").glob("*.pth"))


def test_training_with_two_processes_on_the_cpu(main, arguments, tmp_path):
    args = arguments(SOLVER__MAX_ITER=2)
    launch(train_with_one_thread, 2, dist_url="auto", args=(args,))
    assert load_file(tmp_path / "out" / "model_final.pth")["iteration"] == 1


def train_with_one_thread(args):
    """Run train_net.py in a process of the test above with one thread, as spinning threads slow both processes."""
    import importlib.util
    from pathlib import Path

    torch.set_num_threads(1)
    path = Path(__file__).resolve().parents[2] / "train_net.py"
    spec = importlib.util.spec_from_file_location("train_net", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(args)


def test_results_contain_test_time_augmentation(main, arguments, tmp_path):
    aug = {"TEST__AUG__ENABLED": True, "TEST__AUG__SCALES": "(0.5, 1.0)", "SOLVER__MAX_ITER": 1}
    trained = main(arguments(**aug))
    weights = str(tmp_path / "out" / "model_final.pth")
    evaluated = main(arguments("--eval-only", MODEL__WEIGHTS=weights, **aug))
    for results in (trained, evaluated):
        assert set(results) == {"bbox", "bbox_TTA"}
        assert "AP" in results["bbox_TTA"]
    assert (tmp_path / "out" / "inference_TTA" / "shapes_val" / "coco_instances_results.json").exists()


def test_oracle_for_all_maps_finds_all_boxes(main, arguments, tmp_path):
    main(arguments(SOLVER__MAX_ITER=1, DATASETS__TEST="()"))
    options = {
        "MODEL__WEIGHTS": tmp_path / "out" / "model_final.pth",
        "TEST__CENTERNET_ORACLE": "['heatmap', 'offset', 'size']",
    }
    results = main(arguments("--eval-only", **options))
    keys = {"bbox", "bbox_ORACLE_heatmap", "bbox_ORACLE_offset", "bbox_ORACLE_size", "bbox_ORACLE_heatmap+offset+size"}
    assert set(results) == keys
    assert results["bbox_ORACLE_heatmap+offset+size"]["AP"] > 95
    assert results["bbox"]["AP"] < 5
