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
    """Convert split -> image -> (class, box) to sorted rows."""
    images = [(split, name, objects) for split, part in splits.items() for name, objects in part.items()]
    return sorted((split, name, label, *box) for split, name, objects in images for label, box in objects)


@pytest.fixture
def voc(tmp_path):
    return write_voc(tmp_path / "voc")


@pytest.mark.parametrize("kind", WRITERS)
def test_all_layouts_give_the_same_labels(tmp_path, kind):
    dataset = discover_dataset(WRITERS[kind](tmp_path / kind))
    assert dataset.layout == LAYOUT[kind]
    assert set(dataset.class_names) == set(CLASSES)
    assert {name: set(images) for name, images in annotations(dataset).items()} == {n: set(v) for n, v in TRUTH.items()}
    expected, read = rows(TRUTH), rows(annotations(dataset))
    assert [row[:3] for row in read] == [row[:3] for row in expected]
    assert [list(row[3:]) for row in read] == [pytest.approx(list(row[3:]), abs=1e-3) for row in expected]
    assert all((i.width, i.height) == (64, 48) for split in dataset.splits.values() for i in split.images)
    assert "2 images without labels, kept as background" in " ".join(dataset.report.lines())


def test_bccd_has_published_counts(shared):
    dataset = discover_dataset(shared / "data" / "bccd")
    counts = {name: (len(split.images), split.num_objects) for name, split in dataset.splits.items()}
    assert counts == {
        "train": (205, 2382 + 214 + 209 - 1),
        "val": (87, 968 + 87 + 83 - 1),
        "test": (58, 665 + 57 + 60),
    }
    assert dataset.report.counts == {"boxes without area, skipped": 2}


@pytest.mark.parametrize("kind", WRITERS)
def test_bccd_is_equal_in_all_layouts(shared, tmp_path, kind):
    truth = annotations(discover_dataset(shared / "data" / "bccd"))
    dataset = discover_dataset(WRITERS[kind](tmp_path / kind, truth, size=(640, 480)))
    read = rows(annotations(dataset))
    assert len(read) == 2804 + 1137 + 782
    # Boxes are integers; the decimals of YOLO differ by less than 0.001.
    assert max(abs(value - round(value)) for row in read for value in row[3:]) < 1e-3
    assert sorted((*row[:3], *map(round, row[3:])) for row in read) == rows(truth)


def test_coco_folder_without_splits_is_split(shared):
    dataset = discover_dataset(shared / "data" / "coco128")
    assert (dataset.layout, len(dataset.class_names), dataset.class_ids[-1]) == ("COCO", 80, 90)
    assert sum(len(split.images) for split in dataset.splits.values()) == 128
    assert sum(split.num_objects for split in dataset.splits.values()) == 939
    assert dataset.report.counts["classes without objects"] == 9
    assert "sampled for val (seed 0)" in dataset.split_rule


@pytest.mark.parametrize(
    ("name", "images", "keypoints", "pairs"), [("keypoints_mouse", (72, 22), 4, 1), ("keypoints_coco", (75, 25), 17, 8)]
)
def test_keypoints_and_flip_pairs_are_detected(shared, name, images, keypoints, pairs):
    dataset = discover_dataset(shared / "data" / name)
    assert tuple(len(split.images) for split in dataset.splits.values()) == images
    assert (len(dataset.keypoints.names), len(dataset.keypoints.flip_pairs)) == (keypoints, pairs)
    assert dataset.keypoints.skeleton


def test_kitti_uses_lists_with_available_frames(shared):
    dataset = discover_dataset(shared / "data" / "kitti_sample")
    lists = {name: (split.kitti_list, len(split.images)) for name, split in dataset.splits.items()}
    assert lists == {"train": ("sample_train", 57), "val": ("sample_val", 23)}
    assert dataset.splits["train"].num_objects == 188 + 24 + 9


def test_unknown_layout_error_lists_layouts_and_content(tmp_path):
    write_image(tmp_path / "images" / "a.jpg")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(ValueError, match="no supported layout") as error:
        discover_dataset(tmp_path)
    message = str(error.value)
    for layout in (*LAYOUT.values(), "KITTI"):
        assert f"{layout}: " in message
    assert "1 .jpg" in message
    assert "images" in message
    assert "labels.json is not a valid JSON file" in message


def test_empty_folder_raises(tmp_path):
    with pytest.raises(ValueError, match="The folder contains: no files"):
        discover_dataset(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [("gone", "gone does not exist"), ("https://example.org/data.zip", "is a URL; download the dataset")],
)
def test_missing_paths_and_urls_raise(path, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        discover_dataset(path)


@pytest.mark.parametrize("name", ["a.xml", "a.zip"])
def test_unsupported_file_raises(tmp_path, name):
    (tmp_path / name).write_text("<annotation/>")
    with pytest.raises(ValueError, match=f"{name} is not a dataset"):
        discover_dataset(tmp_path / name)


def test_contradictory_layouts_raise(voc):
    shortened = {name: objects[1:] for name, objects in TRUTH["train"].items()}
    (voc / "train.json").write_text(json.dumps(coco_content(shortened)))
    with pytest.raises(ValueError, match=r"two contradictory layouts, Pascal VOC and COCO: .* objects"):
        discover_dataset(voc)
    assert discover_dataset(voc, layout="voc").layout == "Pascal VOC"


def test_layout_with_splits_is_preferred_among_equal_layouts(voc):
    every = {name: rows for images in TRUTH.values() for name, rows in images.items()}
    (voc / "all.json").write_text(json.dumps(coco_content(every)))
    dataset = discover_dataset(voc)
    assert dataset.layout == "Pascal VOC"
    assert len(dataset.splits["train"].images) == 4
    assert "Pascal VOC labels are used; the COCO labels are the same" in dataset.report.lines()


@pytest.mark.parametrize("write", WRITERS.values())
def test_image_in_train_and_val_raises(tmp_path, write):
    truth = {"train": {**TRUTH["train"], "e": TRUTH["val"]["e"]}, "val": TRUTH["val"]}
    with pytest.raises(ValueError, match=r"images in both train and val: .*e\.jpg.*one split"):
        discover_dataset(write(tmp_path, truth))


@pytest.mark.parametrize("write", WRITERS.values())
def test_empty_split_raises(tmp_path, write):
    with pytest.raises(ValueError, match="val.*is empty"):
        discover_dataset(write(tmp_path, {"train": TRUTH["train"], "val": {}}))


def test_split_without_objects_raises_with_report(tmp_path):
    truth = {"train": TRUTH["train"], "val": {"e": [("RBC", (90, 90, 95, 95))]}}
    with pytest.raises(
        ValueError, match=r"val .*1 images, no objects\n(.*\n)*.*boxes outside their image, skipped: e\.xml"
    ):
        discover_dataset(write_voc(tmp_path, truth))


def test_test_split_without_labels_is_skipped(tmp_path):
    dataset = discover_dataset(write_labelme(tmp_path, {**TRUTH, "test": {"g": [], "h": []}}))
    assert set(dataset.splits) == {"train", "val"}
    assert "test is skipped: none of its 2 images has labels" in dataset.report.lines()


def test_val_from_another_dataset(tmp_path):
    one = write_coco_folders(tmp_path / "one", {"train": TRUTH["train"]})
    other = write_yolo(tmp_path / "other", {"train": {"g": [("WBC", (1, 1, 9, 9))]}, "val": TRUTH["val"]})
    dataset = discover_dataset(one / "train" / "_annotations.coco.json", val=other)
    assert {name: len(split.images) for name, split in dataset.splits.items()} == {"train": 4, "val": 2}
    assert dataset.splits["val"].root == other
    assert f"unused splits of {other}: train" in dataset.report.lines()


def test_classes_of_val_are_added(tmp_path):
    one = write_labelme(tmp_path / "one", {"x": {"a": [("cat", (1, 1, 9, 9))]}})
    other = write_labelme(tmp_path / "two", {"x": {"b": [("cat", (1, 1, 9, 9)), ("ant", (1, 1, 9, 9))]}})
    dataset = discover_dataset(one, val=other)
    assert (dataset.class_names, dataset.class_ids) == (("cat", "ant"), (1, 2))
    assert dataset.report.examples["classes without objects in train"] == ["ant"]


def test_train_and_val_keypoints_must_match(shared):
    data = shared / "data"
    with pytest.raises(ValueError, match="the keypoints of .*keypoints_mouse are snout"):
        discover_dataset(data / "keypoints_mouse", val=data / "keypoints_coco")


def test_classes_can_be_selected_and_ordered(voc):
    dataset = discover_dataset(voc, classes=["WBC", "Platelets"])
    assert (dataset.class_names, dataset.class_ids) == (("WBC", "Platelets"), (1, 2))
    assert dataset.report.counts["objects of class RBC, skipped"] == 4
    assert dataset.splits["train"].num_objects == 3


@pytest.mark.parametrize("find", [discover_dataset, discover_voc_lists])
def test_class_in_wrong_case_raises_with_hint(voc, find):
    with pytest.raises(ValueError, match="has no class rbc, only Platelets, RBC, WBC; did you mean RBC[?]"):
        find(voc, classes=["rbc"])


def test_each_list_is_one_split(voc):
    dataset = discover_voc_lists(voc)
    assert {name: len(split.images) for name, split in dataset.splits.items()} == {"train": 4, "trainval": 6, "val": 2}
    assert dataset.splits["train"].root == voc / "JPEGImages"


def test_voc_lists_require_a_voc_folder(tmp_path):
    with pytest.raises(ValueError, match="no supported layout"):
        discover_voc_lists(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        discover_voc_lists(tmp_path / "gone")


def test_files_written_by_this_package_are_ignored(tmp_path):
    from centernet_d2.readers import write_coco

    root = write_voc(tmp_path)
    write_coco(discover_dataset(root), root / "output" / "data")
    shutil.copy(root / "output" / "data" / "val.json", root / "copied.json")
    assert discover_dataset(root).layout == "Pascal VOC"


def test_names_are_printed_with_control_characters_escaped(tmp_path):
    root = write_yolo(tmp_path)
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text.replace("'RBC'", r'"\e]0;title\a\e[31mred\n\u202e"'))
    write_image(root / "train" / "images" / "\x1b]0;title\x07.jpg")
    lines = discover_dataset(root).lines()
    assert r"3 classes: \x1b]0;title\x07\x1b[31mred\n\u202e, WBC, Platelets" in lines
    assert any(r"images without labels, kept as background: train/images/\x1b]0;title\x07.jpg" in one for one in lines)
    assert "\x1b" not in "".join(lines)
