import json
import math

import pytest

from centernet_d2.readers import coco_content as written_content
from centernet_d2.readers import discover_dataset
from centernet_d2.readers.coco import json_kind, read_files
from centernet_d2.readers.records import Report
from support.folders import CLASSES, TRUTH, annotations, coco_content, write_coco_folders, write_image

PEOPLE = {"keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]}


def write_pair(root, folder="annotations", names=("instances_train2017", "instances_val2017"), images="{}"):
    """Write the official COCO layout: all files in one folder, and one image folder per split."""
    (root / folder).mkdir(parents=True)
    for name, objects in zip(names, TRUTH.values(), strict=True):
        for image in objects:
            write_image(root / images.format(name.split("_")[-1]) / f"{image}.jpg")
        (root / folder / f"{name}.json").write_text(json.dumps(coco_content(objects)))
    return root


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("images", ["{}", "images/{}", "images"])
def test_images_next_to_annotations_are_found(tmp_path, images):
    dataset = discover_dataset(write_pair(tmp_path, images=images))
    assert {n: set(i) for n, i in annotations(dataset).items()} == {n: set(i) for n, i in TRUTH.items()}


def test_every_kind_of_error_is_counted(tmp_path):
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
    dataset = discover_dataset(root)
    assert dataset.report.counts == {
        "non-finite boxes, skipped": 2,
        "boxes without area, skipped": 1,
        "boxes outside their image, skipped": 1,
        "boxes partly outside their image, clipped": 1,
        "broken rows, skipped": 1 + 1 + 3 + 1,
        "objects without a usable box, skipped": 4,
        "labels of an unknown category, skipped": 1,
        "labels without an image": 2 + 1,
        f"labels without an image in {root} (the image may be outside)": 1,
        "labels whose image is a URL (not downloaded)": 1,
        "repeated image entries, skipped": 1,
        "images without labels, kept as background": 2,
        "classes without objects": 1,
    }
    assert dataset.report.examples["labels of an unknown category, skipped"] == [
        "train/_annotations.coco.json, annotation 55"
    ]
    assert dataset.class_names == (*CLASSES, "nothing")


def test_empty_roboflow_category_is_skipped_with_a_note(tmp_path):
    root = write_coco_folders(tmp_path)

    def add_root(content):
        for category in content["categories"]:
            category["supercategory"] = "cells"
        content["categories"].insert(0, {"id": 0, "name": "cells", "supercategory": "none"})

    for split in ("train", "valid"):
        edit(root / split / "_annotations.coco.json", add_root)
    dataset = discover_dataset(root)
    assert (dataset.class_names, dataset.class_ids) == (CLASSES, (1, 2, 3))
    assert "category 0 (cells) is skipped: it is the parent of the others and has no objects" in dataset.report.notes


def test_category_0_with_objects_is_kept(tmp_path):
    content = coco_content(TRUTH["train"], first_category=0)
    for category in content["categories"]:
        category["supercategory"] = "RBC"
    for image in TRUTH["train"]:
        write_image(tmp_path / f"{image}.jpg")
    (tmp_path / "labels.json").write_text(json.dumps(content))
    assert discover_dataset(tmp_path).class_ids == (0, 1, 2)


def test_classes_of_files_are_merged_by_name(tmp_path):
    root = write_coco_folders(tmp_path)

    def renumber(content):
        for item in content["categories"]:
            item["id"] = 30 - item["id"]
        for item in content["annotations"]:
            item["category_id"] = 30 - item["category_id"]

    edit(root / "valid" / "_annotations.coco.json", renumber)
    dataset = discover_dataset(root)
    assert (dataset.class_names, dataset.class_ids) == (CLASSES, (1, 2, 3))
    assert annotations(dataset)["val"]["e"] == sorted(TRUTH["val"]["e"])


def test_ids_crowds_and_areas_are_preserved(tmp_path):
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.jpg")
    content = coco_content({"a": TRUTH["train"]["a"], "b": TRUTH["train"]["b"]}, first_category=7)
    content["images"][0]["id"] = 391895
    for item in content["annotations"]:
        item.update(image_id=391895 if item["image_id"] == 1 else 2, iscrowd=1, area=3.5)
    (tmp_path / "a.json").write_text(json.dumps(content))
    dataset = discover_dataset(tmp_path / "a.json")
    assert dataset.class_ids == (7, 8, 9)
    images = [image for split in dataset.splits.values() for image in split.images]
    assert {image.image_id for image in images} == {391895, 2}
    assert {(obj.crowd, obj.area) for image in images for obj in image.objects} == {(True, 3.5)}


def test_extra_keys_are_kept_for_properties(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"{name}.jpg")
    box = {"category_id": 1, "bbox": [1, 1, 9, 9], "segmentation": [[1, 1, 9, 1, 9, 9]], "ignore": 0}
    content = {
        "images": [{"id": i, "file_name": f"{name}.jpg", "camera": i, "license": 3} for i, name in enumerate("ab")],
        "annotations": [{"id": i + 1, "image_id": i, **box, "angle": 30.0 + i} for i in range(2)],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    dataset = discover_dataset(tmp_path)
    written = [written_content(dataset, split) for split in dataset.splits.values()]
    images = [image for part in written for image in part["images"]]
    assert {image["file_name"]: image["camera"] for image in images} == {"a.jpg": 0, "b.jpg": 1}
    annotations = [item for part in written for item in part["annotations"]]
    assert sorted(item["angle"] for item in annotations) == [30.0, 31.0]
    assert not {"license", "segmentation", "ignore"} & set().union(*images, *annotations)


def test_missing_boxes_are_computed_from_polygons(tmp_path):
    root = write_coco_folders(tmp_path)

    def to_polygon(content):
        for item in content["annotations"]:
            x, y, w, h = item.pop("bbox")
            item["segmentation"] = [[x, y, x + w, y], [x + w, y + h, x, y + h]]

    edit(root / "train" / "_annotations.coco.json", to_polygon)
    assert annotations(discover_dataset(root))["train"]["a"] == sorted(TRUTH["train"]["a"])


def test_invalid_keypoints_are_counted_and_boxes_kept(tmp_path):
    root = write_coco_folders(tmp_path)

    def add_keypoints(content):
        content["categories"][0].update(PEOPLE)
        values = ([1, 2, 2, 3, 4, 1, 0, 0, 0], [1, 2, 2], [1, 2, 7] * 3, ["x"] * 9, [math.nan, 1, 2] * 3, [])
        for item, points in zip(content["annotations"], values, strict=False):
            item["keypoints"] = points

    for split in ("train", "valid"):
        edit(root / split / "_annotations.coco.json", add_keypoints)
    dataset = discover_dataset(root)
    assert dataset.keypoints.names == ("nose", "left_eye", "right_eye")
    assert dataset.keypoints.flip_pairs == (("left_eye", "right_eye"),)
    assert dataset.keypoints.skeleton == (("nose", "left_eye"), ("nose", "right_eye"))
    assert dataset.report.counts["objects with invalid keypoints, kept without keypoints"] == 3 + 2
    assert dataset.report.counts["objects with non-finite keypoints, kept without keypoints"] == 1
    assert dataset.splits["train"].num_objects == 6
    assert dataset.splits["train"].images[0].objects[0].keypoints == (1, 2, 2, 3, 4, 1, 0, 0, 0)


def test_unnamed_keypoints_are_numbered(tmp_path):
    root = write_coco_folders(tmp_path)
    for split in ("train", "valid"):
        edit(
            root / split / "_annotations.coco.json",
            lambda content: [item.update(keypoints=[1, 1, 2] * 2) for item in content["annotations"]],
        )
    assert discover_dataset(root).keypoints.names == ("keypoint_1", "keypoint_2")


def test_official_coco_folder_uses_instances_files(tmp_path):
    root = write_pair(tmp_path)
    for split in ("train2017", "val2017"):
        source = root / "annotations" / f"instances_{split}.json"
        (root / "annotations" / f"person_keypoints_{split}.json").write_text(source.read_text())
        captions = json.dumps({"images": [], "annotations": []})
        (root / "annotations" / f"captions_{split}.json").write_text(captions)
    dataset = discover_dataset(root)
    assert dataset.splits["train"].num_objects == 6
    assert any("person_keypoints_train2017.json is not used because there is" in note for note in dataset.report.notes)


def test_two_files_of_one_split_raise(tmp_path):
    root = write_pair(tmp_path)
    (root / "train.json").write_text((root / "annotations" / "instances_train2017.json").read_text())
    with pytest.raises(ValueError, match=r"train2017\.json and train\.json of .* both contain the split train"):
        discover_dataset(root)


def test_single_files_are_accepted(tmp_path):
    root = write_pair(tmp_path)
    files = [root / "annotations" / f"instances_{split}2017.json" for split in ("train", "val")]
    assert len(discover_dataset(files[0], files[1]).splits["val"].images) == 2
    assert discover_dataset(files[0]).split_rule == "splits: 1 of the 4 images of train sampled for val (seed 0)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"a\.json is not a JSON file"),
        ("[]", r"a\.json is not a COCO file"),
        ('{"images": [], "annotations": {}, "categories": []}', r"a\.json is not a COCO file"),
        ('{"images": [], "annotations": [], "categories": []}', r"a\.json: the list 'categories' is empty"),
    ],
)
def test_damaged_file_is_in_error_message(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        discover_dataset(tmp_path / "a.json")


def test_damaged_file_among_others_is_in_error_message(tmp_path):
    root = write_coco_folders(tmp_path)
    (root / "valid" / "_annotations.coco.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"valid/_annotations\.coco\.json is not a JSON file"):
        discover_dataset(root)


def test_kind_of_large_files_is_detected_without_parsing(tmp_path, monkeypatch):
    monkeypatch.setattr("centernet_d2.readers.coco._SMALL", 10)
    kinds = {
        "captions": {"images": [1] * 50, "annotations": [{"caption": "a"}], "categories": []},
        "panoptic masks": {"images": [1], "annotations": [{"segments_info": [{"bbox": []}]}], "categories": []},
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


def test_byte_order_marks_and_absolute_paths_are_supported(tmp_path):
    write_image(tmp_path / "elsewhere" / "a.jpg")
    write_image(tmp_path / "here" / "b.jpg")
    content = coco_content({"a": TRUTH["train"]["a"], "b": TRUTH["train"]["b"]})
    content["images"][0]["file_name"] = str(tmp_path / "elsewhere" / "a.jpg")
    (tmp_path / "here" / "labels.json").write_bytes(
        json.dumps(content, indent=1).replace("\n", "\r\n").encode("utf-8-sig")
    )
    dataset = discover_dataset(tmp_path / "here")
    assert {i.path.name for split in dataset.splits.values() for i in split.images} == {"a.jpg", "b.jpg"}
    assert dataset.report.counts["images with an absolute path"] == 1


ENTRIES = {
    "images": {"id": 7, "file_name": "a.png", "height": 40, "width": 60},
    "annotations": {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0},
    "categories": {"id": 3, "name": "kite"},
}


# A mask of 40 rows and 60 columns, two of which contain a run of 10 pixels; both encodings of COCO.
RUNS = {"size": [40, 60], "counts": [2 * 40 + 5, 10, 30, 10, 2400 - 3 * 40 - 15]}
COMPRESSED = {"size": [40, 60], "counts": "e2:n00kU2"}


def changed(key, **values):
    """Return the content of a file with other values in an entry; values of ... are removed."""
    entry = {k: v for k, v in {**ENTRIES[key], **values}.items() if v is not ...}
    return {**{name: [dict(one)] for name, one in ENTRIES.items()}, key: [entry]}


@pytest.fixture
def read(tmp_path):
    """Function content -> CocoFile and counts of the report."""

    def make(content):
        path, report = tmp_path / "a.json", Report()
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        (file,) = read_files([path], report)
        return file, report.counts

    return make


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.json is not a JSON file"),
        ("[" * 100000, "a.json is not a JSON file"),
        ("[]", "a.json is not a COCO file: it contains a list, but must contain an object with the lists images, ann"),
        ({"images": [], "annotations": []}, "a.json is not a COCO file: it has no list 'categories'"),
        (
            {"images": [], "categories": [{"id": 1, "name": "a"}]},
            "it has no list 'annotations'.* allowed for annotations",
        ),
        ({"annotations": [], "categories": []}, "it has no list 'images'"),
        ({**changed("images"), "images": {}}, "it has no list 'images'"),
        ({**changed("images"), "categories": []}, "the list 'categories' is empty"),
        ({**changed("images"), "images": [7]}, r"images\[0\] is 7, not an object"),
        ({**changed("images"), "annotations": [None]}, r"annotations\[0\] is None, not an object"),
    ],
)
def test_files_of_another_format_raise(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("images", {"id": ...}, r"images\[0\]: 'id' is missing; it must be a whole number or a string"),
        ("images", {"id": [7]}, r"images\[0\]: 'id' is \[7\]"),
        ("images", {"file_name": ...}, r"images\[0\] \(id 7\): 'file_name' is missing; it must name an image file"),
        ("categories", {"id": ...}, r"categories\[0\]: 'id' is missing"),
        ("categories", {"name": ...}, r"categories\[0\] \(id 3\): 'name' is missing"),
        ("categories", {"name": " "}, "'name' is ' '; it must be the class name"),
        ("annotations", {"image_id": ...}, r"annotations\[0\] \(id 1\): 'image_id' is missing"),
        ("annotations", {"image_id": 8}, "'image_id' is 8; it must be the id of an image"),
        ("annotations", {"image_id": "07"}, "'image_id' is '07'; it must be the id of an image"),
        ("annotations", {"category_id": ...}, "'category_id' is missing, but the ids of the categories are 3"),
        ("annotations", {"category_id": 4}, r"annotations\[0\] \(id 1\): 'category_id' is 4, but the ids .* are 3"),
        ("annotations", {"category_id": [3]}, r"'category_id' is \[3\]"),
        ("annotations", {"bbox": ...}, "'bbox' is None; it must be four numbers"),
        ("annotations", {"bbox": [1, None, 5, 5]}, r"'bbox' is \[1, None, 5, 5\]; it must be four numbers"),
        ("annotations", {"bbox": [1, 2, 3]}, "it must be four numbers x, y, width, height"),
        ("annotations", {"bbox": [1, 2, 3, 1e300]}, "must be finite and at most 16777216"),
    ],
)
def test_list_without_usable_entries_raises(read, key, values, message):
    """A single unusable entry among others is skipped and counted."""
    with pytest.raises(ValueError, match=rf"a\.json.*{message}"):
        read(changed(key, **values))
    content = changed(key, **values)
    content[key] += [ENTRIES[key]] if key != "annotations" else [{**ENTRIES[key], "id": 2 + i} for i in range(3)]
    file, counts = read(content)
    assert len(getattr(file, key)) == len(content[key]) - 1
    assert sum(counts.values()) == 1


@pytest.mark.parametrize(
    "mask",
    [
        None,
        [],
        [[5, 5, 5, 5]],
        {**RUNS, "size": [60, 40]},
        {**RUNS, "size": [0, 60]},
        {**RUNS, "counts": [1, 2]},
        {**RUNS, "counts": [-1, 2401]},
        {"size": [40, 60], "counts": "zzzzz"},
        "mask.png",
    ],
)
def test_objects_without_extent_do_not_become_background(read, mask):
    content = changed("annotations", bbox=[0, 0, 0, 0], segmentation=mask, keypoints=[5, 5, 2])
    content["annotations"].append(ENTRIES["annotations"])
    with pytest.raises(ValueError, match=r"a\.json: 1 of 2 annotations have no box.*background.*annotations\[0\]"):
        read(content)


@pytest.mark.parametrize("task", ["captions", "panoptic masks"])
def test_files_of_other_tasks_are_not_used(tmp_path, task):
    root = write_pair(tmp_path)
    key = {"captions": "caption", "panoptic masks": "segments_info"}[task]
    other = {**coco_content(TRUTH["train"]), "annotations": [{"id": 1, "image_id": 1, key: []}]}
    (root / "annotations" / "train_more.json").write_text(json.dumps(other))
    dataset = discover_dataset(root)
    assert dataset.splits["train"].num_objects == 6
    assert dataset.report.notes == [f"annotations/train_more.json is not used: it contains {task}, not boxes"]
    with pytest.raises(
        ValueError,
        match=r"train_more\.json is COCO (captions|panoptic segmentation), which is not read: pass the instances file",
    ):
        discover_dataset(root / "annotations" / "train_more.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"iscrowd": "few"}, "'iscrowd' is 'few', not 0 or 1"),
        ({"iscrowd": 2}, "'iscrowd' is 2, not 0 or 1"),
        ({"ignore": [1]}, r"'ignore' is \[1\], not 0 or 1"),
    ],
)
def test_ambiguous_entry_among_others_raises(read, values, message):
    content = changed("annotations", **values)
    content["annotations"].insert(0, ENTRIES["annotations"])
    with pytest.raises(ValueError, match=rf"a\.json: annotations\[1\] \(id 1\): {message}"):
        read(content)


@pytest.mark.parametrize(
    ("key", "values", "repaired", "reason"),
    [
        ("images", {"width": "60"}, {"width": 60}, "numbers stored as text"),
        ("images", {"height": 40.0}, {"height": 40}, None),
        ("images", {"height": ...}, {"height": None}, None),
        *(
            ("images", {"width": odd}, {"width": None}, "invalid widths or heights")
            for odd in (0, 60.5, math.nan, math.inf, -3, [60], "wide")
        ),
        ("categories", {"name": " kite "}, {"name": "kite"}, None),
        ("categories", {"name": 5}, {"name": "5"}, None),
        ("annotations", {"image_id": "7"}, {"image_id": 7}, "values of image_id with another type"),
        ("annotations", {"category_id": "3"}, {"category_id": 3}, "values of category_id with another type"),
        ("annotations", {"bbox": [1, "1", "5", 5.5]}, {"bbox": [1, 1, 5, 5.5]}, "numbers stored as text"),
        (
            "annotations",
            {"bbox": None, "segmentation": [[1, 2, 9, 2], [1, 2, 9, 7]]},
            {"bbox": [1, 2, 8, 5]},
            "boxes computed from polygons",
        ),
        *(
            (
                "annotations",
                {"bbox": none, "area": 0, "segmentation": mask, "keypoints": keypoints},
                {"bbox": box, "area": None},
                f"boxes computed from {source}",
            )
            for none in ([0, 0, 0, 0], [], None, [math.nan] * 4, [3, 4, 0, 5])
            for mask, keypoints, box, source in (
                ([[1, 2, 9, 2, 9, 7]], None, [1, 2, 8, 5], "polygons"),
                ([1, 2, 9, 2, 9, 7], None, [1, 2, 8, 5], "polygons"),
                (RUNS, None, [2, 5, 2, 10], "run-length masks"),
                (COMPRESSED, None, [2, 5, 2, 10], "run-length masks"),
                ([RUNS, COMPRESSED], None, [2, 5, 2, 10], "run-length masks"),
                ([], [5, 2, 1, 15, 9, 2, 0, 0, 0], [4, 1, 12, 9], "keypoints"),
            )
        ),
        ("annotations", {"area": "25.5"}, {"area": 25.5}, "numbers stored as text"),
        *(
            ("annotations", {"area": odd}, {"area": None}, "invalid areas")
            for odd in ("x", math.nan, -1, 10**400, [25])
        ),
        ("annotations", {"id": [5]}, {"image_id": 7}, None),
        *(("annotations", {key: None}, {key: None}, None) for key in ("id", "area", "keypoints")),
        *(("annotations", {"iscrowd": odd}, {"iscrowd": 0}, None) for odd in (None, False, 0.0, "0", "false")),
        *(
            ("annotations", flag, {"iscrowd": 1, "ignore": None}, "objects with another crowd flag")
            for flag in (
                *({"iscrowd": one} for one in ("1", "true", "Yes")),
                *({key: True} for key in ("isCrowd", "is_crowd")),
                {"attributes": {"is_crowd": True}},
            )
        ),
        *(
            ("annotations", flag, {"iscrowd": 1, "ignore": 1}, "objects with another ignore flag")
            for flag in (
                *({"ignore": one} for one in (1, True, 1.0, "1", "true")),
                {"attributes": {"ignore": "1"}},
                {"iscrowd": 0, "isIgnored": 1},
            )
        ),
        ("annotations", {"iscrowd": 1, "ignore": 1}, {"iscrowd": 1, "ignore": 1}, None),
        *(("annotations", {"iscrowd": one}, {"iscrowd": 1}, None) for one in (1, 1.0, True)),
        ("annotations", {"image_id": 7.0}, {"image_id": 7}, None),
        ("annotations", {"image_id": "7.0"}, {"image_id": 7}, "values of image_id with another type"),
        ("images", {"id": 7.0}, {"id": 7}, None),
        ("categories", {"id": 3.0}, {"id": 3}, None),
        (
            "images",
            {"file_name": ..., "coco_url": "http://x/t/a.png"},
            {"file_name": "t/a.png"},
            "image names read",
        ),
        ("annotations", {"keypoints": [1, 2, "2"]}, {"keypoints": [1, 2, 2]}, "numbers stored as text"),
        *(
            ("annotations", {"keypoints": odd, "num_keypoints": 1}, {"keypoints": None, "num_keypoints": None}, reason)
            for odd, reason in (
                ("x", "objects with invalid keypoints"),
                ([1, 2], "objects with invalid keypoints"),
                ([1, 2, 3], "objects with invalid keypoints"),
                ([1, None, 2], "objects with invalid keypoints"),
                ([1, math.nan, 2], "objects with non-finite keypoints"),
            )
        ),
    ],
)
def test_entries_are_repaired_and_counted(read, key, values, repaired, reason):
    file, counts = read(changed(key, **values))
    (entry,) = getattr(file, key)
    assert {name: entry.get(name) for name in repaired} == repaired
    assert len(file.annotations) == 1
    assert [text.startswith(reason) for text in counts] == [True] if reason else not counts


def test_string_ids_are_supported(read):
    content = changed("images", id="7")
    file, counts = read(content)
    assert (file.images[0]["id"], file.annotations[0]["image_id"]) == ("7", "7")
    assert counts == {"values of image_id with another type than the id, converted": 1}


@pytest.mark.parametrize("key", ["images", "categories"])
def test_repeated_and_mixed_ids_raise(read, key):
    entry, content = ENTRIES[key], changed(key)
    with pytest.raises(ValueError, match=rf"a\.json: 2 entries of {key} have the id {entry['id']}; ids must be unique"):
        read({**content, key: [entry, {**entry, "id": 99}, entry]})
    with pytest.raises(ValueError, match=rf"a\.json: the ids of {key} mix numbers and strings"):
        read({**content, key: [entry, {**entry, "id": "99"}]})


def test_repeated_ids_of_annotations_are_counted(read):
    entry = ENTRIES["annotations"]
    file, counts = read({**changed("images"), "annotations": [entry, entry, {**entry, "id": "2"}]})
    assert len(file.annotations) == 3
    assert counts == {"repeated annotation ids, annotations kept": 1}


def test_categories_with_the_same_name_are_merged(read):
    content = changed("categories")
    content["categories"] += [{"id": 5, "name": "kite "}, {"id": 1, "name": "bird"}]
    content["annotations"].append({**ENTRIES["annotations"], "id": 2, "category_id": 5})
    file, counts = read(content)
    assert [(item["id"], item["name"]) for item in file.categories] == [(1, "bird"), (3, "kite")]
    assert [item["category_id"] for item in file.annotations] == [3, 3]
    assert list(counts) == ["categories with the same name, merged into one class"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [int("9" * 400), 2, 5, 5]}, "non-finite boxes, skipped"),
        ({"area": int("9" * 400)}, "invalid areas, replaced by box areas"),
        ({"id": int("9" * 400)}, None),
        ({"image_id": int("9" * 400)}, "labels without an image"),
        ({"category_id": int("9" * 400)}, "broken rows, skipped"),
        ({"depth": math.inf}, "values that are not finite or nested too deep, skipped"),
        ({"depth": int("9" * 400)}, "values that are not finite or nested too deep, skipped"),
        ({"location": [1, 2, math.nan]}, "values that are not finite or nested too deep, skipped"),
        ({"attributes": json.loads("[" * 200 + "]" * 200)}, "values that are not finite or nested too deep, skipped"),
    ],
)
def test_numbers_without_a_float_are_counted_and_not_written(tmp_path, change, reason):
    root = write_coco_folders(tmp_path / "data")
    edit(root / "train" / "_annotations.coco.json", lambda content: content["annotations"][0].update(change))
    dataset = discover_dataset(root)
    assert (reason is None) == (reason not in dataset.report.counts)
    for split in dataset.splits.values():
        json.dumps(written_content(dataset, split), allow_nan=False)


@pytest.mark.parametrize("skeleton", [5, {"a": 1}, "text", [[1, 2], 7], [[1, int("9" * 400)]]])
def test_invalid_skeletons_are_counted(tmp_path, skeleton):
    root = write_coco_folders(tmp_path)
    for path in root.glob("*/*.json"):
        edit(path, lambda content: content["categories"][0].update(keypoints=["a", "b"], skeleton=skeleton))
    assert discover_dataset(root).report.counts["invalid skeleton edges, skipped"] == 1


def test_repeated_keys_raise(tmp_path):
    root = write_coco_folders(tmp_path)
    path = root / "train" / "_annotations.coco.json"
    path.write_text(path.read_text().replace('"iscrowd": 0', '"iscrowd": 0, "iscrowd": 1', 1))
    with pytest.raises(ValueError, match=r"_annotations.coco.json is not a JSON file: .* the key 'iscrowd' twice"):
        discover_dataset(root)


@pytest.mark.parametrize(("number", "limit"), [("MOST_CLASSES", 2), ("MOST_KEYPOINTS", 1)])
def test_numbers_of_classes_and_keypoints_are_limited(tmp_path, monkeypatch, number, limit):
    root = write_coco_folders(tmp_path)
    for path in root.glob("*/*.json"):
        edit(path, lambda content: content["categories"][0].update(keypoints=["a", "b"]))
    monkeypatch.setattr(f"centernet_d2.readers.records.{number}", limit)
    with pytest.raises(ValueError, match=f"but at most {limit} are supported"):
        discover_dataset(root)
