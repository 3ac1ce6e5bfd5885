import json
import math

import pytest

from centernet_d2.readers import coco_content as written_content
from centernet_d2.readers import find_data
from centernet_d2.readers.coco import json_kind
from support.folders import CLASSES, TRUTH, annotations, coco_content, write_coco_folders, write_image

PEOPLE = {"keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]}


def write_pair(root, folder="annotations", names=("instances_train2017", "instances_val2017"), images="{}"):
    """As COCO itself: files in one folder, images in one per split."""
    (root / folder).mkdir(parents=True)
    for name, things in zip(names, TRUTH.values(), strict=True):
        for image in things:
            write_image(root / images.format(name.split("_")[-1]) / f"{image}.jpg")
        (root / folder / f"{name}.json").write_text(json.dumps(coco_content(things)))
    return root


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("images", ["{}", "images/{}", "images"])
def test_images_are_found_beside_the_annotations(tmp_path, images):
    found = find_data(write_pair(tmp_path, images=images))
    assert {n: set(i) for n, i in annotations(found).items()} == {n: set(i) for n, i in TRUTH.items()}


def test_one_of_everything_wrong_is_counted(tmp_path):
    root = write_coco_folders(tmp_path)

    def spoil(content):
        add = content["annotations"].append
        base = {"image_id": 1, "category_id": 1, "iscrowd": 0}
        for bbox in ([1, 1, math.inf, 5], [1, 1, math.nan, 5]):
            add({**base, "id": 50, "bbox": bbox})
        add({**base, "id": 51, "bbox": [1, 1, 0, 5]})
        add({**base, "id": 52, "bbox": [100, 1, 5, 5]})
        add({**base, "id": 53, "bbox": [60, 40, 10, 10]})
        for bbox in (None, [1, 2, 3], "abcd", 7):
            add({**base, "id": 54, "bbox": bbox})
        add({**base, "id": 55, "bbox": [1, 1, 5, 5], "category_id": 77})
        add({**base, "id": 56, "bbox": [1, 1, 5, 5], "image_id": 99})
        add({**base, "id": 57, "bbox": [1, 1, 5, 5], "image_id": [1]})
        add({**base, "id": 58, "bbox": [1, 1, 5, 5], "category_id": {}})
        add("nonsense")
        images = content["images"]
        images += [{"id": 20, "file_name": "gone.jpg"}, {"id": 21}, "nonsense", {"id": [], "file_name": "a.jpg"}]
        images += [{"id": 22, "file_name": "https://example.org/gone.jpg"}, {"id": 23, "file_name": "../../up.jpg"}]
        images += [{"id": 24, "file_name": "b.jpg"}]
        content["categories"] += [{"id": 9, "name": "nothing"}, {"id": 10}]

    edit(root / "train" / "_annotations.coco.json", spoil)
    found = find_data(root)
    assert found.report.counts == {
        "boxes that are not finite, left out": 2,
        "boxes without area, left out": 1,
        "boxes outside their image, left out": 1,
        "boxes partly outside their image, cut": 1,
        "broken rows, left out": 4 + 1 + 1 + 3,
        "labels of an unknown category, left out": 1,
        "labels without an image": 2 + 1,
        f"labels without an image in {root}, though they may name one outside": 1,
        "labels whose image is a URL, which is not fetched": 1,
        "images listed twice, the second left out": 1,
        "images without labels, kept as background": 2,
        "classes without objects": 1,
    }
    assert found.report.examples["labels of an unknown category, left out"] == [
        "train/_annotations.coco.json, annotation 55"
    ]
    assert found.class_names == (*CLASSES, "nothing")


def test_roboflows_empty_category_is_left_out_with_a_word(tmp_path):
    root = write_coco_folders(tmp_path)

    def add_root(content):
        for category in content["categories"]:
            category["supercategory"] = "cells"
        content["categories"].insert(0, {"id": 0, "name": "cells", "supercategory": "none"})

    for split in ("train", "valid"):
        edit(root / split / "_annotations.coco.json", add_root)
    found = find_data(root)
    assert (found.class_names, found.class_ids) == (CLASSES, (1, 2, 3))
    assert "category 0 (cells) is left out: it stands above the others and has no objects" in found.report.notes


def test_category_0_with_objects_is_a_class(tmp_path):
    content = coco_content(TRUTH["train"], first_category=0)
    for category in content["categories"]:
        category["supercategory"] = "RBC"
    for image in TRUTH["train"]:
        write_image(tmp_path / f"{image}.jpg")
    (tmp_path / "labels.json").write_text(json.dumps(content))
    assert find_data(tmp_path).class_ids == (0, 1, 2)


def test_classes_of_files_are_joined_by_name(tmp_path):
    root = write_coco_folders(tmp_path)

    def renumber(content):
        for item in content["categories"]:
            item["id"] = 30 - item["id"]
        for item in content["annotations"]:
            item["category_id"] = 30 - item["category_id"]

    edit(root / "valid" / "_annotations.coco.json", renumber)
    found = find_data(root)
    assert (found.class_names, found.class_ids) == (CLASSES, (1, 2, 3))
    assert annotations(found)["val"]["e"] == sorted(TRUTH["val"]["e"])


def test_ids_crowds_and_areas_stay(tmp_path):
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.jpg")
    content = coco_content({"a": TRUTH["train"]["a"], "b": TRUTH["train"]["b"]}, first_category=7)
    content["images"][0]["id"] = 391895
    for item in content["annotations"]:
        item.update(image_id=391895 if item["image_id"] == 1 else 2, iscrowd=1, area=3.5)
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = find_data(tmp_path / "a.json")
    assert found.class_ids == (7, 8, 9)
    images = [image for split in found.splits.values() for image in split.images]
    assert {image.image_id for image in images} == {391895, 2}
    assert {(thing.crowd, thing.area) for image in images for thing in image.objects} == {(True, 3.5)}


def test_what_else_is_said_stays_for_properties_that_read_it(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"{name}.jpg")
    box = {"category_id": 1, "bbox": [1, 1, 9, 9], "segmentation": [[1, 1, 9, 1, 9, 9]], "ignore": 0}
    content = {
        "images": [{"id": i, "file_name": f"{name}.jpg", "camera": i, "license": 3} for i, name in enumerate("ab")],
        "annotations": [{"id": i + 1, "image_id": i, **box, "angle": 30.0 + i} for i in range(2)],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    found = find_data(tmp_path)
    written = [written_content(found, split) for split in found.splits.values()]
    images = [image for part in written for image in part["images"]]
    assert {image["file_name"]: image["camera"] for image in images} == {"a.jpg": 0, "b.jpg": 1}
    annotations = [item for part in written for item in part["annotations"]]
    assert sorted(item["angle"] for item in annotations) == [30.0, 31.0]
    assert not {"license", "segmentation", "ignore"} & set().union(*images, *annotations)


def test_boxes_come_from_polygons_where_there_are_none(tmp_path):
    root = write_coco_folders(tmp_path)

    def to_polygon(content):
        for item in content["annotations"]:
            x, y, w, h = item.pop("bbox")
            item["segmentation"] = [[x, y, x + w, y], [x + w, y + h, x, y + h]]

    edit(root / "train" / "_annotations.coco.json", to_polygon)
    assert annotations(find_data(root))["train"]["a"] == sorted(TRUTH["train"]["a"])


def test_keypoints_that_are_broken_are_counted_and_the_box_stays(tmp_path):
    root = write_coco_folders(tmp_path)

    def add_keypoints(content):
        content["categories"][0].update(PEOPLE)
        values = ([1, 2, 2, 3, 4, 1, 0, 0, 0], [1, 2, 2], [1, 2, 7] * 3, ["x"] * 9, [math.nan, 1, 2] * 3, [])
        for item, points in zip(content["annotations"], values, strict=False):
            item["keypoints"] = points

    for split in ("train", "valid"):
        edit(root / split / "_annotations.coco.json", add_keypoints)
    found = find_data(root)
    assert found.keypoints.names == ("nose", "left_eye", "right_eye")
    assert found.keypoints.flip_pairs == (("left_eye", "right_eye"),)
    assert found.keypoints.skeleton == (("nose", "left_eye"), ("nose", "right_eye"))
    assert found.report.counts["objects with broken keypoints, kept without them"] == 3 + 2
    assert found.report.counts["objects whose keypoints are not finite, kept without them"] == 1
    assert found.splits["train"].num_objects == 6
    assert found.splits["train"].images[0].objects[0].keypoints == (1, 2, 2, 3, 4, 1, 0, 0, 0)


def test_keypoints_without_names_are_numbered(tmp_path):
    root = write_coco_folders(tmp_path)
    for split in ("train", "valid"):
        edit(
            root / split / "_annotations.coco.json",
            lambda content: [item.update(keypoints=[1, 1, 2] * 2) for item in content["annotations"]],
        )
    assert find_data(root).keypoints.names == ("keypoint_1", "keypoint_2")


def test_cocos_own_folder_is_read_for_its_boxes(tmp_path):
    root = write_pair(tmp_path)
    for split in ("train2017", "val2017"):
        source = root / "annotations" / f"instances_{split}.json"
        (root / "annotations" / f"person_keypoints_{split}.json").write_text(source.read_text())
        captions = json.dumps({"images": [], "annotations": []})
        (root / "annotations" / f"captions_{split}.json").write_text(captions)
    found = find_data(root)
    assert found.splits["train"].num_objects == 6
    assert any("person_keypoints_train2017.json is not used beside" in note for note in found.report.notes)


def test_two_files_of_one_split_are_refused(tmp_path):
    root = write_pair(tmp_path)
    (root / "train.json").write_text((root / "annotations" / "instances_train2017.json").read_text())
    with pytest.raises(ValueError, match=r"train2017\.json and train\.json of .* both hold the split train"):
        find_data(root)


def test_a_file_is_enough(tmp_path):
    root = write_pair(tmp_path)
    files = [root / "annotations" / f"instances_{split}2017.json" for split in ("train", "val")]
    assert len(find_data(files[0], files[1]).splits["val"].images) == 2
    assert find_data(files[0]).split_rule == "splits: 1 of the 4 images of train drawn for val (seed 0)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"a\.json is not a JSON file"),
        ("[]", r"a\.json is not a COCO file"),
        ('{"images": [], "annotations": {}, "categories": []}', r"a\.json is not a COCO file"),
        ('{"images": [], "annotations": [], "categories": []}', r"a\.json has no categories with an id and a name"),
    ],
)
def test_damaged_files_are_named(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_data(tmp_path / "a.json")


def test_a_damaged_file_among_others_is_named(tmp_path):
    root = write_coco_folders(tmp_path)
    (root / "valid" / "_annotations.coco.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"valid/_annotations\.coco\.json is not a JSON file"):
        find_data(root)


def test_large_files_are_told_without_parsing(tmp_path, monkeypatch):
    monkeypatch.setattr("centernet_d2.readers.coco._SMALL", 10)
    kinds = {
        "coco": {"info": {}, "images": [{"id": 1}] * 50, "annotations": [1] * 50, "categories": []},
        "labelme": {"imagePath": "a", "imageData": "x" * 500, "shapes": []},
        "other": {"a": "b" * 100},
        "own": {**coco_content(TRUTH["val"]), "info": {"contributor": "centernet_d2"}},
    }
    (tmp_path / "cut.json").write_text('{"images": [{"id": 1')
    assert json_kind(tmp_path / "cut.json") == "broken"
    for kind, content in kinds.items():
        path = tmp_path / f"{kind}.json"
        path.write_text(json.dumps(content))
        assert json_kind(path) == kind


def test_byte_order_marks_and_absolute_names_work(tmp_path):
    write_image(tmp_path / "elsewhere" / "a.jpg")
    write_image(tmp_path / "here" / "b.jpg")
    content = coco_content({"a": TRUTH["train"]["a"], "b": TRUTH["train"]["b"]})
    content["images"][0]["file_name"] = str(tmp_path / "elsewhere" / "a.jpg")
    (tmp_path / "here" / "labels.json").write_bytes(
        json.dumps(content, indent=1).replace("\n", "\r\n").encode("utf-8-sig")
    )
    found = find_data(tmp_path / "here")
    assert {i.path.name for split in found.splits.values() for i in split.images} == {"a.jpg", "b.jpg"}
    assert found.report.counts["images with an absolute name"] == 1
