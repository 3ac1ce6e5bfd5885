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
from centernet_d2.data.checks import check_dataset, has_visible_area, load_checked
from centernet_d2.modeling.heads import BoxProperty, KeypointProperty
from centernet_d2.modeling.heads.keypoint import KeypointSchema


@pytest.fixture
def coco_dataset(tmp_path, request):
    """Function that writes and registers a small COCO dataset."""
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


def test_category_ids_may_have_gaps(coco_dataset):
    name = coco_dataset([{"bbox": [1, 1, 5, 5], "category_id": 90}], categories=("a", "b"), ids=(7, 90))
    (record,) = load_checked([name], num_classes=2)
    assert record["annotations"][0]["category_id"] == 1


@pytest.mark.parametrize("num_classes", [1, 3])
def test_wrong_number_of_classes_raises(coco_dataset, num_classes):
    message = rf"has 2 classes \(a, b\), but MODEL.CENTERNET.NUM_CLASSES is {num_classes}"
    with pytest.raises(ValueError, match=message):
        load_checked([coco_dataset([{"bbox": [1, 1, 5, 5]}])], num_classes)


@pytest.mark.parametrize("box", [None, [1, 2, 3], ["a", 1, 2, 3], 7])
def test_boxes_without_four_numbers_raise(coco_dataset, box):
    name = coco_dataset([{"bbox": [1, 1, 5, 5]}])
    dicts = DatasetCatalog.get(name)
    dicts[0]["annotations"][0]["bbox"] = box
    with pytest.raises(
        ValueError, match=r"0\.png, annotation 0 of this image: the box is .*, but must be four finite numbers"
    ):
        check_dataset(name, dicts, num_classes=2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300, -1e300, 2**24 + 1, "5", None])
def test_invalid_coordinates_raise(coco_dataset, bad):
    name = coco_dataset([{"bbox": [1, 1, 5, 5]}, {"bbox": [1, 1, 5, 5]}])
    dicts = DatasetCatalog.get(name)
    dicts[0]["annotations"][1]["bbox"][1] = bad
    with pytest.raises(
        ValueError, match=r"0\.png, annotation 1 of this image: the box is .*, but must be four finite numbers"
    ):
        check_dataset(name, dicts, num_classes=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox_mode": BoxMode.XYXY_REL}, "bbox_mode is .*, but must be BoxMode.XYXY_ABS or"),
        ({"bbox_mode": None}, "bbox_mode is None"),
        ({"category_id": 2}, r"class 2 is outside 0\.\.1"),
        ({"category_id": None}, "class None is outside"),
    ],
)
def test_invalid_annotations_raise(coco_dataset, change, message):
    name = coco_dataset([{"bbox": [1, 1, 5, 5]}, {"bbox": [1, 1, 5, 5]}])
    dicts = DatasetCatalog.get(name)
    dicts[0]["annotations"][1].update(change)
    with pytest.raises(ValueError, match=f"annotation 1 of this image: {message}"):
        check_dataset(name, dicts, num_classes=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("file_name"), r"record 0 \(without file_name\): the key 'file_name' is missing"),
        (lambda record: record.update(file_name=None), "'file_name' is None, which has the wrong type"),
        (lambda record: record.update(height="48"), r"0\.png\): 'height' is '48', but must be a whole number"),
        (lambda record: record.update(annotations={}), "'annotations' is a dict, not a list"),
        (lambda record: record.update(annotations=[[1]]), "annotation 0 is a list, not a dict"),
        *(
            (lambda record, key=key: record["annotations"][1].pop(key), f"annotation 1: the key '{key}' is missing")
            for key in ("bbox", "bbox_mode", "category_id")
        ),
    ],
)
def test_incomplete_records_raise(coco_dataset, change, message):
    name = coco_dataset([{"bbox": [1, 1, 5, 5]}, {"bbox": [1, 1, 5, 5]}])
    dicts = DatasetCatalog.get(name)
    change(dicts[0])
    with pytest.raises(ValueError, match=message):
        check_dataset(name, dicts, num_classes=2)


def test_boxes_and_keypoints_in_arrays_are_accepted(coco_dataset):
    name = coco_dataset([{"bbox": [1, 1, 5, 5]}])
    dicts = DatasetCatalog.get(name)
    dicts[0]["annotations"][0]["bbox"] = np.float32([1, 1, 5, 5])
    check_dataset(name, dicts, num_classes=2)


def test_boxes_without_visible_area_are_counted(coco_dataset, caplog):
    boxes = [[1, 1, 5, 5], [1, 1, 0, 5], [1, 1, -5, 5], [70, 1, 5, 5], [1, 50, 5, 5]]
    name = coco_dataset([{"bbox": box} for box in boxes])
    with caplog.at_level(logging.WARNING, logger="centernet_d2.data.checks"):
        load_checked([name], num_classes=2)
    assert [r.getMessage() for r in caplog.records if "without area" in r.getMessage()] == [
        f"dataset '{name}': 4 boxes without area or outside their image, skipped in training"
    ]


def test_missing_image_raises(coco_dataset, tmp_path):
    name = coco_dataset([{"bbox": [1, 1, 5, 5]}])
    (tmp_path / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"the image .*0\.png does not exist"):
        load_checked([name], num_classes=2)


def test_empty_dataset_raises(coco_dataset):
    with pytest.raises(ValueError, match="has no images"):
        load_checked([coco_dataset(images=0)], num_classes=2)
    with pytest.raises(ValueError, match=r"a\.json: the list 'categories' is empty"):
        load_checked([coco_dataset(images=0, categories=())], num_classes=2)
    with pytest.raises(ValueError, match=r"no datasets are configured"):
        load_checked([], num_classes=2)


def test_unregistered_dataset_raises():
    with pytest.raises(KeyError, match="'nothing_here' is not registered; add it to DATASETS.REGISTER"):
        load_checked(["nothing_here"], num_classes=2)


def test_registration_is_repeatable_with_the_same_paths(coco_dataset, tmp_path):
    name = coco_dataset()
    register_datasets([[name, str(tmp_path / "a.json"), str(tmp_path)]])
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "images").mkdir()
    for other in ([str(tmp_path / "b.json"), str(tmp_path)], [str(tmp_path / "a.json"), str(tmp_path / "images")]):
        with pytest.raises(ValueError, match="is already registered with other paths"):
            register_datasets([[name, *other]])


@pytest.mark.parametrize("entry", [["a"], ["a", "b"], ["a", 1, "c"]])
def test_malformed_entries_raise(entry):
    with pytest.raises(ValueError, match="must be .name, annotations.json, image folder."):
        register_datasets([entry])


def test_missing_annotation_file_raises(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"nowhere/a\.json of the dataset 'x' does not exist"):
        register_datasets([["x", "nowhere/a.json", "images"]])


def test_images_without_annotations_get_an_empty_list(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), dtype=np.uint8))
    DatasetCatalog.register("bare", lambda: [{"file_name": str(tmp_path / "a.png"), "image_id": 1}])
    assert load_checked(["bare"], num_classes=2)[0]["annotations"] == []


def test_has_visible_area():
    boxes = [[1, 1, 5, 5], [5, 5, 1, 1], [5, 1, 1, 5], [1, 1, 1, 5], [-9, 1, 0, 5], [60, 1, 70, 5], [-5, -5, 70, 70]]
    annotations = [{"bbox": box, "bbox_mode": BoxMode.XYXY_ABS} for box in boxes]
    expected = [True, False, False, False, False, False, True]
    assert has_visible_area(annotations, (60, 40)).tolist() == expected
    annotations = [{"bbox": [x1, y1, x2 - x1, y2 - y1], "bbox_mode": BoxMode.XYWH_ABS} for x1, y1, x2, y2 in boxes]
    assert has_visible_area(annotations, np.array([[60, 40]] * 7)).tolist() == expected
    assert has_visible_area([], (60, 40)).tolist() == []


def test_null_and_empty_keypoints_are_removed(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), dtype=np.uint8))
    box = {"bbox": [0, 0, 2, 2], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    annotations = [{**box, "keypoints": keypoints} for keypoints in (None, [], [1, 1, 2])]
    DatasetCatalog.register("null", lambda: [{"file_name": str(tmp_path / "a.png"), "annotations": annotations}])
    found = load_checked(["null"], num_classes=2)[0]["annotations"]
    assert found == [box, box, {**box, "keypoints": [1, 1, 2]}]
    assert annotations[0]["keypoints"] is None


def test_images_list_unlabeled_properties(tmp_path):
    """Null keypoints do not label the property; invisible keypoints do."""
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
    assert [image.get("unlabeled") for image in images] == [None, None, *[["keypoint"]] * 4]
    assert not any("unlabeled" in image for image in load_checked(list(sets), 1))
    assert not any("unlabeled" in image for name in sets for image in DatasetCatalog.get(name))


def test_properties_validate_all_datasets(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), dtype=np.uint8))
    box = {"bbox": [0, 0, 2, 2], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    for name, keypoints in (("good", [1, 1, 2]), ("bad", [1, 1, 3])):
        record = {"file_name": str(tmp_path / "a.png"), "annotations": [{**box, "keypoints": keypoints}]}
        DatasetCatalog.register(name, lambda record=record: [record])
    properties = [KeypointProperty(schema=KeypointSchema((0,)))]
    assert len(load_checked(["good"], 1, properties)) == 1
    with pytest.raises(ValueError, match=r"a\.png, annotation 0 of this image: visibilities must be 0, 1 or 2"):
        load_checked(["good", "bad"], 1, properties)


def resize_image(path, size, **options):
    Image.new("RGB", size).save(path, **options)


def test_wrong_image_size_raises(coco_dataset, tmp_path):
    name = coco_dataset([{"bbox": [1, 1, 5, 5]}], images=3)
    resize_image(tmp_path / "1.png", (50, 41))
    resize_image(tmp_path / "2.png", (50, 41))
    message = r"1\.png is 50 x 41 pixels, but .* for 60 x 40 \(width x height\)\. Correct .* \(2 of 3 images differ\)"
    with pytest.raises(ValueError, match=message):
        load_checked([name], num_classes=2)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_annotations_without_exif_orientation_raise(coco_dataset, tmp_path, suffix):
    name = coco_dataset([{"bbox": [1, 1, 5, 5]}])
    dicts = DatasetCatalog.get(name)
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / f"rotated.{suffix}"
    resize_image(path, (60, 40), exif=exif)
    dicts[0]["file_name"] = str(path)
    with pytest.raises(ValueError, match=r"is 40 x 60 pixels.*60 x 40.*its size without the EXIF orientation 6"):
        check_dataset(name, dicts, num_classes=2)
    dicts[0].update(width=40, height=60)
    check_dataset(name, dicts, num_classes=2)


def test_exif_orientation_with_unchanged_size_warns(coco_dataset, tmp_path, caplog):
    name = coco_dataset([{"bbox": [1, 1, 5, 5]}])
    exif = Image.Exif()
    exif[274] = 3
    resize_image(tmp_path / "0.png", (60, 40), exif=exif)
    load_checked([name], num_classes=2)
    assert "EXIF orientation rotates or flips 1 images without changing their size" in caplog.text


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_invalid_image_headers_raise(coco_dataset, tmp_path, content):
    name = coco_dataset(images=2)
    (tmp_path / "0.png").write_bytes(content)
    (tmp_path / "1.png").unlink()
    with pytest.raises(OSError, match=r"cannot read the image .*0\.png: .* \(2 of 2 images cannot be opened\)"):
        load_checked([name], num_classes=2)


def test_images_with_too_many_pixels_raise(coco_dataset, tmp_path, monkeypatch):
    name = coco_dataset(images=1)
    load_checked([name], num_classes=2)
    monkeypatch.setenv("CENTERNET_D2_MAX_PIXELS", "2399")
    with pytest.raises(OSError, match=r"cannot read the image .*0\.png: 60 x 40 pixels exceed the limit of 2399"):
        load_checked([name], num_classes=2)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            [[30, 20, 55, 35], [40, 10, 60, 30], [5, 5, 20, 20]],
            "2 of 3 boxes exceed .* but fit as x1, y1, x2, y2",
        ),
        ([[0.1, 0.2, 0.5, 0.3], [0.5, 0.5, 1, 1]], r"All coordinates are in 0\.\.1"),
        ([[30, 20, 25, 15], [40, 10, 20, 30], [0, 0, 60, 40]], None),
        ([[55, 35, 50, 30], [55, 35, 50, 30]], None),
        ([], None),
    ],
)
def test_boxes_in_another_format_warn(coco_dataset, caplog, boxes, message):
    load_checked([coco_dataset([{"bbox": box} for box in boxes])], num_classes=2)
    lines = [record.getMessage() for record in caplog.records if "the box format may be wrong" in record.getMessage()]
    assert len(lines) == (message is not None)
    if message:
        assert re.search(message, lines[0])


def test_missing_builtin_dataset_raises(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"'coco_2017_val' needs .*instances_val2017.json, which does not exist; .*DATASETS"
    ):
        load_checked(["coco_2017_val"], 80)
