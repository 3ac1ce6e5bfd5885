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
    """Write images and label files without data.yaml; `rows` maps images to label files."""
    for name, text in rows.items():
        write_image(root / images / f"{name}.jpg")
        (root / labels / f"{name}.txt").parent.mkdir(parents=True, exist_ok=True)
        (root / labels / f"{name}.txt").write_text(text)
    if names:
        (root / "classes.txt").write_text("\n".join(names))
    return root


def all_objects(dataset):
    return {i.path.stem: list(i.objects) for split in dataset.splits.values() for i in split.images}


def test_every_kind_of_error_is_counted(root):
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
    dataset = discover_dataset(root)
    assert dataset.report.counts == {
        "labels without an image": 1,
        "broken rows, skipped": 6,
        "broken label files, skipped": 1,
        "non-finite boxes, skipped": 1,
        "boxes without area, skipped": 1,
        "rows beyond 0..1 (divide pixels by the image size), skipped": 1,
        "boxes partly outside their image, clipped": 1,
        "unreadable images, skipped": 1,
        "images without labels, kept as background": 3,  # c, f and bare
    }
    assert dataset.report.examples["broken rows, skipped"] == [
        "train/labels/a.txt, line 6 (4 numbers are neither a box nor a polygon; keypoints need kpt_shape in data.yaml)",
        "train/labels/a.txt, line 7 (the class is 'x', which no data.yaml or classes.txt defines)",
        "train/labels/a.txt, line 8 (invalid class 7, 3 classes)",
    ]
    assert dataset.class_names == CLASSES


@pytest.mark.parametrize(
    "train",
    ["train/images", "../train/images", "./train/images", ["train/images"], "train/list.txt", "..\\train\\images"],
)
def test_all_path_formats_are_supported(root, train):
    (root / "train" / "list.txt").write_text("".join(f"./images/{name}.jpg\r\n" for name in TRUTH["train"]))
    describe(root, f"train: {train}\nval: valid/images\nnames:\n  0: RBC\n  1: WBC\n  2: Platelets\n")
    dataset = discover_dataset(root)
    assert set(annotations(dataset)["train"]) == set(TRUTH["train"])
    assert dataset.class_names == CLASSES


def test_yaml_outside_the_dataset_folder(root, tmp_path):
    (tmp_path / "my.yaml").write_text(f"path: {root}\ntrain: train/images\nval: valid/images\nnames: {list(CLASSES)}\n")
    dataset = discover_dataset(tmp_path / "my.yaml")
    assert dataset.splits["train"].root == root
    assert set(annotations(dataset)["train"]) == set(TRUTH["train"])


def test_relative_paths_outside_the_folder_raise(root, tmp_path):
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
        ("train: train/images\nnames: a\n", "names must be a list of class names"),
        ("train: train/images\nnames: [a, a]\n", "class names must be unique, but 'a' occurs twice"),
        ("train: train/images\nnames: {x: a}\n", "the keys of names must be numbers"),
        ("train: train/images\nnames: {1: a, 01: b}\n", "the keys of names contain a number twice"),
        ("train: train/images\nnames: [a]\nkpt_shape: [1000000000, 3]\n", "with at most 1000 keypoints"),
        ("train: train/images\nnames: [a]\nkpt_shape: 13\n", "must be .number of keypoints, 2 or 3."),
        ("train: train/images\nnames: [a]\nnames: [b]\n", "contains the key .names. twice"),
        ("train: train/images\nnames: {99999999: a}\n", "the keys of names must be numbers from 0 to 99999"),
        ("train: train/images\nnc: 2\nnames: [a]\n", "nc is '2', but there are 1 names"),
        (
            "train: train/images\nnames: [a]\nkpt_shape: [3, 4]\n",
            "kpt_shape is .*, but must be .number of keypoints, 2 or 3.",
        ),
        ("train: train/images\nnames: [a]\nkpt_shape: [2, 3]\nflip_idx: [1, 1]\n", r"flip_idx \[1, 1\] does not swap"),
        ("train: !!python/object/apply:os.system ['x']\nnames: [a]\n", "train is x, which does not exist"),
    ],
)
def test_invalid_data_yaml_raises(root, text, message):
    describe(root, text)
    with pytest.raises(ValueError, match=message):
        discover_dataset(root)


def test_class_names_are_strings(root):
    describe(root, "train: train/images\nval: valid/images\nnames: [no, 007, 1.50]\n")
    assert discover_dataset(root).class_names == ("no", "007", "1.50")


@pytest.mark.parametrize("nothing", ["", "null", "~"])
def test_empty_val_is_sampled_from_train(root, nothing):
    describe(root, f"train: train/images\nval: {nothing}\nnames: [RBC, WBC, Platelets]\n")
    assert discover_dataset(root).split_rule == "splits: 1 of the 4 images of train sampled for val (seed 0)"


def test_missing_test_folder_is_skipped_with_a_note(root):
    shutil.rmtree(root / "test", ignore_errors=True)
    dataset = discover_dataset(root)
    assert set(dataset.splits) == {"train", "val"}
    assert "data.yaml: test is ../test/images, which does not exist; skipped" in dataset.report.notes


def test_keypoints_and_flip_pairs_are_read(tmp_path):
    points = "0.25 0.25 2 0.5 0.5 1 0 0 0"
    write_bare(tmp_path, {"a": f"{ROW} {points}", "b": f"{ROW} 0.1 0.1 7 0 0 0 0 0 0\n{ROW}\n", "c": ROW})
    describe(tmp_path, "train: images\nnames: [mouse]\nkpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\n")
    dataset = discover_dataset(tmp_path)
    assert dataset.keypoints.names == ("keypoint_1", "keypoint_2", "keypoint_3")
    assert dataset.keypoints.flip_pairs == (("keypoint_2", "keypoint_3"),)
    objects = all_objects(dataset)
    assert objects["a"][0].keypoints == (16, 12, 2, 32, 24, 1, 0, 0, 0)
    assert [obj.keypoints for obj in objects["b"]] == [(0,) * 9]
    assert dataset.report.examples["broken rows, skipped"] == ["labels/b.txt, line 1 (invalid keypoint visibility 7)"]


def test_keypoints_at_origin_are_unlabeled_without_visibility(tmp_path):
    write_bare(tmp_path, {"a": f"{ROW} 0.25 0.25 0 0", "b": ROW})
    names = "kpt_names: {0: [nose, tail]}"
    describe(tmp_path, f"train: images\nnames: [mouse]\nkpt_shape: [2, 2]\n{names}\n")
    dataset = discover_dataset(tmp_path)
    assert dataset.keypoints.names == ("nose", "tail")
    assert all_objects(dataset)["a"][0].keypoints == (16, 12, 2, 0, 0, 0)


def test_polygons_and_rows_with_scores_become_boxes(tmp_path):
    polygon = "1 0.25 0.25 0.75 0.25 0.75 0.75 0.5 0.75"
    rows = {"a": polygon, "b": f"{ROW} 0.93", "c": f"{ROW}\n\n"}
    objects = all_objects(discover_dataset(write_bare(tmp_path, rows, ["ant", "bee"])))
    assert [(t.label, t.box) for t in objects["a"] + objects["b"]] == [("bee", HALF), ("ant", HALF)]


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("images/deep er", "labels/deep er"), (".", "."), (".", "labels"), ("Images", "Labels")],
)
def test_label_folders_are_found(tmp_path, images, labels):
    dataset = discover_dataset(write_bare(tmp_path, {"a": ROW, "Äpfel 2": ROW, "c": ""}, ["ant"], images, labels))
    assert dataset.class_names == ("ant",)
    assert {name: len(objects) for name, objects in all_objects(dataset).items()} == {"a": 1, "Äpfel 2": 1, "c": 0}


def test_unnamed_classes_are_numbered(tmp_path):
    rows = {"a": f"{ROW}\n{ROW.replace('0', '999999999', 1)}", "b": ROW.replace("0", "2", 1)}
    dataset = discover_dataset(write_bare(tmp_path, rows))
    assert dataset.report.examples["broken rows, skipped"] == ["labels/a.txt, line 2 (invalid class 999999999)"]
    assert dataset.class_names == ("class_0", "class_1", "class_2")
    assert any("classes are named class_0" in note for note in dataset.report.notes)


def test_folders_define_splits(tmp_path):
    for split, images in TRUTH.items():
        rows = {f"{split}/{name}": "\n".join(yolo_row(*obj) for obj in objects) for name, objects in images.items()}
        write_bare(tmp_path, rows, CLASSES)
    dataset = discover_dataset(tmp_path)
    assert {n: set(i) for n, i in annotations(dataset).items()} == {n: set(i) for n, i in TRUTH.items()}


def write_darknet(root, lists):
    write_bare(root, dict.fromkeys("abcdef", ROW), images="obj_data", labels="obj_data")
    (root / "farm.names").write_text("ant\n")
    (root / "obj.data").write_text("classes = 1\nnames = data/farm.names\n")
    for name, images in lists.items():
        (root / name).write_text("".join(f"data/obj_data/{image}.jpg\r\n" for image in images))
    return root


def test_darknet_lists_define_splits(tmp_path):
    dataset = discover_dataset(write_darknet(tmp_path, {"train.txt": "abcx", "valid.txt": "de"}))
    assert {n: [i.path.stem for i in s.images] for n, s in dataset.splits.items()} == {
        "train": [*"abc"],
        "val": [*"de"],
    }
    assert dataset.class_names == ("ant",)
    assert dataset.report.examples == {
        "labels without an image": ["train.txt (data/obj_data/x.jpg)"],
        "images in no split, skipped": ["obj_data/f.jpg"],
    }


@pytest.mark.parametrize(
    ("lists", "notes"),
    [
        ({"train.txt": "abc"}, ["train.txt is not used: a single list"]),
        ({"train.txt": "xyz", "val.txt": "de"}, ["train.txt is not used: its first", "val.txt is not used: a single"]),
        ({"train.txt": "", "val.txt": "de"}, ["train.txt is not used: its first", "val.txt is not used: a single"]),
        ({"notes.txt": "abc"}, []),
    ],
)
def test_single_lists_and_unrelated_lists_are_ignored(tmp_path, lists, notes):
    dataset = discover_dataset(write_darknet(tmp_path, lists))
    assert sum(len(split.images) for split in dataset.splits.values()) == 6
    lines = sorted(dataset.report.notes)
    assert [line for line, note in zip(lines, notes, strict=True) if not line.startswith(note)] == []


def test_outermost_list_is_used(tmp_path):
    (tmp_path / "backup").mkdir()
    lists = {"train.txt": "xabc", "train_all.txt": "abcdef", "valid.txt": "de", "backup/train.txt": "ad"}
    dataset = discover_dataset(write_darknet(tmp_path, lists))
    assert {n: [i.path.stem for i in s.images] for n, s in dataset.splits.items()} == {
        "train": [*"abc"],
        "val": [*"de"],
    }
    unused = [note for note in dataset.report.notes if note.endswith("is not used because there is train.txt")]
    assert [note.split()[0] for note in unused] == ["train_all.txt", "backup/train.txt"]


def test_ambiguous_class_name_files_raise(tmp_path):
    write_darknet(tmp_path, {})
    (tmp_path / "other.names").write_text("bee\n")
    with pytest.raises(ValueError, match=r"farm.names and .*other.names contain different class names; keep one file"):
        discover_dataset(tmp_path)
    (tmp_path / "obj.names").write_text("cow\n")
    assert discover_dataset(tmp_path).class_names == ("cow",)


def test_encodings_and_line_endings_are_supported(tmp_path):
    write_bare(tmp_path, {"b": ROW}, ["ant"])
    write_image(tmp_path / "images" / "A.JPG")
    (tmp_path / "labels" / "a.txt").write_bytes(f"\ufeff{ROW}\r\n{ROW}\r\n".encode())
    (tmp_path / "images" / "._b.jpg").write_bytes(b"\0")
    (tmp_path / "labels" / "._b.txt").write_bytes(b"\0")
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"\0")
    dataset = discover_dataset(tmp_path)
    assert {name: len(objects) for name, objects in all_objects(dataset).items()} == {"A": 2, "b": 1}
    assert not dataset.report.counts


@pytest.mark.parametrize(
    "row",
    [
        "1, 0.5, 0.5, 0.5, 0.5",
        "1,0.5,0.5,0.5,0.5,",
        "1;0.5;0.5;0.5;0.5",
        "1\t0.5\t0.5 0.5  0.5",
        "1 0,5 0,5 0,5 0,5",
        "1;0,5;0,5;0,5;0,5",
        "1.0 0.5 0.5 0.5 0.5",
        "red bee 0.5 0.5 0.5 0.5",
        "red bee,0.5,0.5,0.5,0.5",
        "1 0.5 0.5 0.5 0.5 0.93",
    ],
)
def test_dialects_of_rows_are_read(tmp_path, row):
    dataset = discover_dataset(write_bare(tmp_path, dict.fromkeys("ab", row), ["ant", "red bee"]))
    assert [(obj.label, obj.box) for objects in all_objects(dataset).values() for obj in objects] == [
        ("red bee", HALF)
    ] * 2
    assert set(dataset.report.counts) <= {"rows with decimal commas", "classes without objects"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0,0.5,,0.5,0.5", "broken rows, skipped: labels/a.txt, line 1 (not numbers)"),
        ("0 25.5 23.5 25 15", "rows beyond 0..1 (divide pixels by the image size), skipped: labels/a.txt, line 1"),
        ("0 5 5 30 5 30 40", "rows beyond 0..1 (divide pixels by the image size), skipped: labels/a.txt, line 1"),
        ("0 0.5 0.5 -0.5 0.5", "rows beyond 0..1"),
        ("0 inf 0.5 0.5 0.5", "rows beyond 0..1"),
        ("0 0.5 0.5 1.2 0.5", "rows beyond 0..1"),
        ("13 16 38 16 38 31 13 31 red 0", "a row of DOTA, not of YOLO; see docs/formats.md"),
        ("Car 0 0 0 1 2 3 4 0 0 0 0 0 0 0", "a row of KITTI, not of YOLO; see docs/formats.md"),
        ("cow 0.5 0.5 0.5 0.5", "the class is 'cow', which no data.yaml or classes.txt defines"),
    ],
)
def test_reason_is_printed_if_no_row_is_valid(tmp_path, row, reason):
    write_bare(tmp_path, dict.fromkeys("ab", row), ["ant", "bee"])
    with pytest.raises(ValueError, match="0 labeled image") as error:
        discover_dataset(tmp_path)
    assert reason in str(error.value)


@pytest.mark.parametrize("excess", [1e-6, 0.009, 0.03])
def test_coordinates_slightly_beyond_the_image_are_clipped(tmp_path, excess):
    rows = {"a": f"0 0.5 0.5 {1 + excess} {1 + excess}", "b": ROW}
    (obj,) = all_objects(discover_dataset(write_bare(tmp_path, rows)))["a"]
    assert obj.box == pytest.approx((0, 0, 64, 48), abs=1)


POSE_2D = ["0 0.2 0.25 0.2 0.16 0.2 0.25 0.11 0.18", "0 0.87 0.25 0.24 0.14 0.87 0.24 0.76 0.19"]
POSE_3D = ["0 0.2 0.25 0.2 0.16 0.2 0.25 2 0 0 0", "0 0.87 0.25 0.24 0.14 0.87 0.24 1 0.76 0.19 2"]


@pytest.mark.parametrize(("rows", "shape"), [(POSE_2D, "[2, 2]"), (POSE_3D, "[2, 3]")])
@pytest.mark.parametrize("described", [False, True])
def test_poses_without_kpt_shape_raise(tmp_path, rows, shape, described):
    write_bare(tmp_path, dict.fromkeys("ab", "\n".join(rows)), ["ant"])
    if described:
        describe(tmp_path, "train: images\nnames: [ant]\n")
    with pytest.raises(
        ValueError, match="labels/a.txt, line 1: the row is a box with 2 keypoints, or a polygon"
    ) as error:
        discover_dataset(tmp_path)
    assert f"kpt_shape: {shape}" in str(error.value)
    describe(tmp_path, f"train: images\nnames: [ant]\nkpt_shape: {shape}\n")
    assert all_objects(discover_dataset(tmp_path))["a"][0].keypoints[:3] == pytest.approx((12.8, 12, 2))


@pytest.mark.parametrize(
    "rows",
    [
        ["0 0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6", "0 0.4 0.4 0.5 0.35 0.55 0.45 0.45 0.5"],  # Rotated boxes.
        ["0 0.4 0.4 0.5 0.5 0.45 0.45", "0 0.4 0.4 0.5 0.4 0.5 0.5 0.45 0.52"],
    ],
)
def test_polygons_that_may_be_poses_are_read(tmp_path, rows):
    objects = all_objects(discover_dataset(write_bare(tmp_path, dict.fromkeys("ab", "\n".join(rows)))))
    assert len(objects["a"]) == 2


@pytest.mark.parametrize(
    ("missing", "shape"),
    [
        ("-1 -1", 2),
        ("0 0", 2),
        ("-0.5 0.2", 2),
        ("0 0 0", 3),
        ("-1 -1 0", 3),
        ("-1 -1 2", 3),
        ("0 0 -1", 3),
        ("3 0.5", 2),
    ],
)
def test_markers_of_missing_keypoints_are_not_labeled(tmp_path, missing, shape):
    first = "0.25 0.25" if shape == 2 else "0.25 0.25 2"
    write_bare(tmp_path, dict.fromkeys("ab", f"{ROW} {first} {missing}"))
    describe(tmp_path, f"train: images\nnames: [ant]\nkpt_shape: [2, {shape}]\n")
    assert all_objects(discover_dataset(tmp_path))["a"][0].keypoints == (16, 12, 2, 0, 0, 0)


def test_rows_that_contradict_kpt_shape_are_not_polygons(tmp_path):
    write_bare(tmp_path, {"a": POSE_2D[0], "b": ROW, "c": ROW})
    describe(tmp_path, "train: images\nnames: [ant]\nkpt_shape: [2, 3]\n")
    (reason,) = discover_dataset(tmp_path).report.examples["broken rows, skipped"]
    assert reason.endswith("(9 numbers are neither a box nor a box with keypoints of kpt_shape [2, 3])")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("JPEGImages", "labels"),
        ("imgs", "labels"),
        ("img", "label"),
        ("pictures/train", "labels/train"),
        ("Pictures", "annotations"),
        ("data/photos", "data/txt"),
        ("my images", "yolo labels"),
    ],
)
def test_other_folder_names_are_supported(tmp_path, images, labels):
    dataset = discover_dataset(write_bare(tmp_path, {"a": ROW, "b": ROW, "c": ""}, ["ant"], images, labels))
    assert {name: len(objects) for name, objects in all_objects(dataset).items()} == {"a": 1, "b": 1, "c": 0}


def test_masks_have_no_labels(tmp_path):
    write_bare(tmp_path, dict.fromkeys("ab", ROW), ["ant"], images="JPEGImages")
    write_image(tmp_path / "SegmentationClass" / "a.png")
    dataset = discover_dataset(tmp_path)
    assert sum(len(split.images) for split in dataset.splits.values()) == 2
    assert dataset.report.examples["images with the name of a labeled image, skipped"] == ["SegmentationClass/a.png"]


@pytest.mark.parametrize("encoding", ["gbk", "shift-jis", "latin-1", "utf-16"])
def test_class_names_are_never_wrong(tmp_path, encoding):
    word = "Ähre" if encoding == "latin-1" else "赤"
    write_bare(tmp_path, dict.fromkeys("ab", ROW))
    (tmp_path / "classes.txt").write_bytes(f"{word}\r\n".encode(encoding))
    if encoding == "utf-16":
        assert discover_dataset(tmp_path).class_names == (word,)
    else:
        with pytest.raises(ValueError, match=r"classes\.txt is not a text file in UTF-8 .*; save it in UTF-8"):
            discover_dataset(tmp_path)


def test_empty_line_between_class_names_keeps_their_numbers(tmp_path):
    write_bare(tmp_path, dict.fromkeys("ab", ROW.replace("0", "2", 1)), ["ant", "", "cow", ""])
    assert all_objects(discover_dataset(tmp_path))["a"][0].label == "cow"


def test_duplicate_class_names_raise(tmp_path):
    write_bare(tmp_path, dict.fromkeys("ab", ROW), ["ant", "ant"])
    with pytest.raises(ValueError, match=r"classes\.txt: class names must be unique, but 'ant' occurs twice"):
        discover_dataset(tmp_path)
