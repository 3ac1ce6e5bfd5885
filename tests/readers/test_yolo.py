import shutil

import pytest

from centernet_d2.readers import discover_dataset
from support.folders import CLASSES, TRUTH, annotations, write_image, write_yolo, yolo_row

ROW = "0 0.5 0.5 0.5 0.5"
HALF = (16, 12, 48, 36)


@pytest.fixture
def root(tmp_path):
    return write_yolo(tmp_path / "yolo")


def describe(root, text):
    (root / "data.yaml").write_text(text)


def write_bare(root, rows, names=None, images="images", labels="labels"):
    """Images and label files without data.yaml; `rows` per image."""
    for name, text in rows.items():
        write_image(root / images / f"{name}.jpg")
        (root / labels / f"{name}.txt").parent.mkdir(parents=True, exist_ok=True)
        (root / labels / f"{name}.txt").write_text(text)
    if names:
        (root / "classes.txt").write_text("\n".join(names))
    return root


def all_objects(found):
    return {i.path.stem: list(i.objects) for split in found.splits.values() for i in split.images}


def test_one_of_everything_wrong_is_counted(root):
    labels = root / "train" / "labels"
    rows = [
        ROW,
        "0 nan 0.5 0.5 0.5",
        "0 0.5 0.5 0 0.5",
        "0 3 3 0.5 0.5",
        "0 0.9 0.9 0.5 0.5",
        "0 0.5 0.5 0.5",
        "x 0.5 0.5 0.5 0.5",
        "7 0.5 0.5 0.5 0.5",
        "-1 0.5 0.5 0.5 0.5",
        "0.5 0.5 0.5 0.5 0.5",
        "0 " + "0.1 " * 7,
    ]
    (labels / "a.txt").write_text("\n".join(rows))
    (labels / "lost.txt").write_text(ROW)
    (labels / "odd.txt").write_bytes(b"\xff\xfe0")
    write_image(root / "train" / "images" / "odd.jpg")
    write_image(root / "train" / "images" / "bare.jpg")
    (root / "train" / "images" / "bad.jpg").write_text("no image")
    (labels / "bad.txt").write_text(ROW)
    found = discover_dataset(root)
    assert found.report.counts == {
        "labels without an image": 1,
        "broken rows, left out": 6,
        "broken label files, left out": 1,
        "boxes that are not finite, left out": 1,
        "boxes without area, left out": 1,
        "boxes outside their image, left out": 1,
        "boxes partly outside their image, cut": 1,
        "images that cannot be read, left out": 1,
        "images without labels, kept as background": 4,  # c, f, odd and bare
    }
    assert found.report.examples["broken rows, left out"] == [
        "train/labels/a.txt, line 6 (4 numbers are no box and no polygon; keypoints need kpt_shape in data.yaml)",
        "train/labels/a.txt, line 7 (not numbers)",
        "train/labels/a.txt, line 8 (class 7 of 3)",
    ]
    assert found.class_names == CLASSES


@pytest.mark.parametrize(
    "train",
    ["train/images", "../train/images", "./train/images", ["train/images"], "train/list.txt", "..\\train\\images"],
)
def test_paths_are_read_in_every_spelling(root, train):
    (root / "train" / "list.txt").write_text("".join(f"./images/{name}.jpg\r\n" for name in TRUTH["train"]))
    describe(root, f"train: {train}\nval: valid/images\nnames:\n  0: RBC\n  1: WBC\n  2: Platelets\n")
    found = discover_dataset(root)
    assert set(annotations(found)["train"]) == set(TRUTH["train"])
    assert found.class_names == CLASSES


def test_a_yaml_elsewhere_names_its_folder(root, tmp_path):
    (tmp_path / "my.yaml").write_text(f"path: {root}\ntrain: train/images\nval: valid/images\nnames: {list(CLASSES)}\n")
    found = discover_dataset(tmp_path / "my.yaml")
    assert found.splits["train"].root == root
    assert set(annotations(found)["train"]) == set(TRUTH["train"])


def test_relative_paths_do_not_leave_the_folder(root, tmp_path):
    write_yolo(tmp_path / "other")
    describe(root, "train: ../other/train/images\nval: valid/images\nnames: [RBC, WBC, Platelets]\n")
    with pytest.raises(ValueError, match=r"train is \.\./other/train/images, which does not exist in .*yolo"):
        discover_dataset(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a, b\n", "data.yaml is not a YAML file"),
        ("train: https://example.org/a\nnames: [a]\n", "train is the URL https://example.org/a"),
        ("train: gone\nnames: [a]\n", "train is gone, which does not exist"),
        ("train: train/images\nnames: a\n", "names is not a list of classes"),
        ("train: train/images\nnames: [a, a]\n", "two classes share a name: a, a"),
        ("train: train/images\nnames: {x: a}\n", "the keys of names are not numbers"),
        ("train: train/images\nnames: {99999999: a}\n", "the classes of names are not numbers from 0 to 99999"),
        ("train: train/images\nnc: 2\nnames: [a]\n", "nc is 2, but there are 1 names"),
        ("train: train/images\nnames: [a]\nkpt_shape: [3, 4]\n", "kpt_shape is .*, not .keypoints, 2 or 3."),
        ("train: train/images\nnames: [a]\nkpt_shape: [2, 3]\nflip_idx: [1, 1]\n", r"flip_idx \[1, 1\] does not swap"),
        ("train: !!python/object/apply:os.system ['x']\nnames: [a]\n", "train is x, which does not exist"),
    ],
)
def test_a_damaged_description_is_named(root, text, message):
    describe(root, text)
    with pytest.raises(ValueError, match=message):
        discover_dataset(root)


def test_names_are_text_whatever_yaml_makes_of_them(root):
    describe(root, "train: train/images\nval: valid/images\nnames: [no, 007, 1.50]\n")
    assert discover_dataset(root).class_names == ("no", "007", "1.50")


@pytest.mark.parametrize("nothing", ["", "null", "~"])
def test_a_val_that_is_nothing_is_drawn_from_train(root, nothing):
    describe(root, f"train: train/images\nval: {nothing}\nnames: [RBC, WBC, Platelets]\n")
    assert discover_dataset(root).split_rule == "splits: 1 of the 4 images of train drawn for val (seed 0)"


def test_a_missing_test_set_is_said_and_left_out(root):
    shutil.rmtree(root / "test", ignore_errors=True)
    found = discover_dataset(root)
    assert set(found.splits) == {"train", "val"}
    assert "data.yaml: test is ../test/images, which does not exist; left out" in found.report.notes


def test_keypoints_are_read_with_their_pairs(tmp_path):
    points = "0.25 0.25 2 0.5 0.5 1 0 0 0"
    write_bare(tmp_path, {"a": f"{ROW} {points}", "b": f"{ROW} 0.1 0.1 7 0 0 0 0 0 0\n{ROW}\n", "c": ROW})
    describe(tmp_path, "train: images\nnames: [mouse]\nkpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\n")
    found = discover_dataset(tmp_path)
    assert found.keypoints.names == ("keypoint_1", "keypoint_2", "keypoint_3")
    assert found.keypoints.flip_pairs == (("keypoint_2", "keypoint_3"),)
    objects = all_objects(found)
    assert objects["a"][0].keypoints == (16, 12, 2, 32, 24, 1, 0, 0, 0)
    assert [thing.keypoints for thing in objects["b"]] == [(0,) * 9]
    assert found.report.examples["broken rows, left out"] == ["labels/b.txt, line 1 (visibility 7 of a keypoint)"]


def test_keypoints_without_visibility_are_hidden_at_0_0(tmp_path):
    write_bare(tmp_path, {"a": f"{ROW} 0.25 0.25 0 0", "b": ROW})
    names = "kpt_names: {0: [nose, tail]}"
    describe(tmp_path, f"train: images\nnames: [mouse]\nkpt_shape: [2, 2]\n{names}\n")
    found = discover_dataset(tmp_path)
    assert found.keypoints.names == ("nose", "tail")
    assert all_objects(found)["a"][0].keypoints == (16, 12, 2, 0, 0, 0)


def test_polygons_and_confidences_are_boxes(tmp_path):
    polygon = "1 0.25 0.25 0.75 0.25 0.75 0.75 0.5 0.75"
    rows = {"a": polygon, "b": f"{ROW} 0.93", "c": f"{ROW}\n\n"}
    objects = all_objects(discover_dataset(write_bare(tmp_path, rows, ["ant", "bee"])))
    assert [(t.label, t.box) for t in objects["a"] + objects["b"]] == [("bee", HALF), ("ant", HALF)]


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("images/deep er", "labels/deep er"), (".", "."), (".", "labels"), ("Images", "Labels")],
)
def test_labels_are_found_beside_or_below(tmp_path, images, labels):
    found = discover_dataset(write_bare(tmp_path, {"a": ROW, "Äpfel 2": ROW, "c": ""}, ["ant"], images, labels))
    assert found.class_names == ("ant",)
    assert {name: len(objects) for name, objects in all_objects(found).items()} == {"a": 1, "Äpfel 2": 1, "c": 0}


def test_classes_without_names_are_numbered(tmp_path):
    rows = {"a": f"{ROW}\n{ROW.replace('0', '999999999', 1)}", "b": ROW.replace("0", "2", 1)}
    found = discover_dataset(write_bare(tmp_path, rows))
    assert found.report.examples["broken rows, left out"] == ["labels/a.txt, line 2 (class 999999999)"]
    assert found.class_names == ("class_0", "class_1", "class_2")
    assert any("called by their numbers" in note for note in found.report.notes)


def test_splits_come_from_folders(tmp_path):
    for split, images in TRUTH.items():
        rows = {f"{split}/{name}": "\n".join(yolo_row(*thing) for thing in things) for name, things in images.items()}
        write_bare(tmp_path, rows, CLASSES)
    found = discover_dataset(tmp_path)
    assert {n: set(i) for n, i in annotations(found).items()} == {n: set(i) for n, i in TRUTH.items()}


def write_darknet(root, lists):
    write_bare(root, dict.fromkeys("abcdef", ROW), images="obj_data", labels="obj_data")
    (root / "farm.names").write_text("ant\n")
    (root / "obj.data").write_text("classes = 1\nnames = data/farm.names\n")
    for name, images in lists.items():
        (root / name).write_text("".join(f"data/obj_data/{image}.jpg\r\n" for image in images))
    return root


def test_lists_of_darknet_are_splits(tmp_path):
    found = discover_dataset(write_darknet(tmp_path, {"train.txt": "abcx", "valid.txt": "de"}))
    assert {n: [i.path.stem for i in s.images] for n, s in found.splits.items()} == {"train": [*"abc"], "val": [*"de"]}
    assert found.class_names == ("ant",)
    assert found.report.examples == {
        "labels without an image": ["train.txt (data/obj_data/x.jpg)"],
        "images in no split, left out": ["obj_data/f.jpg"],
    }


@pytest.mark.parametrize(
    ("lists", "notes"),
    [
        ({"train.txt": "abc"}, ["train.txt is not used: a list alone"]),
        ({"train.txt": "xyz", "val.txt": "de"}, ["train.txt is not used: its first", "val.txt is not used: a list"]),
        ({"train.txt": "", "val.txt": "de"}, ["train.txt is not used: its first", "val.txt is not used: a list"]),
        ({"notes.txt": "abc"}, []),
    ],
)
def test_a_list_alone_or_of_other_images_is_no_split(tmp_path, lists, notes):
    found = discover_dataset(write_darknet(tmp_path, lists))
    assert sum(len(split.images) for split in found.splits.values()) == 6
    said = sorted(found.report.notes)
    assert [line for line, note in zip(said, notes, strict=True) if not line.startswith(note)] == []


def test_of_several_lists_the_outermost_counts(tmp_path):
    (tmp_path / "backup").mkdir()
    lists = {"train.txt": "xabc", "train_all.txt": "abcdef", "valid.txt": "de", "backup/train.txt": "ad"}
    found = discover_dataset(write_darknet(tmp_path, lists))
    assert {n: [i.path.stem for i in s.images] for n, s in found.splits.items()} == {"train": [*"abc"], "val": [*"de"]}
    unused = [note for note in found.report.notes if note.endswith("is not used beside train.txt")]
    assert [note.split()[0] for note in unused] == ["train_all.txt", "backup/train.txt"]


def test_files_of_names_have_an_order(tmp_path):
    write_darknet(tmp_path, {})
    (tmp_path / "other.names").write_text("bee\n")
    with pytest.raises(ValueError, match=r"farm.names and .*other.names name the classes differently; leave one"):
        discover_dataset(tmp_path)
    (tmp_path / "obj.names").write_text("cow\n")
    assert discover_dataset(tmp_path).class_names == ("cow",)


def test_files_of_other_platforms_are_read(tmp_path):
    write_bare(tmp_path, {"b": ROW}, ["ant"])
    write_image(tmp_path / "images" / "A.JPG")
    (tmp_path / "labels" / "a.txt").write_bytes(f"\ufeff{ROW}\r\n{ROW}\r\n".encode())
    (tmp_path / "images" / "._b.jpg").write_bytes(b"\0")
    (tmp_path / "labels" / "._b.txt").write_bytes(b"\0")
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"\0")
    found = discover_dataset(tmp_path)
    assert {name: len(objects) for name, objects in all_objects(found).items()} == {"A": 2, "b": 1}
    assert not found.report.counts
