import pytest

from centernet_d2 import load_config, model_zoo
from centernet_d2.config import check_choice
from centernet_d2.modeling import CenterNet
from conftest import ROOT


def test_the_model_zoo_knows_its_configs():
    names = model_zoo.available()
    assert "COCO-Detection/centernet_R_18_1x.yaml" in names
    assert not [name for name in names if "Base" in name]
    with pytest.raises(FileNotFoundError, match=r"there is no config 'COCO-Detection/x.yaml'; the model zoo has:\n  "):
        model_zoo.get_config_file("COCO-Detection/x.yaml")


@pytest.mark.parametrize("name", model_zoo.available())
def test_every_config_builds_a_model_on_the_cpu(name):
    cfg = load_config(model_zoo.get_config_file(name), ["MODEL.DEVICE", "cpu"])
    CenterNet(cfg)
    assert cfg.SOLVER.OPTIMIZER == "Adam"
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
def test_schedules_equal_the_epochs_of_the_original(name, images, batch, rate, epochs, drops):
    solver = load_config(model_zoo.get_config_file(name)).SOLVER
    per_epoch = images // batch
    assert (solver.IMS_PER_BATCH, solver.REFERENCE_IMS_PER_BATCH, solver.BASE_LR) == (batch, batch, rate)
    assert solver.MAX_ITER == epochs * per_epoch
    assert tuple(solver.STEPS) == tuple(drop * per_epoch for drop in drops)


@pytest.mark.parametrize(("split", "images"), [("3dop", 3712), ("subcnn", 3682)])
def test_the_recipe_for_3d_boxes_is_the_original_one(split, images):
    cfg = load_config(ROOT / "configs" / "KITTI-3D" / f"centernet_3d_DLA_34_{split}.yaml")
    per_epoch = images // 16
    solver, node = cfg.SOLVER, cfg.MODEL.CENTERNET
    assert (solver.IMS_PER_BATCH, solver.REFERENCE_IMS_PER_BATCH, solver.BASE_LR) == (16, 16, 1.25e-4)
    assert (solver.MAX_ITER, list(solver.STEPS)) == (70 * per_epoch, [45 * per_epoch, 60 * per_epoch])
    assert (node.HEAD_CONV, node.LOSS_SLOTS, node.RADIUS_ROUND_UP, node.SIZE_AS_POINT) == (256, 50, False, True)
    assert (node.IGNORE_REGIONS, node.TEST_RESOLUTION, node.BOX3D.REFERENCE_FOCAL) == ("center", "fixed_width", 0)
    assert (list(cfg.INPUT.AFFINE.SIZE), cfg.INPUT.AFFINE.MODE, cfg.INPUT.RANDOM_FLIP) == ([384, 1280], "kitti", "none")
    assert cfg.DATASETS.REGISTER_KITTI[0][1:] == ["kitti", f"{split}_train"]


def test_a_missing_config_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"config file nowhere.yaml does not exist"):
        load_config("nowhere.yaml")


def test_config_files_are_never_executed(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(
        f"MODEL: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{tmp_path}/x']]"
    )
    with pytest.raises(Exception, match="could not determine a constructor"):
        load_config(path)
    assert not (tmp_path / "x").exists()


def test_an_unknown_choice_names_the_key():
    with pytest.raises(ValueError, match="A.B is 'c', known: d, e"):
        check_choice("A.B", "c", ("d", "e"))
