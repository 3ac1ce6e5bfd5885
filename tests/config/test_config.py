import pytest
import yaml
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from centernet_d2 import Predictor, load_config, model_zoo
from centernet_d2.config.keys import add_centernet_config
from centernet_d2.config.loading import check_device
from centernet_d2.data import CenterNetDatasetMapper
from centernet_d2.engine import build_optimizer
from centernet_d2.modeling import CenterNet
from centernet_d2.modeling.heads import POINT_HEAD_REGISTRY, BoxHead, Property
from centernet_d2.utils.validation import check_choice
from conftest import ROOT


def test_model_zoo_lists_configs():
    names = model_zoo.available()
    assert "COCO-Detection/centernet_R_18_1x.yaml" in names
    assert not [name for name in names if "Base" in name]
    with pytest.raises(
        FileNotFoundError, match=r"config 'COCO-Detection/x.yaml' is not in the model zoo. Available configs:\n  "
    ):
        model_zoo.get_config_file("COCO-Detection/x.yaml")


def test_configs_are_loaded_by_name(tmp_path):
    name = "COCO-Detection/centernet_R_18_1x.yaml"
    assert model_zoo.get_config(name) == load_config(model_zoo.get_config_file(name)) == load_config(name)
    path = tmp_path / "mine.yaml"
    path.write_text(load_config("Shapes/centernet_R_18_shapes.yaml", ["MODEL.UPCONV.CHANNELS", [16, 16, 16]]).dump())
    assert model_zoo.get(str(path), device="cpu").num_classes == 5
    assert model_zoo.available(".py") == ["lazy/centernet_HG_people_small.py", "lazy/centernet_R_18_1x.py"]
    with pytest.raises(FileNotFoundError, match=r"'lazy/x.py' is not in the model zoo(.|\n)*lazy/centernet_R_18_1x.py"):
        model_zoo.get_config("lazy/x.py")


@pytest.mark.parametrize("name", model_zoo.available())
def test_every_config_builds_model_on_cpu(name, caplog):
    cfg = load_config(model_zoo.get_config_file(name), ["MODEL.DEVICE", "cpu"])
    CenterNet(cfg)
    assert "ignores these config keys" not in caplog.text
    assert cfg.SOLVER.OPTIMIZER in ("Adam", "AdamW", "Muon")
    assert cfg.INPUT.MIN_SIZE_TEST == 0
    assert all(step < cfg.SOLVER.MAX_ITER for step in cfg.SOLVER.STEPS) or "Cosine" in cfg.SOLVER.LR_SCHEDULER_NAME


@pytest.mark.parametrize(
    ("name", "images", "batch", "rate", "epochs", "drops"),
    [
        ("COCO-Detection/centernet_R_18_1x.yaml", 118_287, 114, 5e-4, 140, (90, 120)),
        ("COCO-Detection/centernet_R_101_1x.yaml", 118_287, 96, 3.75e-4, 140, (90, 120)),
        ("COCO-Detection/centernet_DLA_34_1x.yaml", 118_287, 128, 5e-4, 140, (90, 120)),
        ("COCO-Detection/centernet_DLA_34_2x.yaml", 118_287, 128, 5e-4, 230, (180, 210)),
        ("COCO-Detection/centernet_HG_104.yaml", 118_287, 24, 2.5e-4, 50, (40,)),
        ("COCO-Keypoints/centernet_DLA_34_1x.yaml", 64_115, 128, 5e-4, 140, (90, 120)),
        ("COCO-Keypoints/centernet_DLA_34_3x.yaml", 64_115, 128, 5e-4, 320, (270, 300)),
        ("COCO-Keypoints/centernet_HG_104_1x.yaml", 64_115, 24, 2.5e-4, 50, (40,)),
        ("COCO-Keypoints/centernet_HG_104_3x.yaml", 64_115, 24, 2.5e-4, 150, (130,)),
        ("PascalVOC-Detection/centernet_DLA_34_512.yaml", 16_551, 32, 1.25e-4, 70, (45, 60)),
        ("PascalVOC-Detection/centernet_R_18_384.yaml", 16_551, 32, 1.25e-4, 70, (45, 60)),
        ("PascalVOC-Detection/centernet_R_101_512.yaml", 16_551, 32, 1.25e-4, 70, (45, 60)),
    ],
)
def test_schedules_match_reference_epochs(name, images, batch, rate, epochs, drops):
    solver = load_config(model_zoo.get_config_file(name)).SOLVER
    per_epoch = images // batch
    assert (solver.IMS_PER_BATCH, solver.REFERENCE_IMS_PER_BATCH, solver.BASE_LR) == (batch, batch, rate)
    assert solver.MAX_ITER == epochs * per_epoch
    assert tuple(solver.STEPS) == tuple(drop * per_epoch for drop in drops)


@pytest.mark.parametrize(("split", "images"), [("3dop", 3712), ("subcnn", 3682)])
def test_box3d_configs_match_reference(split, images):
    cfg = load_config(ROOT / "configs" / "KITTI-3D" / f"centernet_3d_DLA_34_{split}.yaml")
    per_epoch = images // 16
    solver, node = cfg.SOLVER, cfg.MODEL.CENTERNET
    assert (solver.IMS_PER_BATCH, solver.REFERENCE_IMS_PER_BATCH, solver.BASE_LR) == (16, 16, 1.25e-4)
    assert (solver.MAX_ITER, list(solver.STEPS)) == (70 * per_epoch, [45 * per_epoch, 60 * per_epoch])
    assert (node.HEAD_CONV, node.QUIRKS.LOSS_SLOTS, node.QUIRKS.RADIUS_ROUND_UP, node.QUIRKS.SIZE_AS_POINT) == (
        256,
        50,
        False,
        True,
    )
    assert (node.QUIRKS.IGNORE_REGIONS, node.TEST_RESOLUTION, node.BOX3D.REFERENCE_FOCAL) == (
        "center",
        "fixed_width",
        0,
    )
    assert (list(cfg.INPUT.AFFINE.SIZE), cfg.INPUT.AFFINE.MODE, cfg.INPUT.RANDOM_FLIP) == ([384, 1280], "kitti", "none")
    assert cfg.DATASETS.REGISTER_KITTI[0][1:] == ["kitti", f"{split}_train"]


def test_missing_config_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"config file, run or model nowhere.yaml does not exist"):
        load_config("nowhere.yaml")


def test_yaml_tags_are_not_executed(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(
        f"MODEL: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{tmp_path}/x']]"
    )
    with pytest.raises(Exception, match="could not determine a constructor"):
        load_config(path)
    assert not (tmp_path / "x").exists()


# Ten levels of ten aliases each: 10**10 values.
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
BOMB = BOMB.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.yaml is empty"),
        (b"- a\n- b\n", "x.yaml contains a list, but must contain a mapping"),
        (b"just words", "x.yaml contains a str"),
        (b"MODEL: [1, 2\n", "x.yaml is not valid YAML: while parsing a flow sequence .* line 1"),
        (b"\x80\x81\xff", "x.yaml is not valid YAML: .*can't decode"),
        (b"\x00\x01", "x.yaml is not valid YAML"),
        (b"_BASE_: x.yaml\n", "x.yaml has a circular _BASE_: .*x.yaml -> .*x.yaml"),
        (b"_BASE_: y.yaml\n", "x.yaml has a circular _BASE_: .*x.yaml -> .*y.yaml -> .*x.yaml"),
        (b"_BASE_: [y.yaml]\n", "x.yaml has a circular _BASE_"),
        (b"_BASE_: nowhere.yaml\n", "nowhere.yaml, the _BASE_ of .*x.yaml, does not exist"),
        (b"_BASE_: " + b"y" * 300, "yyy, the _BASE_ of .*x.yaml, does not exist"),
        (b"_BASE_: ~nobody.known/y.yaml\n", "~nobody.known/y.yaml, the _BASE_ of .*x.yaml, does not exist"),
        (
            b"_BASE_: https://example.org/x.yaml\n",
            "the _BASE_ https://example.org/x.yaml is a URL, but",
        ),
        (b"_BASE_:\n", "_BASE_ is None, but must be a path"),
        (b"_BASE_: [1]\n", "_BASE_ is .1., but must be a path"),
        (b"SOLVER:\n  BASE_LT: 0.1\n", "x.yaml: there is no key SOLVER.BASE_LT; did you mean SOLVER.BASE_LR?"),
        (b"1: 2\n", "x.yaml: there is no key 1"),
        (b"SOLVER:\n  BASE_LR: fast\n", "x.yaml: SOLVER.BASE_LR is 'fast', but must be of type float, such as 0.001"),
        (b"SOLVER:\n  BASE_LR:\n", "x.yaml: SOLVER.BASE_LR is None, but must be of type float"),
        (b"SOLVER:\n  BASE_LR: {A: 1}\n", "x.yaml: there is no key SOLVER.BASE_LR.A"),
        (b"SOLVER:\n  BASE_LR: 2020-01-01\n", "x.yaml: SOLVER.BASE_LR is datetime"),
        (b"MODEL: 5\n", "x.yaml: MODEL is 5, but is a group of keys"),
        (b"MODEL:\n", "x.yaml: MODEL is None, but is a group of keys"),
        (b"VERSION: 1\n", "x.yaml: VERSION is 1, but must be 2"),
        (b"VERSION: [[[[[[1]]]]]]\n", r"x.yaml: VERSION is \[\[\[\.\.\.\]\]\], but must be 2"),
        (BOMB + b"_BASE_: *a9\n", "x.yaml is not valid YAML: it has more than 500000 values"),
        (BOMB + b"VERSION: *a9\n", "x.yaml is not valid YAML: it has more than 500000 values"),
        (b"X: " + b"[" * 5000, "x.yaml is not valid YAML: it is nested deeper than 100 levels"),
        (b"MODEL: &a {B: *a}\n", "x.yaml is not valid YAML: line 1 contains itself"),
        (b"MODEL: {DEVICE: cpu}\nMODEL: {MASK_ON: True}\n", "x.yaml is not valid YAML: .* the key 'MODEL' twice"),
        (
            b"SOLVER: {BASE_LR: " + b"9" * 5000 + b"}\n",
            "x.yaml is not valid YAML: line 1: a number has 5000 characters",
        ),
        (b"SOLVER: {STEPS: '" + b"- " * 50000 + b"1'}\n", "SOLVER.STEPS is '- - .*, but must be of type tuple"),
        (b"_BASE_: [{a: [1, 2, 3, 4, 5, 6, 7, 8]}]\n", "_BASE_ is .{'a': .*, but must be a path"),
    ],
)
def test_invalid_config_file_is_named_in_one_line(tmp_path, content, message):
    (tmp_path / "x.yaml").write_bytes(content)
    (tmp_path / "y.yaml").write_text("_BASE_: x.yaml\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_config(tmp_path / "x.yaml")
    assert "\n" not in str(error.value)


def test_error_in_base_file_names_base(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER: {STEPS: 3}\n")
    (tmp_path / "x.yaml").write_text("_BASE_: base.yaml\nSOLVER: {STEPS: [1]}\n")
    with pytest.raises(ValueError, match=r"base.yaml: SOLVER.STEPS is 3, but must be of type tuple"):
        load_config(tmp_path / "x.yaml")


def test_file_overrides_bases_and_later_base_overrides_earlier(tmp_path):
    (tmp_path / "a.yaml").write_text("SEED: 1\nSOLVER: {MAX_ITER: 10, BASE_LR: 0.5}\n")
    (tmp_path / "b.yaml").write_text("SEED: 2\nSOLVER: {MAX_ITER: 20}\n")
    (tmp_path / "x.yaml").write_text("_BASE_: [a.yaml, b.yaml]\nSEED: 3\n")
    cfg = load_config(tmp_path / "x.yaml", ["SOLVER.STEPS", "(7,)"])
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS) == (3, 20, 0.5, (7,))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.DEVICE"], "pairs of KEY and VALUE, but 'MODEL.DEVICE' has no value"),
        (["MODEL.DEVISE", "cpu"], "there is no key MODEL.DEVISE; did you mean MODEL.DEVICE?"),
        (
            ["MODEL.CENTERNET.MINE.WEIGHT", 1],
            "MINE.WEIGHT; for keys of a custom head, import its module with --import FILE",
        ),
        (
            ["MODEL.CENTERNET.BOX3.WEIGHT", 1],
            "WEIGHT; did you mean MODEL.CENTERNET.BOX3D. Otherwise, for keys",
        ),
        (["SOLVER.BASE_LR", "None"], "SOLVER.BASE_LR is 'None', but must be of type float"),
        (["TEST.FOLD_NORMS", "maybe"], "TEST.FOLD_NORMS is 'maybe', but must be True, False or 'auto'"),
        (["SOLVER.BASE_LR", "{[]: 1}"], "SOLVER.BASE_LR is '{.*, but must be of type float"),
        (["SOLVER", "{}"], "SOLVER is '{}', but is a group of keys"),
        (["SOLVER.MAX_ITER", "5", "--epochs", "3"], "--epochs after KEY VALUE pairs: put options first"),
        (["OUTPUT_DIR", "out", "--resume"], "--resume after KEY VALUE pairs: put options first"),
        (["OUTPUT_DIR", "--num-gpus=2"], "--num-gpus after KEY VALUE pairs: put options first"),
    ],
)
def test_invalid_override_names_key(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config(model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml"), overrides)


def test_base_falls_back_to_project_configs(tmp_path):
    (tmp_path / "x.yaml").write_text("_BASE_: Base-HG-small-keypoints.yaml\nSEED: 3\n")
    cfg = load_config(tmp_path / "x.yaml")
    assert (cfg.SEED, cfg.MODEL.BACKBONE.NAME) == (3, "build_hourglass_backbone")
    (tmp_path / "Base-HG-small-keypoints.yaml").write_text("SEED: 4\nSOLVER: {MAX_ITER: 7}\n")
    assert load_config(tmp_path / "x.yaml").SOLVER.MAX_ITER == 7


def test_invalid_device_is_named(monkeypatch):
    with pytest.raises(ValueError, match=r"MODEL.DEVICE is 'gpu', which is not a device"):
        check_device("gpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check_device("cuda:1")
    with pytest.raises(ValueError, match=r"MODEL.DEVICE is 'cuda:2', but only 2 GPUs are visible"):
        check_device("cuda:2")


def test_unknown_choice_names_key():
    with pytest.raises(ValueError, match="A.B is 'c', known: d, e"):
        check_choice("A.B", "c", ("d", "e"))


def register_head(monkeypatch, name, **attributes):
    """Register a head, for one test, whose property has the given attributes."""
    prop = type(f"{name}Property", (Property,), {"name": name, **attributes})
    head = type(name, (BoxHead,), {"property_type": prop})
    monkeypatch.setattr(POINT_HEAD_REGISTRY, "_obj_map", {**POINT_HEAD_REGISTRY._obj_map, name: head})
    return head


def add_weight(cls, node):
    node.WEIGHT = 0.5


def test_registered_property_adds_config_node(monkeypatch):
    head = register_head(monkeypatch, "Tilt", node="TILT", add_config=classmethod(add_weight))
    # Two heads may share a property.
    monkeypatch.setattr(POINT_HEAD_REGISTRY, "_obj_map", {**POINT_HEAD_REGISTRY._obj_map, "Second": head})
    zoo = model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml")
    assert load_config(zoo).MODEL.CENTERNET.TILT == {"WEIGHT": 0.5}
    assert load_config(zoo, ["MODEL.CENTERNET.TILT.WEIGHT", 2.0]).MODEL.CENTERNET.TILT.WEIGHT == 2


@pytest.mark.parametrize("node", ["TILT", "KEYPOINTS", "HEAD_CONV"])
def test_duplicate_property_node_raises(monkeypatch, node):
    register_head(monkeypatch, "Tilt", node="TILT", add_config=classmethod(add_weight))
    register_head(monkeypatch, "Slope", node=node)
    with pytest.raises(ValueError, match=f"SlopeProperty: MODEL.CENTERNET.{node} already exists; set `node`"):
        add_centernet_config(get_cfg())


@pytest.mark.parametrize("key", ["IMPORT", "IMPORTS", "MODEL.IMPORTS", "MODEL.CENTERNET.IMPORTS", "DATASETS.IMPORTS"])
def test_config_cannot_import_code(tmp_path, key):
    """Only the command line can import code, because configs may come from untrusted sources."""
    source = tmp_path / "imported_by_a_config.py"
    source.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    content = [str(source)]
    for part in reversed(key.split(".")):
        content = {part: content}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=f"there is no key {key}"):
        load_config(tmp_path / "x.yaml")
    (tmp_path / "y.yaml").write_text(f"_BASE_: {model_zoo.get_config_file('Shapes/centernet_R_18_shapes.yaml')}\n")
    cfg = load_config(tmp_path / "y.yaml", ["MODEL.CENTERNET.HEADS", ["CenterHead", str(source)]])
    with pytest.raises(
        KeyError, match="MODEL.CENTERNET.HEADS: '.*imported_by_a_config.py' is not registered in POINT_HEAD"
    ):
        CenterNet(cfg)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("available", [True, False])
def test_default_device_is_gpu_if_available(monkeypatch, available):
    monkeypatch.setattr("torch.cuda.is_available", lambda: available)
    for name in model_zoo.available():
        assert load_config(name).MODEL.DEVICE == ("cuda" if available else "cpu"), name
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cuda:1"
    add_centernet_config(cfg)
    assert cfg.MODEL.DEVICE == "cuda:1"


def test_config_without_centernet_keys_raises():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "CenterNet"
    cfg.MODEL.WEIGHTS = __file__
    for use in (build_model, Predictor.from_config, CenterNetDatasetMapper, lambda cfg: build_optimizer(cfg, None)):
        with pytest.raises(ValueError, match=r"no CenterNet keys: call centernet_d2.add_centernet_config\(cfg\)"):
            use(cfg)
