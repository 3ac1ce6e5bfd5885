from dataclasses import replace
from pathlib import Path

import pytest

from centernet_d2.autoconfig.task import task_of
from centernet_d2.readers import DiscoveredDataset, Keypoints, LabeledImage, LabeledObject, Report, Split


def dataset(keypoints=None, points=None, layout="COCO", root="/data/mine"):
    obj = LabeledObject("a", (0, 0, 10, 10), keypoints=points)
    splits = {
        name: Split(name, (LabeledImage(Path(root, f"{name}.jpg"), (obj,), 20, 10),), Path(root))
        for name in ("train", "val", "test")
    }
    return DiscoveredDataset(layout, Path(root), splits, ("a", "b"), (1, 2), keypoints, "splits: as named", Report())


FILES = {name: Path("out", "data", f"{name}.json") for name in ("train", "val", "test")}


def test_paths_are_absolute_and_all_splits_except_train_are_evaluated():
    task = task_of(dataset(), FILES, "mine")
    names = [entry[0] for entry in task.keys["DATASETS.REGISTER"]]
    assert names == ["mine_train", "mine_val", "mine_test"]
    assert all(Path(part).is_absolute() for entry in task.keys["DATASETS.REGISTER"] for part in entry[1:])
    assert task.keys["DATASETS.TRAIN"] == ("mine_train",)
    assert task.keys["DATASETS.TEST"] == ("mine_val", "mine_test")
    assert task.keys["DATASETS.VAL"] == ("mine_val",)
    assert task.keys["MODEL.CENTERNET.NUM_CLASSES"] == 2
    assert task.keys["MODEL.CENTERNET.HEADS"] == ["CenterHead", "BoxHead"]
    assert task.keys_for_width(0.5) == {}


def test_keypoint_keys():
    keypoints = Keypoints(("nose", "left_ear", "right_ear"), (("left_ear", "right_ear"),), (("nose", "left_ear"),))
    keys = task_of(dataset(keypoints, (1, 1, 2, 0, 0, 0, 0, 0, 0)), FILES, "mine").keys
    node = "MODEL.CENTERNET.KEYPOINTS."
    assert keys["MODEL.CENTERNET.HEADS"] == ["CenterHead", "BoxHead", "KeypointHead"]
    assert keys["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"] == 3
    assert keys[node + "NAMES"] == ["nose", "left_ear", "right_ear"]
    assert keys[node + "FLIP_MAP"] == [["left_ear", "right_ear"]]
    assert keys[node + "SKELETON"] == [["nose", "left_ear"]]
    assert keys["TEST.KEYPOINT_OKS_SIGMAS"] == [0.05] * 3
    assert "INPUT.RANDOM_FLIP" not in keys


def test_cocos_17_keypoints_keep_cocos_tolerances():
    parts = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for form in ("{}_{}", "{} {}", "{0[0]}_{1}"):
        names = ("nose", *(form.format(side, part) for part in parts for side in ("left", "right")))
        task = task_of(dataset(Keypoints(names), (1, 1, 2) * 17), FILES, "mine")
        assert task.keys["TEST.KEYPOINT_OKS_SIGMAS"] == []
        assert task.notes[-1] == "OKS sigmas: COCO's (TEST.KEYPOINT_OKS_SIGMAS)"


@pytest.mark.parametrize("names", [[f"left_{i}" for i in range(17)], ["Nose", "L_Eye", "R_Eye"], ["keypoint_1"] * 17])
def test_other_keypoints_get_the_same_sigma(names):
    task = task_of(dataset(Keypoints(tuple(names)), (1, 1, 2) * len(names)), FILES, "mine")
    assert task.keys["TEST.KEYPOINT_OKS_SIGMAS"] == [0.05] * len(names)
    assert task.notes[-1].startswith("OKS sigmas: 0.05 each")


def test_crowd_regions_are_not_learned_as_objects():
    data = dataset()
    assert "MODEL.CENTERNET.QUIRKS.CROWD" not in task_of(data, FILES, "mine").keys
    image = data.splits["train"].images[0]
    crowd = replace(image, objects=(replace(image.objects[0], crowd=True),))
    data.splits["train"] = replace(data.splits["train"], images=(crowd,))
    task = task_of(data, FILES, "mine")
    assert task.keys["MODEL.CENTERNET.QUIRKS.CROWD"] == "ignore"
    assert task.notes == ("1 crowd regions are not learned as objects (MODEL.CENTERNET.QUIRKS.CROWD)",)


def test_no_flipping_without_left_and_right_keypoints():
    task = task_of(dataset(Keypoints(("keypoint_1", "keypoint_2")), (1, 1, 2) * 2), FILES, "mine")
    assert task.keys["INPUT.RANDOM_FLIP"] == "none"
    assert "not flipped" in task.notes[0]


def test_unlabeled_keypoints_are_not_learned():
    task = task_of(dataset(Keypoints(("a", "b")), (0,) * 6), FILES, "mine")
    assert task.keys["MODEL.CENTERNET.HEADS"] == ["CenterHead", "BoxHead"]
    assert task.notes == ("train has no labeled keypoints: keypoints are not learned",)


def test_kitti_has_image_lists_and_a_focal_length(tmp_path):
    folder = tmp_path / "training" / "calib"
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("P2: 700 0 600 0 0 700 180 0 0 0 1 0\n")
    data = dataset(layout="KITTI", root=tmp_path / "training" / "image_2")
    files = {name: path.with_suffix(".txt") for name, path in FILES.items()}
    data.splits["val"] = Split("val", data.splits["val"].images, tmp_path, kitti_list="my_val")
    task = task_of(data, files, "mine")
    entries = {entry[0]: entry[2] for entry in task.keys["DATASETS.REGISTER_KITTI"]}
    assert entries["mine_val"] == "my_val"
    assert entries["mine_train"] == str(Path("out/data/train").absolute())
    assert task.keys["DATASETS.REGISTER"] == []
    (width_keys,) = task.keys_for_width(0.5).items()
    assert width_keys == ("MODEL.CENTERNET.BOX3D.REFERENCE_FOCAL", pytest.approx(350))
