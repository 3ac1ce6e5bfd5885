import json
import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from centernet_d2.data.catalog import register_datasets
from centernet_d2.data.checks import load_checked
from centernet_d2.data.coco import CocoDataset
from centernet_d2.modeling.heads import POINT_HEAD_REGISTRY, BoxHead, Property
from synthetic.kites import write_kites

ENTRIES = {
    "images": {"id": 7, "file_name": "a.png", "height": 40, "width": 60},
    "annotations": {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0},
    "categories": {"id": 3, "name": "kite"},
}


@pytest.fixture
def load(tmp_path):
    """A function content -> dicts."""

    def make(content, encoding="utf-8"):
        path = tmp_path / "a.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding=encoding)
        return CocoDataset("mine", str(path), str(tmp_path / "images"))()

    return make


def content(**lists):
    return {**{key: [dict(entry)] for key, entry in ENTRIES.items()}, **lists}


def changed(key, **values):
    """The content with other values in an entry; those that are ... are left out."""
    entry = {k: v for k, v in {**ENTRIES[key], **values}.items() if v is not ...}
    return content(**{key: [entry]})


def test_dicts_are_those_of_detectron2(tmp_path):
    write_kites(tmp_path, images=3)
    path, folder = str(tmp_path / "annotations.json"), str(tmp_path / "images")
    ours, theirs = CocoDataset("ours", path, folder)(), load_coco_json(path, folder, "theirs")
    assert len(ours) == 3
    assert ours == theirs
    for key in ("thing_classes", "thing_dataset_id_to_contiguous_id"):
        assert MetadataCatalog.get("ours").get(key) == MetadataCatalog.get("theirs").get(key)


def test_a_byte_order_mark_is_read_over(load):
    assert load(content(), "utf-8-sig") == load(content())


def test_what_may_be_missing_or_null(load):
    box = {"bbox": [1, 1, 5, 5], "image_id": 7, "category_id": 3}
    null = {**box, "id": None, "area": None, "iscrowd": None, "keypoints": None}
    found = load(content(annotations=[box, null, {**box, "keypoints": []}]))[0]["annotations"]
    assert [sorted(annotation) for annotation in found] == [["bbox", "bbox_mode", "category_id", "iscrowd"]] * 3
    assert load(content(annotations=[]))[0]["annotations"] == []
    assert load(changed("images", height=40.0))[0]["height"] == 40


def test_ids_may_be_texts(load):
    lists = changed("images", id="seven")
    lists["annotations"][0]["image_id"] = "seven"
    (record,) = load(lists)
    assert record["image_id"] == "seven"
    assert len(record["annotations"]) == 1


def test_repairs_and_skipped_entries_are_reported(load, caplog):
    """One log line per reason, with the number and the first three entries."""
    ids = (7, 8, 8, "9", 10, 11)
    annotations = [{**ENTRIES["annotations"], "id": i, "image_id": image} for i, image in enumerate(ids)]
    annotations.append({**ENTRIES["annotations"], "id": 20, "category_id": "3", "area": "x"})
    with caplog.at_level(logging.WARNING, logger="centernet_d2"):
        (record,) = load(content(annotations=annotations))
    assert len(record["annotations"]) == 2
    lines = [message.partition("a.json: ")[2] for message in caplog.messages]
    assert lines == [
        "5 labels without an image: a.json, annotation 1, a.json, annotation 2, a.json, annotation 3, ...",
        "1 values of category_id whose type is not that of the id, converted: a.json, annotation 20",
        "1 areas that are not square pixels, replaced by the areas of the boxes: a.json, annotation 20",
    ]


def test_sizes_may_be_missing(load):
    (record,) = load(changed("images", height=..., width="60"))
    assert "height" not in record
    assert record["width"] == 60


def test_a_file_is_parsed_once_and_callers_get_objects_of_their_own(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content()))
    data_set = CocoDataset("mine", str(path), str(tmp_path))
    first = data_set()
    path.unlink()
    first[0]["annotations"][0]["bbox"][0] = 50
    assert data_set()[0]["annotations"][0]["bbox"] == [1, 1, 5, 5]
    assert data_set.read().annotations == [ENTRIES["annotations"]]


def test_errors_reach_the_user_once(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(changed("images", id=...)))
    register_datasets([["mine_train", str(tmp_path / "a.json"), str(tmp_path)]])
    with pytest.raises(ValueError, match="'id' is missing") as caught:
        load_checked(["mine_train"], 1)
    assert str(caught.value).count("a.json") == 1
    assert "mine_train" in DatasetCatalog.list()


class TiltProperty(Property):
    name = "tilt"
    annotation_keys = ("tilt",)
    input_keys = ("floor",)


class TiltHead(BoxHead):
    property_type = TiltProperty


def test_what_properties_read_is_kept_as_it_is(load, monkeypatch):
    """Of every registered head, whether a config names it or not; nothing else."""
    space = {"location": [1, 2, 3], "rotation_y": 0.5}
    lists = content(
        images=[{**ENTRIES["images"], "floor": {"slope": 3}, "camera": [[1]], "wall": 1}],
        annotations=[{**ENTRIES["annotations"], **space, "tilt": [1, {"b": 2}], "hue": 9, "alpha": None}],
    )
    (before,) = load(lists)
    monkeypatch.setattr(POINT_HEAD_REGISTRY, "_obj_map", {**POINT_HEAD_REGISTRY._obj_map, "TiltHead": TiltHead})
    (after,) = load(lists)
    plain = {"bbox", "bbox_mode", "category_id", "iscrowd"}
    assert set(before["annotations"][0]) == plain | set(space)
    assert set(after["annotations"][0]) == plain | set(space) | {"tilt"}
    assert after["annotations"][0]["tilt"] == [1, {"b": 2}]
    assert after["annotations"][0]["location"] == [1, 2, 3]
    assert set(after) - set(before) == {"floor"}
    assert (after["floor"], after["camera"]) == ({"slope": 3}, [[1]])
    assert "wall" not in after


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../../../../../etc/passwd", "which leads out of the folder around the image folder"),
        ("https://example.org/a.png", "a URL, and nothing is downloaded"),
    ],
)
def test_names_of_images_lead_nowhere_else(load, name, message):
    with pytest.raises(ValueError, match=rf"a\.json: image 7: 'file_name' is '{name}', {message}"):
        load(changed("images", file_name=name))


def test_absolute_names_are_counted_in_one_line_and_neighbors_are_fine(load, caplog):
    with caplog.at_level("INFO"):
        assert load(changed("images", file_name="../images/a.png"))
        assert not caplog.messages
        (record,) = load(changed("images", file_name="/somewhere/a.png"))
    assert record["file_name"] == "/somewhere/a.png"
    assert [m for m in caplog.messages if "1 of 1 images have absolute names" in m]
