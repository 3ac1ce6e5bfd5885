"""Weights files of the reference implementation, with synthetic weights as in the recorded networks."""

import re
from functools import cache

import pytest
import torch
from detectron2.engine import DefaultPredictor, default_argument_parser

from centernet_d2 import load_config, model_zoo
from centernet_d2.checkpoint import CenterNetCheckpointer, original_names, to_our_names
from centernet_d2.cli import conversion
from centernet_d2.cli import convert as convert_cli
from centernet_d2.modeling import CenterNet
from conftest import ROOT
from support.reference import synthetic
from support.reference.networks import read_keys

R_18 = "COCO-Detection/centernet_R_18_1x.yaml"
DLA_34 = "COCO-Detection/centernet_DLA_34_1x.yaml"
HG_104 = "COCO-Detection/centernet_HG_104.yaml"
DLA_34_POSE = "COCO-Keypoints/centernet_DLA_34_1x.yaml"


def config(name, *overrides):
    return load_config(model_zoo.get_config_file(name), ["MODEL.DEVICE", "cpu", *overrides])


@cache
def on_meta(name):
    """Return a cached model on the meta device."""
    with torch.device("meta"):
        return CenterNet(config(name))


@cache
def _original_tensors(name):
    model = on_meta(name)
    tensors = model.state_dict()
    return synthetic.weights({original: tensors[ours].shape for ours, original in original_names(model).items()})


def original_state(name):
    """Return a state dict of the reference implementation, with its synthetic weights; do not modify the tensors."""
    return dict(_original_tensors(name))


def original_state_without_values(name):
    """Return such a state dict with meta tensors, for large networks."""
    model = on_meta(name)
    tensors = model.state_dict()
    return {original: tensors[ours] for ours, original in original_names(model).items()}


def save(path, state, module=True, zip_format=False):
    prefix = "module." if module else ""
    content = {"epoch": 140, "state_dict": {prefix + name: t for name, t in state.items()}, "optimizer": {"lr": 1.0}}
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    return str(path)


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights") / "ctdet_coco_resdcn18.pth", original_state(R_18))


@pytest.fixture(scope="module")
def dla_file(tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights") / "ctdet_coco_dla_1x.pth", original_state(DLA_34), module=False)


def assert_loaded(model, state):
    for ours, original in original_names(model).items():
        assert torch.equal(model.state_dict()[ours], state[original]), ours


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        (R_18, "resdcn_18.ctdet"),
        ("COCO-Detection/centernet_R_18_plain_1x.yaml", "res_18.ctdet"),
        (DLA_34, "dla_34.ctdet"),
        ("COCO-Detection/centernet_DLAv0_34_1x.yaml", "dlav0_34.ctdet"),
        (HG_104, "hourglass.ctdet"),
        (DLA_34_POSE, "dla_34.multi_pose"),
    ],
)
def test_exported_names_equal_the_recorded_names(name, arch):
    model = on_meta(name)
    names = original_names(model)
    ours = {
        names[key]: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for key, tensor in model.state_dict().items()
    }
    assert ours == read_keys(ROOT / "tests" / "golden" / "keys" / f"{arch}.txt")


@pytest.mark.parametrize("name", [R_18, DLA_34, DLA_34_POSE])
@pytest.mark.parametrize(("module", "zip_format"), [(True, False), (False, True)])
def test_every_tensor_is_loaded(tmp_path, name, module, zip_format):
    state = original_state(name)
    model = CenterNet(config(name))
    CenterNetCheckpointer(model).load(save(tmp_path / "original.pth", state, module, zip_format))
    assert_loaded(model, state)


def test_names_of_the_hourglass_are_converted():
    state = original_state_without_values(HG_104)
    renamed, is_trunk = to_our_names(on_meta(HG_104), state)
    assert not is_trunk
    shapes = {name: tensor.shape for name, tensor in on_meta(HG_104).state_dict().items()}
    assert {name: tensor.shape for name, tensor in renamed.items()} == shapes
    assert "heads.BoxHead.stacks.1.size.0.weight" in renamed
    assert renamed["heads.BoxHead.stacks.1.size.2.bias"] is state["wh.1.1.bias"]


@pytest.mark.parametrize("split", ["3dop", "subcnn"])
def test_names_of_3d_box_networks_are_converted(shared, split):
    path = ROOT / "configs" / "KITTI-3D" / f"centernet_3d_DLA_34_{split}.yaml"
    with torch.device("meta"):
        model = CenterNet(load_config(path, ["MODEL.DEVICE", "cpu"]))
    lines = (shared / "reference" / "golden" / "keys" / "dla_34.ddd.txt").read_text().splitlines()
    recorded = {line.split("\t")[0] for line in lines if line}
    assert set(original_names(model).values()) == recorded
    renamed, is_trunk = to_our_names(model, {"state_dict": {f"module.{name}": name for name in recorded}})
    assert not is_trunk
    assert renamed.keys() == model.state_dict().keys()
    assert renamed["heads.Box3DHead.stacks.0.orientation.2.bias"] == "rot.2.bias"


def test_default_predictor_reads_converted_files(load_script, resnet_file, tmp_path):
    path = str(tmp_path / "ours.pth")
    assert convert_cli.main([resnet_file, path, "--config", R_18]) == 0
    predictor = DefaultPredictor(config(R_18, "MODEL.WEIGHTS", path))
    assert_loaded(predictor.model, original_state(R_18))
    assert isinstance(predictor(torch.zeros(40, 50, 3, dtype=torch.uint8).numpy())["instances"].scores, torch.Tensor)


def test_model_zoo_reads_reference_files(dla_file):
    model = model_zoo.get(DLA_34, weights=dla_file, device="cpu")
    assert not model.training
    assert_loaded(model, original_state(DLA_34))


def test_loaded_model_reproduces_recorded_outputs(shared, resnet_file):
    import numpy as np

    data = np.load(shared / "reference" / "golden" / "net" / "resdcn_18.ctdet.128x128.npz")
    model = model_zoo.get(R_18, weights=resnet_file, device="cpu")
    with torch.no_grad():
        (maps,) = model.compute_maps(torch.from_numpy(data["input"]))
    for ours, original in (("heatmap", "hm"), ("size", "wh"), ("offset", "reg")):
        np.testing.assert_allclose(maps[ours], data[original], atol=1e-3)


def test_train_net_evaluates_reference_files(load_script, tmp_path, monkeypatch):
    from synthetic.shapes import write_shapes

    write_shapes(tmp_path / "shapes", train=1, val=2, size=64)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    shapes = "Shapes/centernet_R_18_shapes.yaml"
    weights = save(tmp_path / "original.pth", original_state(shapes))
    options = ["--eval-only", "--config-file", model_zoo.get_config_file(shapes), "DATALOADER.NUM_WORKERS", "0"]
    options += ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path / "out")]
    results = load_script("train_net.py").main(default_argument_parser().parse_args(options))
    assert "AP50" in results["bbox"]


def test_wrong_architecture_raises_with_tensors_and_counts(dla_file, resnet_file):
    with pytest.raises(ValueError, match="do not match this model") as error:
        CenterNetCheckpointer(CenterNet(config(R_18))).load(dla_file)
    message = str(error.value)
    assert "backbone.conv1.weight: missing in the file, 64x3x7x7 in the model" in message
    pattern = r"; \d+ tensors differ \(\d+ missing in the file, \d+ missing in the model, \d+ of another shape\)\. Use"
    assert re.search(pattern, message)
    assert len(message.splitlines()) == 6
    with pytest.raises(
        ValueError, match=r"heads.CenterHead.stacks.0.heatmap.2.weight: 80x64x1x1 in the file, 3x64x1x1"
    ):
        CenterNetCheckpointer(CenterNet(config(R_18, "MODEL.CENTERNET.NUM_CLASSES", 3))).load(resnet_file)


def test_fine_tuning_does_not_load_class_dependent_tensors(resnet_file, caplog):
    state = original_state(R_18)
    model = CenterNet(config(R_18, "MODEL.CENTERNET.NUM_CLASSES", 3))
    before = model.state_dict()["heads.CenterHead.stacks.0.heatmap.2.bias"].clone()
    with caplog.at_level("INFO"):
        CenterNetCheckpointer(model, fine_tune=True).load(resnet_file)
    not_loaded = {"hm.2.weight", "hm.2.bias"}
    for ours, original in original_names(model).items():
        assert (original in not_loaded) or torch.equal(model.state_dict()[ours], state[original]), ours
    assert torch.equal(model.state_dict()["heads.CenterHead.stacks.0.heatmap.2.bias"], before)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.fullmatch(
        rf"{resnet_file}: 1 of \d+ layers are new, because the file has no tensors of their shape "
        r"\(heads.CenterHead.stacks.0.heatmap.2\)",
        line,
    )


def test_fine_tuning_of_pose_from_detection(dla_file):
    state = original_state(DLA_34)
    model = CenterNet(config(DLA_34_POSE))
    CenterNetCheckpointer(model, fine_tune=True).load(dla_file)
    for ours, original in original_names(model).items():
        not_loaded = original.startswith(("hm.2.", "hps.", "hm_hp.", "hp_offset."))
        assert not_loaded or torch.equal(model.state_dict()[ours], state[original]), ours


def test_fine_tuning_of_detection_from_pose_logs_unused_layers(dla_file, tmp_path, caplog):
    path = save(tmp_path / "multi_pose_dla_3x.pth", original_state(DLA_34_POSE))
    CenterNetCheckpointer(CenterNet(config(DLA_34)), fine_tune=True).load(path)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.endswith(
        "heatmap.2); 6 layers of the file are not in the model "
        "(hm_hp.0, hm_hp.2, hp_offset.0, hp_offset.2, hps.0, hps.2)"
    )


def test_fine_tuning_requires_the_backbone(dla_file):
    with pytest.raises(ValueError, match="do not match this model"):
        CenterNetCheckpointer(CenterNet(config(R_18)), fine_tune=True).load(dla_file)


def test_unused_tensors_of_dla_may_be_missing(tmp_path):
    state = original_state(DLA_34)
    less = {name: t for name, t in state.items() if not name.startswith("base.fc") and "num_batches" not in name}
    model = CenterNet(config(DLA_34))
    CenterNetCheckpointer(model).load(save(tmp_path / "less.pth", less))
    assert torch.equal(model.backbone.base.level2.root.conv.weight, state["base.level2.root.conv.weight"])
    del less["base.level3.project.0.weight"]
    with pytest.raises(ValueError, match="backbone.base.level3.project.0.weight: missing in the file"):
        CenterNetCheckpointer(model).load(save(tmp_path / "lesser.pth", less))


def test_imagenet_file_of_dla_initializes_the_trunk(tmp_path):
    from centernet_d2.checkpoint import load_trunk

    state = {n.removeprefix("base."): t for n, t in original_state(DLA_34).items() if n.startswith("base.")}
    torch.save(state, tmp_path / "dla34-ba72cf86.pth")
    for load in (
        lambda model: load_trunk(model.backbone, tmp_path / "dla34-ba72cf86.pth"),
        lambda model: CenterNetCheckpointer(model).load(str(tmp_path / "dla34-ba72cf86.pth")),
    ):
        model = CenterNet(config(DLA_34))
        load(model)
        for name, tensor in model.backbone.base.state_dict().items():
            assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("name", [R_18, DLA_34, HG_104])
def test_conversion_round_trip_is_lossless(load_script, name):
    convert = conversion.convert
    names = original_names(on_meta(name))
    data = {"epoch": 140, "state_dict": original_state_without_values(name), "optimizer": {"lr": 1.0}}
    ours = convert(data, names)
    assert list(ours["model"]) != list(data["state_dict"])
    back = convert(ours, names)
    assert list(back["state_dict"]) == list(data["state_dict"])
    assert all(back["state_dict"][key] is tensor for key, tensor in data["state_dict"].items())
    assert (back["epoch"], back["optimizer"]) == (140, {"lr": 1.0})


def test_converter_does_not_overwrite_files(load_script, resnet_file, tmp_path, capsys):
    main = convert_cli.main
    ours, back = str(tmp_path / "ours.pth"), str(tmp_path / "back.pth")
    assert main([resnet_file, ours, "--config", R_18]) == 0
    assert main([ours, back, "--config", R_18]) == 0
    CenterNetCheckpointer(CenterNet(config(R_18))).load(ours)
    CenterNetCheckpointer(CenterNet(config(R_18))).load(back)
    assert main([resnet_file, ours, "--config", R_18]) == 1
    assert main([resnet_file, str(tmp_path / "x.pth"), "--config", DLA_34]) == 1
    errors = capsys.readouterr().err
    assert "already exists" in errors
    assert "tensors do not exist in the model of this config" in errors
