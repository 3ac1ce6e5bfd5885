import json
import os

import pytest
from detectron2.data.datasets import load_coco_json

from centernet_d2.readers import Split, coco_content, discover_dataset, write_coco
from support.folders import TRUTH, write_image, write_table, write_voc, write_yolo


@pytest.fixture
def dataset(tmp_path):
    return discover_dataset(write_voc(tmp_path / "voc"))


def test_detectron2_reads_written_files(dataset, tmp_path):
    files = write_coco(dataset, tmp_path / "output" / "data")
    assert set(files) == {"train", "val"}
    split = dataset.splits["train"]
    dicts = load_coco_json(str(files["train"]), str(split.root))
    assert all(os.path.isfile(image["file_name"]) for image in dicts)
    read = {os.path.basename(i["file_name"])[0]: [a["bbox"] for a in i["annotations"]] for i in dicts}
    expected = {n: [[a, b, c - a, d - b] for _, (a, b, c, d) in objects] for n, objects in TRUTH["train"].items()}
    assert read == expected
    assert [(i["height"], i["width"]) for i in dicts] == [(48, 64)] * 4


def test_written_file_has_keys_for_evaluation(dataset, tmp_path):
    content = json.loads(write_coco(dataset, tmp_path)["val"].read_text())
    assert content["categories"] == [{"id": i, "name": n} for i, n in enumerate(("Platelets", "RBC", "WBC"), 1)]
    assert [(a["id"], a["area"], a["iscrowd"]) for a in content["annotations"]] == [(1, 200, 0), (2, 30, 0), (3, 8, 0)]


def test_writing_the_same_dataset_twice_keeps_files(dataset, tmp_path):
    first = write_coco(dataset, tmp_path / "out")["train"].stat()
    second = write_coco(discover_dataset(tmp_path / "voc"), tmp_path / "out")["train"].stat()
    assert first.st_mtime_ns == second.st_mtime_ns
    assert sorted(os.listdir(tmp_path / "out")) == ["train.json", "val.json"]


def test_other_files_are_not_overwritten(dataset, tmp_path):
    (tmp_path / "val.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"val\.json exists with other content and is not overwritten"):
        write_coco(dataset, tmp_path)
    assert (tmp_path / "val.json").read_text() == "mine"
    assert not (tmp_path / "train.json").exists()


def test_images_outside_the_root_have_absolute_paths(dataset, tmp_path):
    split = Split("train", dataset.splits["train"].images, tmp_path / "other")
    names = {image["file_name"] for image in coco_content(dataset, split)["images"]}
    assert str(tmp_path / "voc" / "JPEGImages" / "a.jpg") in names


def test_keypoints_are_written(shared, tmp_path):
    dataset = discover_dataset(shared / "data" / "keypoints_mouse")
    content = json.loads(write_coco(dataset, tmp_path)["val"].read_text())
    source = json.loads((shared / "data/keypoints_mouse/annotations/keypoints_val.json").read_text())
    (category,) = content["categories"]
    assert {key: category[key] for key in ("keypoints", "skeleton")} == {
        key: source["categories"][0][key] for key in ("keypoints", "skeleton")
    }
    for key in ("keypoints", "num_keypoints", "area", "bbox", "image_id"):
        assert [a[key] for a in content["annotations"]] == [pytest.approx(a[key]) for a in source["annotations"]]


def test_written_files_are_read_back(dataset, tmp_path):
    files = write_coco(dataset, tmp_path / "voc" / "JPEGImages")
    again = discover_dataset(files["train"], val=files["val"])
    for name, split in dataset.splits.items():
        boxes = [[obj.box for obj in image.objects] for image in split.images]
        assert [[obj.box for obj in image.objects] for image in again.splits[name].images] == boxes


def test_image_names_are_relative_to_the_dataset_folder(tmp_path):
    write_image(tmp_path / "t" / "images" / "deep" / "x.jpg")
    dataset = discover_dataset(write_table(tmp_path / "t"))
    assert coco_content(dataset, dataset.splits["val"])["images"][0]["file_name"] == "images/e.jpg"


def test_names_that_are_not_utf8_are_read_back(tmp_path):
    root = write_yolo(tmp_path / "t")
    name = os.fsdecode(b"train/images/\xff\xe9.jpg")
    write_image(root / name)
    dataset = discover_dataset(root)
    "\n".join(dataset.lines()).encode()
    file = write_coco(dataset, tmp_path / "out")["train"]
    names = {image["file_name"] for image in json.loads(file.read_bytes().decode())["images"]}
    assert name in names
