import json
import logging

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from centernet_d2.data.checks import check_coco_file, check_dataset, load_checked
from centernet_d2.data.register import keypoint_metadata, register_datasets


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


@pytest.mark.parametrize("key", ["area", "iscrowd"])
def test_what_the_evaluation_needs_is_checked(data_set, tmp_path, key):
    name = data_set([{"bbox": [1, 1, 5, 5]}])
    check_coco_file(name)
    content = json.loads((tmp_path / "a.json").read_text())
    del content["annotations"][0][key]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"a\.json: annotation 1 lacks {key}, which the COCO evaluation needs"):
        check_coco_file(name)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_coordinates_that_are_not_finite_are_named(data_set, bad):
    name = data_set([{"bbox": [1, 1, 5, 5]}, {"bbox": [1, bad, 5, 5]}])
    with pytest.raises(ValueError, match=r"0\.png, annotation 1 of this image: the box .* not finite"):
        load_checked([name], num_classes=2)


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
    with pytest.raises(FileNotFoundError, match=r"names the image .*0\.png, which does not exist"):
        load_checked([name], num_classes=2)


def test_an_empty_data_set_is_an_error(data_set):
    with pytest.raises(ValueError, match="has no images"):
        load_checked([data_set(images=0)], num_classes=2)
    with pytest.raises(ValueError, match=r"cannot be loaded from .*a\.json"):
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


def test_a_skeleton_becomes_colored_lines():
    rules = keypoint_metadata(["a", "b", "c"], [["a", "b"]], [["a", "b"], ["b", "c"]])["keypoint_connection_rules"]
    assert [rule[:2] for rule in rules] == [("a", "b"), ("b", "c")]
    assert rules[0][2] != rules[1][2]
    for wrong in (["a", "nose"], ["a"]):
        with pytest.raises(ValueError, match=r"DATASETS.KEYPOINT_SKELETON: .* is not a pair of keypoint names \(a, b"):
            keypoint_metadata(["a", "b", "c"], [], [wrong])


def test_missing_annotations_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"nowhere/a\.json of the data set 'x' does not exist"):
        register_datasets([["x", "nowhere/a.json", "images"]])


def test_images_without_annotations_get_an_empty_list(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), dtype=np.uint8))
    DatasetCatalog.register("bare", lambda: [{"file_name": str(tmp_path / "a.png"), "image_id": 1}])
    assert load_checked(["bare"], num_classes=2)[0]["annotations"] == []
