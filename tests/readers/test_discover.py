import json
import shutil

import pytest

from centernet_d2.readers import discover_dataset, discover_voc_lists
from support.folders import (
    CLASSES,
    TRUTH,
    WRITERS,
    annotations,
    coco_content,
    write_coco_folders,
    write_image,
    write_labelme,
    write_voc,
    write_yolo,
)

LAYOUT = {"voc": "Pascal VOC", "yolo": "YOLO", "coco": "COCO", "labelme": "labelme", "csv": "CSV"}


def rows(splits):
    """Split -> image -> (class, box) as sorted rows."""
    images = [(split, name, things) for split, part in splits.items() for name, things in part.items()]
    return sorted((split, name, label, *box) for split, name, things in images for label, box in things)


@pytest.fixture
def voc(tmp_path):
    return write_voc(tmp_path / "voc")


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_labels_are_read_from_every_layout(tmp_path, kind):
    found = discover_dataset(WRITERS[kind](tmp_path / kind))
    assert found.layout == LAYOUT[kind]
    assert set(found.class_names) == set(CLASSES)
    assert {name: set(images) for name, images in annotations(found).items()} == {n: set(v) for n, v in TRUTH.items()}
    wanted, read = rows(TRUTH), rows(annotations(found))
    assert [row[:3] for row in read] == [row[:3] for row in wanted]
    assert [list(row[3:]) for row in read] == [pytest.approx(list(row[3:]), abs=1e-3) for row in wanted]
    assert all((i.width, i.height) == (64, 48) for split in found.splits.values() for i in split.images)
    assert "2 images without labels, kept as background" in " ".join(found.report.lines())


def test_blood_cells_are_found_with_the_published_counts(shared):
    found = discover_dataset(shared / "data" / "bccd")
    counts = {name: (len(split.images), split.num_objects) for name, split in found.splits.items()}
    assert counts == {
        "train": (205, 2382 + 214 + 209 - 1),
        "val": (87, 968 + 87 + 83 - 1),
        "test": (58, 665 + 57 + 60),
    }
    assert found.report.counts == {"boxes without area, left out": 2}


@pytest.mark.parametrize("kind", WRITERS)
def test_blood_cells_are_the_same_in_every_layout(shared, tmp_path, kind):
    truth = annotations(discover_dataset(shared / "data" / "bccd"))
    found = discover_dataset(WRITERS[kind](tmp_path / kind, truth, size=(640, 480)))
    read = rows(annotations(found))
    assert len(read) == 2804 + 1137 + 782
    # Boxes are whole numbers; YOLO's decimals miss them by less than a thousandth.
    assert max(abs(value - round(value)) for row in read for value in row[3:]) < 1e-3
    assert sorted((*row[:3], *map(round, row[3:])) for row in read) == rows(truth)


def test_a_coco_folder_without_splits_is_split(shared):
    found = discover_dataset(shared / "data" / "coco128")
    assert (found.layout, len(found.class_names), found.class_ids[-1]) == ("COCO", 80, 90)
    assert sum(len(split.images) for split in found.splits.values()) == 128
    assert sum(split.num_objects for split in found.splits.values()) == 939
    assert found.report.counts["classes without objects"] == 9
    assert "drawn for val (seed 0)" in found.split_rule


@pytest.mark.parametrize(
    ("name", "images", "keypoints", "pairs"), [("keypoints_mouse", (72, 22), 4, 1), ("keypoints_coco", (75, 25), 17, 8)]
)
def test_keypoints_and_their_pairs_are_found(shared, name, images, keypoints, pairs):
    found = discover_dataset(shared / "data" / name)
    assert tuple(len(split.images) for split in found.splits.values()) == images
    assert (len(found.keypoints.names), len(found.keypoints.flip_pairs)) == (keypoints, pairs)
    assert found.keypoints.skeleton


def test_kitti_is_found_by_the_lists_whose_frames_are_here(shared):
    found = discover_dataset(shared / "data" / "kitti_sample")
    lists = {name: (split.kitti_list, len(split.images)) for name, split in found.splits.items()}
    assert lists == {"train": ("sample_train", 57), "val": ("sample_val", 23)}
    assert found.splits["train"].num_objects == 188 + 24 + 9


def test_an_unknown_layout_says_what_was_looked_for_and_found(tmp_path):
    write_image(tmp_path / "pictures" / "a.jpg")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(ValueError, match="no layout that is known") as error:
        discover_dataset(tmp_path)
    message = str(error.value)
    for layout in (*LAYOUT.values(), "KITTI"):
        assert f"{layout}: " in message
    assert "1 .jpg" in message
    assert "pictures" in message
    assert "labels.json is not a JSON file" in message


def test_an_empty_folder_is_unknown(tmp_path):
    with pytest.raises(ValueError, match="Found: no files"):
        discover_dataset(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"), [("gone", "gone do not exist"), ("https://example.org/data.zip", "is a URL; fetch the data")]
)
def test_what_is_not_here_is_named(path, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        discover_dataset(path)


@pytest.mark.parametrize("name", ["a.xml", "a.zip"])
def test_a_file_that_is_no_data_set_is_named(tmp_path, name):
    (tmp_path / name).write_text("<annotation/>")
    with pytest.raises(ValueError, match=f"{name} alone is no data set"):
        discover_dataset(tmp_path / name)


def test_layouts_that_disagree_are_refused(voc):
    things = {name: objects[1:] for name, objects in TRUTH["train"].items()}
    (voc / "train.json").write_text(json.dumps(coco_content(things)))
    with pytest.raises(ValueError, match=r"two layouts that disagree, Pascal VOC and COCO: .* objects"):
        discover_dataset(voc)
    assert discover_dataset(voc, layout="voc").layout == "Pascal VOC"


def test_layouts_that_agree_are_one_and_the_one_with_splits_is_used(voc):
    every = {name: rows for images in TRUTH.values() for name, rows in images.items()}
    (voc / "all.json").write_text(json.dumps(coco_content(every)))
    found = discover_dataset(voc)
    assert found.layout == "Pascal VOC"
    assert len(found.splits["train"].images) == 4
    assert "COCO labels are there too, and say the same as Pascal VOC" in found.report.lines()


@pytest.mark.parametrize("write", WRITERS.values())
def test_an_image_in_train_and_val_is_refused(tmp_path, write):
    truth = {"train": {**TRUTH["train"], "e": TRUTH["val"]["e"]}, "val": TRUTH["val"]}
    with pytest.raises(ValueError, match=r"in train and in val: .*e\.jpg.*one split"):
        discover_dataset(write(tmp_path, truth))


@pytest.mark.parametrize("write", WRITERS.values())
def test_an_empty_split_is_refused(tmp_path, write):
    with pytest.raises(ValueError, match="val.*is empty"):
        discover_dataset(write(tmp_path, {"train": TRUTH["train"], "val": {}}))


def test_a_split_without_objects_is_refused_with_the_reasons(tmp_path):
    truth = {"train": TRUTH["train"], "val": {"e": [("RBC", (90, 90, 95, 95))]}}
    with pytest.raises(
        ValueError, match=r"val .*1 images, no objects\n(.*\n)*.*boxes outside their image, left out: e\.xml"
    ):
        discover_dataset(write_voc(tmp_path, truth))


def test_a_test_split_without_labels_is_left_out(tmp_path):
    found = discover_dataset(write_labelme(tmp_path, {**TRUTH, "test": {"g": [], "h": []}}))
    assert set(found.splits) == {"train", "val"}
    assert "test is left out: not one of its 2 images has labels" in found.report.lines()


def test_val_comes_from_another_place(tmp_path):
    one = write_coco_folders(tmp_path / "one", {"train": TRUTH["train"]})
    other = write_yolo(tmp_path / "other", {"train": {"g": [("WBC", (1, 1, 9, 9))]}, "val": TRUTH["val"]})
    found = discover_dataset(one / "train" / "_annotations.coco.json", val=other)
    assert {name: len(split.images) for name, split in found.splits.items()} == {"train": 4, "val": 2}
    assert found.splits["val"].root == other
    assert f"of {other}, train is not used" in found.report.lines()


def test_classes_of_val_are_added(tmp_path):
    one = write_labelme(tmp_path / "one", {"x": {"a": [("cat", (1, 1, 9, 9))]}})
    other = write_labelme(tmp_path / "two", {"x": {"b": [("cat", (1, 1, 9, 9)), ("ant", (1, 1, 9, 9))]}})
    found = discover_dataset(one, val=other)
    assert (found.class_names, found.class_ids) == (("cat", "ant"), (1, 2))
    assert found.report.examples["classes without objects in train"] == ["ant"]


def test_keypoints_of_val_must_be_those_of_train(shared):
    data = shared / "data"
    with pytest.raises(ValueError, match="the keypoints of .*keypoints_mouse are snout"):
        discover_dataset(data / "keypoints_mouse", val=data / "keypoints_coco")


def test_classes_can_be_chosen_and_ordered(voc):
    found = discover_dataset(voc, classes=["WBC", "Platelets"])
    assert (found.class_names, found.class_ids) == (("WBC", "Platelets"), (1, 2))
    assert found.report.counts["objects of class RBC, left out"] == 4
    assert found.splits["train"].num_objects == 3


@pytest.mark.parametrize("find", [discover_dataset, discover_voc_lists])
def test_a_class_in_the_wrong_case_is_an_error(voc, find):
    with pytest.raises(ValueError, match="no class rbc in .*, only Platelets, RBC, WBC; do you mean RBC?"):
        find(voc, classes=["rbc"])


def test_lists_are_splits_of_their_own(voc):
    found = discover_voc_lists(voc)
    assert {name: len(split.images) for name, split in found.splits.items()} == {"train": 4, "trainval": 6, "val": 2}
    assert found.splits["train"].root == voc / "JPEGImages"


def test_lists_need_a_voc_folder(tmp_path):
    with pytest.raises(ValueError, match="no layout that is known"):
        discover_voc_lists(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        discover_voc_lists(tmp_path / "gone")


def test_results_of_the_project_are_no_data(tmp_path):
    from centernet_d2.readers import write_coco

    root = write_voc(tmp_path)
    write_coco(discover_dataset(root), root / "output" / "data")
    shutil.copy(root / "output" / "data" / "val.json", root / "copied.json")
    assert discover_dataset(root).layout == "Pascal VOC"
