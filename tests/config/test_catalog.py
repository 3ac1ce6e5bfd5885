"""Short names for configs with weights of the original's authors."""

import re

import pytest
import torch

from centernet_d2 import Predictor, load_config, model_zoo
from centernet_d2.config.catalog import RELEASED, find_released
from conftest import ROOT

DLA_34 = "COCO-Detection/centernet_DLA_34_2x.yaml"


@pytest.fixture
def released(released, monkeypatch):
    """The weights of r18-coco, which are in the cache."""
    monkeypatch.setenv("CENTERNET_D2_CACHE", str(released))
    return torch.load(released / "ctdet_coco_resdcn18.pth")["state_dict"]


@pytest.fixture
def _nothing_is_fetched(monkeypatch):
    monkeypatch.setattr("centernet_d2.checkpoint.loading.fetch_once", lambda *_, **__: pytest.fail("it fetched"))


def test_every_name_has_a_config_and_a_file_of_its_own():
    assert {one.config for one in RELEASED} <= set(model_zoo.available())
    assert model_zoo.available(trained=True) == [one.name for one in RELEASED]
    for field in ("name", "config", "file", "drive_id"):
        values = [getattr(one, field) for one in RELEASED]
        assert len(set(values)) == len(values) == 17


def test_names_say_what_configs_are():
    for one in RELEASED:
        cfg = load_config(one.config)
        network, data, *rest = one.name.split("-")
        kind = {"r": f"R_{cfg.MODEL.RESNETS.DEPTH}", "d": "DLA_34", "h": "HG_104"}[network[0]]
        assert kind in one.config
        assert kind.replace("_", "").lower() == network
        assert ("pose" in rest) == ("KeypointHead" in cfg.MODEL.CENTERNET.HEADS) == one.file.startswith("multi_pose")
        assert cfg.MODEL.CENTERNET.NUM_CLASSES == {"coco": 1 if "pose" in rest else 80, "voc": 20, "kitti": 3}[data]
        if data == "voc":
            assert rest == [str(side) for side in cfg.INPUT.AFFINE.SIZE[:1]] == [one.file[-7:-4]]


def test_the_page_has_every_name_with_its_link():
    page = (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|.*\| \[`([^`]+)`\]\((\S+)\) \| `([^`]+)` \|$", page, flags=re.M)
    assert sorted(rows) == sorted((one.config, one.file, one.page, one.name) for one in RELEASED)


def test_ids_are_those_of_the_authors(shared):
    text = (shared / "reference" / "WEIGHTS.md").read_text(encoding="utf-8")
    theirs = dict(re.findall(r"^\| (\w+) \| ([\w-]+) \|$", text, flags=re.M))
    assert {f"{name}.pth": one for name, one in theirs.items() if not name.startswith("exdet_")} == {
        one.file: one.drive_id for one in RELEASED
    }


@pytest.mark.usefixtures("_nothing_is_fetched")
def test_a_short_name_is_a_config_with_weights(tmp_path, monkeypatch):
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


@pytest.mark.usefixtures("_nothing_is_fetched")
def test_wrong_names_are_refused():
    with pytest.raises(FileNotFoundError, match="config file dla34-coc does not exist; did you mean dla34-coco?"):
        load_config("dla34-coc")
    with pytest.raises(FileNotFoundError, match=r"(?s)there is no config 'x'.*dla34-kitti-3dop"):
        model_zoo.get_config("x", trained=True)
    for name in ("Shapes/centernet_R_18_shapes.yaml", "lazy/centernet_R_18_1x.py"):
        with pytest.raises(ValueError, match=f"authors released no weights for {name}; there are: r18-coco, "):
            model_zoo.get_config(name, trained=True)
    with pytest.raises(ValueError, match="but a.pth are given: give one of them"):
        model_zoo.get(DLA_34, "a.pth", trained=True)


@pytest.mark.parametrize("trained", [False, True])
def test_the_model_zoo_builds_models_with_weights_of_the_cache(released, trained):
    name = "COCO-Detection/centernet_R_18_1x.yaml" if trained else "r18-coco"
    model = model_zoo.get(name, device="cpu", trained=trained)
    own = model.state_dict()
    assert torch.equal(own["backbone.conv1.weight"], released["module.conv1.weight"])
    assert torch.equal(own["heads.CenterHead.stacks.0.heatmap.2.bias"], released["module.hm.2.bias"])


def test_a_predictor_knows_them_and_the_classes(released):
    predictor = Predictor.from_zoo("r18-coco", device="cpu")
    assert torch.equal(predictor.network.state_dict()["backbone.conv1.weight"], released["module.conv1.weight"])
    assert predictor.class_names[:2] == ["person", "bicycle"]
    with pytest.raises(ValueError, match="there are no weights to detect with"):
        Predictor.from_zoo(DLA_34, device="cpu")
