import json
import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from centernet_d2.data.catalog import register_datasets
from centernet_d2.data.checks import load_checked
from centernet_d2.data.coco import load_coco_file
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
        return load_coco_file(str(path), str(tmp_path / "images"), "mine")

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
    ours, theirs = load_coco_file(path, folder, "ours"), load_coco_json(path, folder, "theirs")
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.json is not a JSON file"),
        ("[" * 100000, "a.json is not a JSON file"),
        (
            "[]",
            "a.json is not a COCO file: it holds a list, but must hold an object with the lists images, annotations",
        ),
        ({"images": [], "annotations": []}, "a.json is not a COCO file: it has no list 'categories'"),
        (
            {"images": [], "categories": [{"id": 1, "name": "a"}]},
            "it has no list 'annotations'.* allowed for annotations",
        ),
        ({"annotations": [], "categories": []}, "it has no list 'images'"),
        (content(images={}), "it has no list 'images'"),
        (content(categories=[]), "the list 'categories' is empty"),
        (content(images=[7]), r"images\[0\] is 7, not an object"),
        (content(annotations=[None]), r"annotations\[0\] is None, not an object"),
    ],
)
def test_what_is_no_coco_file_is_named(load, text, message):
    with pytest.raises(ValueError, match=message):
        load(text)


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("images", {"id": ...}, r"images\[0\]: 'id' is missing; it must be a number or a text"),
        ("images", {"id": [7]}, r"images\[0\]: 'id' is \[7\]"),
        ("images", {"height": ...}, r"images\[0\] \(id 7\): 'height' is missing; it must be a whole number of pixels"),
        ("images", {"width": "80"}, r"images\[0\] \(id 7\): 'width' is '80'; it must be a whole number"),
        ("images", {"width": 0}, "'width' is 0"),
        ("images", {"width": 60.5}, "'width' is 60.5"),
        ("images", {"width": float("nan")}, "'width' is nan"),
        ("images", {"file_name": ...}, "'file_name' is missing; it must name a file in the image folder"),
        ("categories", {"id": ...}, r"categories\[0\]: 'id' is missing"),
        ("categories", {"name": ...}, r"categories\[0\] \(id 3\): 'name' is missing"),
        ("annotations", {"image_id": ...}, r"annotations\[0\] \(id 1\): 'image_id' is missing"),
        ("annotations", {"category_id": ...}, "'category_id' is missing, but the ids of the categories are 3"),
        ("annotations", {"category_id": 4}, r"annotations\[0\] \(id 1\): 'category_id' is 4, but the ids .* are 3"),
        ("annotations", {"category_id": "3"}, "'category_id' is '3', but the ids of the categories are 3"),
        ("annotations", {"category_id": [3]}, r"'category_id' is \[3\]"),
        ("annotations", {"area": "x"}, "'area' is 'x'; give square pixels, or leave it out"),
        ("annotations", {"area": float("nan")}, "'area' is nan"),
        ("annotations", {"area": -1}, "'area' is -1"),
        ("annotations", {"area": 10**400}, "'area' is 1000"),
        ("annotations", {"iscrowd": "no"}, "'iscrowd' is 'no'; it must be 0 or 1"),
        ("annotations", {"ignore": 1}, "'ignore' is set, which is not read"),
        ("annotations", {"keypoints": "x"}, "'keypoints' is 'x'; it must be a list of finite numbers"),
        ("annotations", {"keypoints": [1, 2, "2"]}, "it must be a list of finite numbers"),
        ("annotations", {"keypoints": [1, float("nan"), 2]}, "it must be a list of finite numbers"),
    ],
)
def test_broken_entries_are_named_with_their_file(load, key, values, message):
    with pytest.raises(ValueError, match=rf"a\.json.*{message}"):
        load(changed(key, **values))


@pytest.mark.parametrize("key", list(ENTRIES))
def test_ids_that_are_there_twice_are_named(load, key):
    entry = ENTRIES[key]
    with pytest.raises(
        ValueError, match=rf"the id {entry['id']} is given to {key}\[0\], {key}\[2\]; give each its own"
    ):
        load(content(**{key: [entry, {**entry, "id": 99}, entry]}))
    with pytest.raises(ValueError, match=f"some ids of {key} are numbers and some are texts"):
        load(content(**{key: [entry, {**entry, "id": "99"}]}))


def test_annotations_of_unknown_images_are_counted_in_one_line(load, caplog):
    annotations = [
        {**ENTRIES["annotations"], "id": i, "image_id": image} for i, image in enumerate((7, 8, 8, 9, 10, 11))
    ]
    with caplog.at_level(logging.WARNING, logger="centernet_d2"):
        (record,) = load(content(annotations=annotations))
    assert len(record["annotations"]) == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert (
        "5 of 6 annotations are of images that the file does not list (image_id 8, 9, 10, ...); they are left out"
        in line
    )
    with pytest.raises(ValueError, match="1 of 1 annotations are of images .*'7'.*must be the 'id' of an image"):
        load(changed("annotations", image_id="7"))


def test_errors_reach_the_user_once(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(changed("images", height=...)))
    register_datasets([["mine_train", str(tmp_path / "a.json"), str(tmp_path)]])
    with pytest.raises(ValueError, match="'height' is missing") as caught:
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
    with pytest.raises(ValueError, match=rf"a\.json: images\[0\] \(id 7\): 'file_name' is '{name}', {message}"):
        load(changed("images", file_name=name))


def test_absolute_names_are_counted_in_one_line_and_neighbors_are_fine(load, caplog):
    with caplog.at_level("INFO"):
        assert load(changed("images", file_name="../images/a.png"))
        assert not caplog.messages
        (record,) = load(changed("images", file_name="/somewhere/a.png"))
    assert record["file_name"] == "/somewhere/a.png"
    assert [m for m in caplog.messages if "1 of 1 images have absolute names" in m]
