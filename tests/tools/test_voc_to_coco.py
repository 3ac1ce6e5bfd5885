import json
import re

import pytest

from support.folders import write_voc


@pytest.fixture
def tool(load_script):
    return load_script("tools/voc_to_coco.py")


@pytest.fixture
def folder(tmp_path):
    return write_voc(tmp_path / "voc")


def test_one_file_per_list(tool, folder, tmp_path, capsys):
    assert tool.main([str(folder), "--output", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train.json", "val.json", "trainval.json"}
    content = json.loads((tmp_path / "out" / "train.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert [category["name"] for category in content["categories"]] == ["Platelets", "RBC", "WBC"]
    assert content["annotations"][0]["bbox"] == [0, 0, 10, 20]
    assert "train.json: 4 images, 6 objects" in capsys.readouterr().out


def test_splits_and_order_of_classes(tool, folder, tmp_path, capsys):
    options = ["--classes", "WBC", "RBC", "--splits", "val"]
    assert tool.main([str(folder), "--output", str(tmp_path / "out"), *options]) == 0
    content = json.loads((tmp_path / "out" / "val.json").read_text())
    assert [x["category_id"] for x in content["annotations"]] == [2, 1]
    assert "1 objects of class Platelets, skipped: e.xml, object 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "rbc", "wbc"], "has no class rbc, .*; did you mean RBC?"),
        (["--splits", "test"], "test.txt does not exist; lists in this folder: train, trainval, val"),
    ],
)
def test_unknown_classes_and_splits_raise(tool, folder, tmp_path, capsys, options, message):
    assert tool.main([str(folder), "--output", str(tmp_path / "out"), *options]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_list_without_objects_raises(tool, folder, tmp_path, capsys):
    path = folder / "Annotations" / "e.xml"
    text = re.sub("<xmax>.*?</xmax>", "<xmax>inf</xmax>", path.read_text())
    path.write_text(text)
    assert tool.main([str(folder), "--output", str(tmp_path / "out"), "--splits", "val"]) == 1
    assert "non-finite boxes, skipped" in capsys.readouterr().err


def test_existing_file_is_not_overwritten(tool, folder, tmp_path, capsys):
    (tmp_path / "train.json").write_text("mine")
    assert tool.main([str(folder), "--output", str(tmp_path)]) == 1
    assert "train.json exists with other content" in capsys.readouterr().err
    assert (tmp_path / "train.json").read_text() == "mine"
    assert not (tmp_path / "val.json").exists()


def test_object_counts_of_bccd(tool, shared, tmp_path):
    folder = shared / "data" / "bccd"
    options = ["--splits", "train", "--classes", "RBC", "WBC", "Platelets"]
    assert tool.main([str(folder), "--output", str(tmp_path), *options]) == 0
    content = json.loads((tmp_path / "train.json").read_text())
    counts = [sum(x["category_id"] == i for x in content["annotations"]) for i in (1, 2, 3)]
    assert counts == [2382 - 1, 214, 209]
