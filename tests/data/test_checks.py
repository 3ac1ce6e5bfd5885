import json
import logging
import re

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from PIL import Image

from centernet_d2.data.catalog import register_datasets
from centernet_d2.data.checks import check_dataset, load_checked, shows_something
from centernet_d2.modeling.heads import BoxProperty, KeypointProperty
from centernet_d2.modeling.heads.keypoint import KeypointSchema


@pytest.fixture
def data_set(tmp_path, request):
    """A function that writes and registers a tiny COCO data set."""
    names = []

    def make(annotations=(), categories=("a", "b"), images=1, ids=None):
        for index in range(images):
            cv2.imwrite(str(tmp_path / f"{index}.png"), np.zeros((40, 60, 3), dtype=np.uint8))
        ids = ids or range(1, len(categories) + 1)
        content = {
            "info": {},
            "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in range(images)],
            "annotations": [
                {"id": i + 1, "image_id": 0, "iscrowd": 0, "area": 1, "category_id": 1, **annotation}
                for i, annotation in enumerate(annotations)
            ],
            "categories": [{"id": i, "name": name} for i, name in zip(ids, categories, strict=True)],
        }
        (tmp_path / "a.json").write_text(json.dumps(content))
        name = f"{request.node.name}_{len(names)}"
        register_datasets([[name, str(tmp_path / "a.json"), str(tmp_path)]])
        names.append(name)
        return name

    return make


def test_category_ids_with_holes_work(data_set):
    name = data_set([{"bbox": [1, 1, 5, 5], "category_id": 90}], categories=("a", "b"), ids=(7, 90))
    (record,) = load_checked([name], num_classes=2)
    assert record["annotations"][0]["category_id"] == 1


@pytest.mark.parametrize("num_classes", [1, 3])
def test_another_number_of_classes_names_the_key(data_set, num_classes):
    message = rf"has 2 classes \(a, b\), but MODEL.CENTERNET.NUM_CLASSES is {num_classes}"
    with pytest.raises(ValueError, match=message):
        load_checked([data_set([{"bbox": [1, 1, 5, 5]}])], num_classes)


@pytest.mark.parametrize("box", [None, [1, 2, 3], ["a", 1, 2, 3], 7])
def test_boxes_that_are_not_four_numbers_are_named(data_set, box):
    name = data_set([{"bbox": [1, 1, 5, 5]}])
    dicts = DatasetCatalog.get(name)
    dicts[0]["annotations"][0]["bbox"] = box
    with pytest.raises(ValueError, match=r"0\.png, annotation 0 of this image: the box is .*, not four numbers"):
        check_dataset(name, dicts, num_classes=2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300, -1e300, 2**24 + 1, "5", None])
def test_coordinates_that_cannot_be_used_are_named(data_set, bad):
    name = data_set([{"bbox": [1, 1, 5, 5]}, {"bbox": [1, 1, 5, 5]}])
    dicts = DatasetCatalog.get(name)
    dicts[0]["annotations"][1]["bbox"][1] = bad
    with pytest.raises(ValueError, match=r"0\.png, annotation 1 of this image: the box is .*, not four numbers"):
        check_dataset(name, dicts, num_classes=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox_mode": BoxMode.XYXY_REL}, "the bbox_mode is .*, not BoxMode.XYXY_ABS or"),
        ({"bbox_mode": None}, "the bbox_mode is None"),
        ({"category_id": 2}, r"class 2 is outside 0\.\.1"),
        ({"category_id": None}, "class None is outside"),
    ],
)
def test_dicts_from_elsewhere_are_checked_too(data_set, change, message):
    name = data_set([{"bbox": [1, 1, 5, 5]}, {"bbox": [1, 1, 5, 5]}])
    dicts = DatasetCatalog.get(name)
    dicts[0]["annotations"][1].update(change)
    with pytest.raises(ValueError, match=f"annotation 1 of this image: {message}"):
        check_dataset(name, dicts, num_classes=2)


def test_useless_boxes_are_counted_in_one_line(data_set, caplog):
    boxes = [[1, 1, 5, 5], [1, 1, 0, 5], [1, 1, -5, 5], [70, 1, 5, 5], [1, 50, 5, 5]]
    name = data_set([{"bbox": box} for box in boxes])
    with caplog.at_level(logging.WARNING, logger="centernet_d2.data.checks"):
        load_checked([name], num_classes=2)
    assert [r.getMessage() for r in caplog.records if "without area" in r.getMessage()] == [
        f"data set '{name}': 4 boxes without area or outside their image are left out of training"
    ]


def test_a_missing_image_is_named(data_set, tmp_path):
    name = data_set([{"bbox": [1, 1, 5, 5]}])
    (tmp_path / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"the image .*0\.png does not exist"):
        load_checked([name], num_classes=2)


def test_an_empty_data_set_is_an_error(data_set):
    with pytest.raises(ValueError, match="has no images"):
        load_checked([data_set(images=0)], num_classes=2)
    with pytest.raises(ValueError, match=r"a\.json: the list 'categories' is empty"):
        load_checked([data_set(images=0, categories=())], num_classes=2)
    with pytest.raises(ValueError, match=r"no data set is named"):
        load_checked([], num_classes=2)


def test_an_unknown_name_is_an_error():
    with pytest.raises(KeyError, match="'nothing_here' is not registered: add it to DATASETS.REGISTER"):
        load_checked(["nothing_here"], num_classes=2)


def test_register_is_repeatable_but_not_ambiguous(data_set, tmp_path):
    name = data_set()
    register_datasets([[name, str(tmp_path / "a.json"), str(tmp_path)]])
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "images").mkdir()
    for other in ([str(tmp_path / "b.json"), str(tmp_path)], [str(tmp_path / "a.json"), str(tmp_path / "images")]):
        with pytest.raises(ValueError, match="is taken by another data set"):
            register_datasets([[name, *other]])


@pytest.mark.parametrize("entry", [["a"], ["a", "b"], ["a", 1, "c"]])
def test_malformed_entries_are_errors(entry):
    with pytest.raises(ValueError, match="is not .name, annotations.json, image folder."):
        register_datasets([entry])


def test_missing_annotations_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"nowhere/a\.json of the data set 'x' does not exist"):
        register_datasets([["x", "nowhere/a.json", "images"]])


def test_images_without_annotations_get_an_empty_list(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), dtype=np.uint8))
    DatasetCatalog.register("bare", lambda: [{"file_name": str(tmp_path / "a.png"), "image_id": 1}])
    assert load_checked(["bare"], num_classes=2)[0]["annotations"] == []


def test_which_boxes_show_something():
    boxes = [[1, 1, 5, 5], [5, 5, 1, 1], [5, 1, 1, 5], [1, 1, 1, 5], [-9, 1, 0, 5], [60, 1, 70, 5], [-5, -5, 70, 70]]
    annotations = [{"bbox": box, "bbox_mode": BoxMode.XYXY_ABS} for box in boxes]
    expected = [True, False, False, False, False, False, True]
    assert shows_something(annotations, (60, 40)).tolist() == expected
    annotations = [{"bbox": [x1, y1, x2 - x1, y2 - y1], "bbox_mode": BoxMode.XYWH_ABS} for x1, y1, x2, y2 in boxes]
    assert shows_something(annotations, np.array([[60, 40]] * 7)).tolist() == expected
    assert shows_something([], (60, 40)).tolist() == []


def test_keypoints_that_are_null_or_empty_are_none(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), dtype=np.uint8))
    box = {"bbox": [0, 0, 2, 2], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    annotations = [{**box, "keypoints": keypoints} for keypoints in (None, [], [1, 1, 2])]
    DatasetCatalog.register("null", lambda: [{"file_name": str(tmp_path / "a.png"), "annotations": annotations}])
    found = load_checked(["null"], num_classes=2)[0]["annotations"]
    assert found == [box, box, {**box, "keypoints": [1, 1, 2]}]
    assert annotations[0]["keypoints"] is None


def test_what_a_data_set_does_not_label_is_named_by_each_of_its_images(tmp_path):
    """Keypoints that are all null label nothing; keypoints that are there but not visible do."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), dtype=np.uint8))
    box = {"bbox": [0, 0, 2, 2], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    sets = {
        "with": [{**box, "keypoints": [0, 0, 0]}, box],
        "without": [box, {**box, "keypoints": None}],
        "nothing": [],
    }
    for name, annotations in sets.items():
        records = [{"file_name": str(tmp_path / "a.png"), "annotations": part} for part in ([], annotations)]
        DatasetCatalog.register(name, lambda records=records: records)
    properties = [BoxProperty(), KeypointProperty(schema=KeypointSchema((0,)))]
    images = load_checked(list(sets), 1, properties)
    assert [image.get("unlabelled") for image in images] == [None, None, *[["keypoint"]] * 4]
    assert not any("unlabelled" in image for image in load_checked(list(sets), 1))
    assert not any("unlabelled" in image for name in sets for image in DatasetCatalog.get(name))


def test_properties_check_every_data_set(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), dtype=np.uint8))
    box = {"bbox": [0, 0, 2, 2], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    for name, keypoints in (("good", [1, 1, 2]), ("bad", [1, 1, 3])):
        record = {"file_name": str(tmp_path / "a.png"), "annotations": [{**box, "keypoints": keypoints}]}
        DatasetCatalog.register(name, lambda record=record: [record])
    properties = [KeypointProperty(schema=KeypointSchema((0,)))]
    assert len(load_checked(["good"], 1, properties)) == 1
    with pytest.raises(ValueError, match=r"a\.png, annotation 0 of this image: a visibility is not 0, 1 or 2"):
        load_checked(["good", "bad"], 1, properties)


def resize_image(path, size, **options):
    Image.new("RGB", size).save(path, **options)


def test_another_size_than_that_of_the_image_is_named(data_set, tmp_path):
    name = data_set([{"bbox": [1, 1, 5, 5]}], images=3)
    resize_image(tmp_path / "1.png", (50, 41))
    resize_image(tmp_path / "2.png", (50, 41))
    message = r"1\.png is 50 x 41 pixels, but .* for 60 x 40 \(width x height\)\. Correct .* \(2 of 3 images differ\)"
    with pytest.raises(ValueError, match=message):
        load_checked([name], num_classes=2)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_annotations_of_images_as_they_are_stored_are_explained(data_set, tmp_path, suffix):
    name = data_set([{"bbox": [1, 1, 5, 5]}])
    dicts = DatasetCatalog.get(name)
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / f"turned.{suffix}"
    resize_image(path, (60, 40), exif=exif)
    dicts[0]["file_name"] = str(path)
    with pytest.raises(ValueError, match=r"is 40 x 60 pixels.*60 x 40.*as it is stored: its EXIF orientation 6 turns"):
        check_dataset(name, dicts, num_classes=2)
    dicts[0].update(width=40, height=60)
    check_dataset(name, dicts, num_classes=2)


def test_turns_that_keep_the_size_are_pointed_out(data_set, tmp_path, caplog):
    name = data_set([{"bbox": [1, 1, 5, 5]}])
    exif = Image.Exif()
    exif[274] = 3
    resize_image(tmp_path / "0.png", (60, 40), exif=exif)
    load_checked([name], num_classes=2)
    assert "EXIF data turn or mirror 1 images without changing their size" in caplog.text


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_broken_headers_are_named(data_set, tmp_path, content):
    name = data_set(images=2)
    (tmp_path / "0.png").write_bytes(content)
    (tmp_path / "1.png").unlink()
    with pytest.raises(OSError, match=r"cannot read the image .*0\.png: .* \(2 of 2 images cannot be opened\)"):
        load_checked([name], num_classes=2)


def test_images_too_large_to_decode_are_named(data_set, tmp_path, monkeypatch):
    name = data_set(images=1)
    load_checked([name], num_classes=2)
    monkeypatch.setenv("CENTERNET_D2_MAX_PIXELS", "2399")
    with pytest.raises(OSError, match=r"cannot read the image .*0\.png: 60 x 40 are more than 2399 pixels"):
        load_checked([name], num_classes=2)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[30, 20, 55, 35], [40, 10, 60, 30], [5, 5, 20, 20]], "2 of 3 end outside .* but fit as two corners"),
        ([[0.1, 0.2, 0.5, 0.3], [0.5, 0.5, 1, 1]], r"All numbers are within 0\.\.1"),
        ([[30, 20, 25, 15], [40, 10, 20, 30], [0, 0, 60, 40]], None),
        ([[55, 35, 50, 30], [55, 35, 50, 30]], None),
        ([], None),
    ],
)
def test_boxes_of_another_convention_are_pointed_out(data_set, caplog, boxes, message):
    load_checked([data_set([{"bbox": box} for box in boxes])], num_classes=2)
    lines = [record.getMessage() for record in caplog.records if "are its boxes right" in record.getMessage()]
    assert len(lines) == (message is not None)
    if message:
        assert re.search(message, lines[0])


def test_a_data_set_of_detectron2_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"'coco_2017_val' needs .*instances_val2017.json, which does not exist; .*DATASETS"
    ):
        load_checked(["coco_2017_val"], 80)
