"""Short names of models in the package, and of weights released with the reference implementation."""

import hashlib
import re

import pytest
import torch

from centernet_d2 import Predictor, load_config, model_zoo
from centernet_d2.config.catalog import BUNDLED, RELEASED, SAMPLE, find_bundled, find_released
from conftest import ROOT

DLA_34 = "COCO-Detection/centernet_DLA_34_2x.yaml"


@pytest.fixture
def released(released, monkeypatch):
    """Weights of r18-coco in the cache."""
    monkeypatch.setenv("CENTERNET_D2_CACHE", str(released))
    return torch.load(released / "ctdet_coco_resdcn18.pth")["state_dict"]


@pytest.fixture
def _no_downloads(monkeypatch):
    monkeypatch.setattr(
        "centernet_d2.checkpoint.loading.fetch_once", lambda *_, **__: pytest.fail("weights were downloaded")
    )


def test_released_names_configs_and_files_are_unique():
    assert {weights.config for weights in RELEASED} <= set(model_zoo.available())
    assert model_zoo.available(trained=True) == [*BUNDLED, *(weights.name for weights in RELEASED)]
    for field in ("name", "config", "file", "drive_id"):
        values = [getattr(weights, field) for weights in RELEASED]
        assert len(set(values)) == len(values) == 17


@pytest.mark.parametrize("name", BUNDLED)
def test_models_in_the_package_are_loaded_by_name(name):
    path = find_bundled(name)
    assert path.stat().st_size < 5e6
    assert hashlib.sha256(path.read_bytes()).hexdigest() in (ROOT / "MODEL_ZOO.md").read_text()
    assert model_zoo.get_config(name).MODEL.WEIGHTS == str(path)
    predictor = Predictor(name, device="cpu", overrides=["TEST.FOLD_NORMS", False])
    expected = predictor.network.state_dict()
    model = model_zoo.get(name, device="cpu")
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert {value.dtype for value in expected.values()} == {torch.float32, torch.int64}


def test_sample_image_contains_cells():
    predictor = Predictor("cells", device="cpu")
    found = predictor(str(SAMPLE))["instances"]
    counts = [predictor.class_names[index] for index in found.pred_classes.tolist()]
    # Labels of the dataset: 1, 3 and 14; some red cells at the border are not labeled.
    assert counts.count("WBC") == 1
    assert 2 <= counts.count("Platelets") <= 4
    assert 12 <= counts.count("RBC") <= 20
    (white,) = found.pred_boxes.tensor[[name == "WBC" for name in counts]].tolist()
    assert white == pytest.approx([210, 295, 437, 480], abs=20)


def test_model_in_the_package_is_not_a_config():
    with pytest.raises(ValueError, match="cells is a trained model, not a config: use --model cells, or Predictor"):
        load_config("cells")


def test_files_take_precedence_over_models_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_bundled("cells") is not None
    (tmp_path / "cells").mkdir()
    assert find_bundled("cells") is None
    with pytest.raises(FileNotFoundError, match="the folder cells contains no checkpoint"):
        Predictor("cells")


def test_released_names_match_configs():
    for weights in RELEASED:
        cfg = load_config(weights.config)
        network, data, *rest = weights.name.split("-")
        kind = {"r": f"R_{cfg.MODEL.RESNETS.DEPTH}", "d": "DLA_34", "h": "HG_104"}[network[0]]
        assert kind in weights.config
        assert kind.replace("_", "").lower() == network
        assert (
            ("pose" in rest) == ("KeypointHead" in cfg.MODEL.CENTERNET.HEADS) == weights.file.startswith("multi_pose")
        )
        assert cfg.MODEL.CENTERNET.NUM_CLASSES == {"coco": 1 if "pose" in rest else 80, "voc": 20, "kitti": 3}[data]
        if data == "voc":
            assert rest == [str(side) for side in cfg.INPUT.AFFINE.SIZE[:1]] == [weights.file[-7:-4]]


def test_model_zoo_page_lists_all_released_weights():
    page = (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|.*\| \[`([^`]+)`\]\((\S+)\) \| `([^`]+)` \|$", page, flags=re.M)
    assert sorted(rows) == sorted((weights.config, weights.file, weights.page, weights.name) for weights in RELEASED)


def test_drive_ids_match_reference_list(shared):
    text = (shared / "reference" / "WEIGHTS.md").read_text(encoding="utf-8")
    reference_ids = dict(re.findall(r"^\| (\w+) \| ([\w-]+) \|$", text, flags=re.M))
    assert {f"{name}.pth": drive_id for name, drive_id in reference_ids.items() if not name.startswith("exdet_")} == {
        weights.file: weights.drive_id for weights in RELEASED
    }


@pytest.mark.usefixtures("_no_downloads")
def test_short_name_selects_config_and_weights(tmp_path, monkeypatch):
    expected = load_config(DLA_34, ["MODEL.WEIGHTS", "dla34-coco"])
    assert load_config("dla34-coco") == model_zoo.get_config("dla34-coco") == expected
    assert model_zoo.get_config(DLA_34, trained=True) == model_zoo.get_config("dla34-coco", trained=True) == expected
    assert model_zoo.get_config(DLA_34).MODEL.WEIGHTS == ""
    assert load_config("dla34-coco", ["MODEL.WEIGHTS", "mine.pth"]).MODEL.WEIGHTS == "mine.pth"
    assert model_zoo.get_config_file("dla34-coco") == model_zoo.get_config_file(DLA_34)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dla34-coco").write_text("SEED: 3\n")
    assert find_released("dla34-coco") is None
    cfg = load_config("dla34-coco")
    assert (cfg.SEED, cfg.MODEL.WEIGHTS) == (3, "")


@pytest.mark.usefixtures("_no_downloads")
def test_unknown_names_raise():
    with pytest.raises(
        FileNotFoundError, match="config file, run or model dla34-coc does not exist; did you mean dla34-coco?"
    ):
        load_config("dla34-coc")
    with pytest.raises(FileNotFoundError, match=r"(?s)config 'x' is not in the model zoo.*dla34-kitti-3dop"):
        model_zoo.get_config("x", trained=True)
    for name in ("Shapes/centernet_R_18_shapes.yaml", "lazy/centernet_R_18_1x.py"):
        with pytest.raises(
            ValueError, match=f"no released weights exist for {name}; available weights: cells, r18-coco, "
        ):
            model_zoo.get_config(name, trained=True)
    with pytest.raises(ValueError, match="trained=True loads released weights, but weights is 'a.pth': set only one"):
        model_zoo.get(DLA_34, "a.pth", trained=True)


@pytest.mark.parametrize("trained", [False, True])
def test_model_zoo_loads_weights_from_cache(released, trained):
    name = "COCO-Detection/centernet_R_18_1x.yaml" if trained else "r18-coco"
    model = model_zoo.get(name, device="cpu", trained=trained)
    state = model.state_dict()
    assert torch.equal(state["backbone.conv1.weight"], released["module.conv1.weight"])
    assert torch.equal(state["heads.CenterHead.stacks.0.heatmap.2.bias"], released["module.hm.2.bias"])


def test_predictor_loads_released_weights_and_class_names(released):
    predictor = Predictor("r18-coco", device="cpu", overrides=["TEST.FOLD_NORMS", False])
    assert torch.equal(predictor.network.state_dict()["backbone.conv1.weight"], released["module.conv1.weight"])
    assert predictor.class_names[:2] == ["person", "bicycle"]
    with pytest.raises(ValueError, match="MODEL.WEIGHTS is empty, but detection requires weights"):
        Predictor(DLA_34, device="cpu")
