import json
import math

import pytest

from centernet_d2.readers import discover_dataset
from support.folders import TRUTH, annotations, labelme_content, write_image, write_labelme


def shape(label, points, kind="rectangle", group=None):
    return {"label": label, "points": points, "shape_type": kind, "group_id": group}


def write(root, name, shapes, image_path=None, images=""):
    """Write one image and its label file."""
    write_image(root / images / f"{name}.jpg")
    content = labelme_content(image_path or f"{name}.jpg", [])
    (root / f"{name}.json").write_text(json.dumps({**content, "shapes": shapes}))


def objects_of(root):
    dataset = discover_dataset(root)
    return {i.path.stem: list(i.objects) for split in dataset.splits.values() for i in split.images}, dataset


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "z", [shape("ant", [[1, 1], [9, 9]])])
    return tmp_path


def test_every_kind_of_error_is_counted(tmp_path):
    root = write_labelme(tmp_path)
    path = root / "train" / "a.json"
    content = json.loads(path.read_text())
    content["shapes"] += [
        shape("RBC", [[math.inf, 1], [9, 9]]),
        shape("RBC", [[5, 5], [5, 9]]),
        shape("RBC", [[100, 100], [120, 120]]),
        shape("RBC", [[60, 40], [90, 90]]),
        shape("RBC", [[1], [2]]),
        shape("", [[1, 1], [9, 9]]),
        shape("RBC", None),
        "nonsense",
        shape("nose", [[63, 1]], "point"),
        shape("RBC", [[5, 5]], "circle"),
    ]
    path.write_text(json.dumps(content))
    (root / "train" / "lost.json").write_text(json.dumps(labelme_content("lost.jpg", [])))
    (root / "train" / "b.json").write_text('{"shapes": [')
    write_image(root / "train" / "bare.jpg")
    (root / "train" / "bad.jpg").write_text("no image")
    (root / "train" / "bad.json").write_text(json.dumps(labelme_content("bad.jpg", [])))
    (root / "train" / "d.json").write_text(json.dumps(labelme_content("d.jpg", TRUTH["train"]["d"], size=(9, 9))))
    dataset = discover_dataset(root)
    assert dataset.report.counts == {
        "broken rows, skipped": 4,
        "broken label files, skipped": 1,
        "points without a box, skipped": 1,
        "labels without an image": 1,
        "non-finite boxes, skipped": 2,
        "boxes without area, skipped": 1,
        "boxes outside their image, skipped": 1,
        "boxes partly outside their image, clipped": 1,
        "unreadable images, skipped": 1,
        "images with another aspect ratio than in the labels, skipped": 1,
        "images without labels, kept as background": 3,  # c, f and bare
        "classes without objects in train": 1,  # Those of the broken file.
    }
    assert dataset.report.examples["broken label files, skipped"] == [
        "train/b.json (Expecting value: line 1 column 13 (char 12))"
    ]
    assert "b" not in annotations(dataset)["train"]


def test_all_shape_types_become_boxes(root):
    shapes = [
        shape("ant", [[10, 20], [4, 2]]),
        shape("bee", [[5, 5], [20, 5], [10, 25]], "polygon"),
        shape("cat", [[30, 20], [30, 25]], "circle"),
        shape("dog", [[1, 2], [8, 4], [9, 9]], "linestrip"),
        {"label": "eel", "points": [[1, 1], [7, 1], [7, 9]]},
    ]
    write(root, "a", shapes)
    objects, _ = objects_of(root)
    assert [(obj.label, obj.box) for obj in objects["a"]] == [
        ("ant", (4, 2, 10, 20)),
        ("bee", (5, 5, 20, 25)),
        ("cat", (25, 15, 35, 25)),
        ("dog", (1, 2, 9, 9)),
        ("eel", (1, 1, 7, 9)),
    ]


def test_polygons_of_a_group_are_merged(root):
    parts = [([[5, 5], [20, 5], [10, 25]], 1), ([[30, 5], [40, 5], [33, 9]], 1), ([[1, 1], [4, 1], [2, 3]], None)]
    write(root, "a", [shape("ant", points, "polygon", group) for points, group in parts])
    objects, _ = objects_of(root)
    assert [obj.box for obj in objects["a"]] == [(5, 5, 40, 25), (1, 1, 4, 3)]


def test_points_become_keypoints_of_their_group_or_surrounding_box(root):
    shapes = [
        shape("mouse", [[0, 0], [20, 20]], group=1),
        shape("mouse", [[10, 0], [40, 20]], group=2),
        shape("left_ear", [[12, 5]], "point", group=2),
        shape("right_ear", [[13, 6]], "point", group=1),
        shape("right_ear", [[35, 7]], "point"),
        shape("right_ear", [[36, 8]], "point"),
        shape("left_ear", [[15, 5]], "point"),
    ]
    write(root, "a", shapes)
    objects, dataset = objects_of(root)
    assert dataset.keypoints.names == ("left_ear", "right_ear")
    assert dataset.keypoints.flip_pairs == (("left_ear", "right_ear"),)
    assert [obj.keypoints for obj in objects["a"]] == [(0, 0, 0, 13, 6, 2), (12, 5, 2, 35, 7, 2)]
    assert objects["z"][0].keypoints == (0,) * 6
    assert dataset.report.examples["duplicate points of an object, skipped"] == ["a.json, shape 6"]
    assert dataset.report.examples["points without a box, skipped"] == ["a.json, shape 7"]


@pytest.mark.parametrize(
    "image_path", ["../images/a.jpg", "..\\images\\a.jpg", "C:\\old\\a.jpg", "../images/A.JPG", "gone.jpg"]
)
def test_images_are_found_by_image_path_or_file_name(tmp_path, image_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    write(labels, "a", [shape("ant", [[1, 1], [9, 9]])], image_path, "../images")
    write(labels, "b", [shape("ant", [[1, 1], [9, 9]])], "b.jpg", "../images")
    objects, dataset = objects_of(tmp_path)
    assert {name: len(shapes) for name, shapes in objects.items()} == {"a": 1, "b": 1}
    assert not dataset.report.counts


def test_embedded_image_data_are_ignored(root):
    content = {**labelme_content("a.jpg", [("ant", (1, 1, 9, 9))]), "imageData": "/9j/4AAQSkZJRg=="}
    write_image(root / "a.jpg")
    (root / "a.json").write_text(json.dumps(content))
    assert len(objects_of(root)[0]["a"]) == 1


HUGE = int("9" * 400)


@pytest.mark.parametrize(
    "damaged",
    [
        shape("ant", [[HUGE, 1], [9, 9]]),
        shape("ant", [[1, 1], [9, HUGE]], kind="circle"),
        shape("ant", [[1, 1], [9, 9], [9, 1]], kind="polygon", group=[1]),
        shape("ant", [[1, 1], [9, 9]], group={"a": 1}),
        shape("ant", [[1, 1], [9, 9]], kind=["rectangle"]),
        shape(None, [[1, 1], [9, 9]]),
        shape(1.5, [[1, 1], [9, 9]]),
        shape("ant", {"1": "2"}),
        [],
    ],
)
def test_values_of_other_types_are_counted(root, damaged):
    write(root, "a", [damaged, shape("ant", [[1, 1], [9, 9]])])
    objects, dataset = objects_of(root)
    assert [obj.box for obj in objects["a"]] == [(1, 1, 9, 9)]
    assert dataset.report.examples == {"broken rows, skipped": ["a.json, shape 1"]}


@pytest.mark.parametrize("key", ["imagePath", "imageWidth", "imageHeight"])
@pytest.mark.parametrize("value", [[], {"a": []}, HUGE, True, -1])
def test_other_keys_of_other_types_are_ignored(root, key, value):
    write(root, "a", [shape("ant", [[1, 1], [9, 9]])])
    content = {**json.loads((root / "a.json").read_text()), key: value}
    (root / "a.json").write_text(json.dumps(content))
    objects, dataset = objects_of(root)
    assert set(objects) == {"a", "z"}
    assert dataset.report.counts == {}
