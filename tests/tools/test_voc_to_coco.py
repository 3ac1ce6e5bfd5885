import json

import pytest

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


@pytest.fixture
def tool(load_script):
    return load_script("tools/voc_to_coco.py")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "voc"
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    objects = [
        OBJECT.format(1, 1, 10, 20, name="cat", difficult=0),
        OBJECT.format(5, 5, 5, 9, name="cat", difficult=0),
        OBJECT.format(3, 4, 6, 9, name="dog", difficult=1),
    ]
    for name, content in (("a", objects), ("b", [])):
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename><size><width>60</width><height>40</height></size>"
            f"{''.join(content)}</annotation>"
        )
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    return root


def test_boxes_become_zero_based_and_empty_ones_are_left_out(tool, folder, tmp_path, capsys):
    assert tool.main([str(folder), "--output", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "train.json").read_text())
    assert [(image["id"], image["file_name"], image["width"]) for image in content["images"]] == [
        (1, "a.jpg", 60),
        (2, "b.jpg", 60),
    ]
    assert [category["name"] for category in content["categories"]] == ["cat", "dog"]
    boxes = [(x["bbox"], x["category_id"], x["difficult"]) for x in content["annotations"]]
    assert boxes == [([0, 0, 10, 20], 1, 0), ([2, 3, 4, 6], 2, 1)]
    assert "2 images, 2 objects, 1 without area left out" in capsys.readouterr().out


def test_the_order_of_classes_can_be_chosen(tool, folder, tmp_path, capsys):
    tool.main([str(folder), "--output", str(tmp_path), "--classes", "dog"])
    content = json.loads((tmp_path / "train.json").read_text())
    assert [x["category_id"] for x in content["annotations"]] == [1]
    assert "1 of class cat left out" in capsys.readouterr().out


def test_nothing_is_overwritten(tool, folder, tmp_path, capsys):
    assert tool.main([str(folder), "--output", str(tmp_path / "out")]) == 0
    assert tool.main([str(folder), "--output", str(tmp_path / "out")]) == 1
    assert "train.json exists already" in capsys.readouterr().err


def test_lists_per_class_are_read_by_their_flags(tool, folder, tmp_path):
    (folder / "ImageSets" / "Main" / "cat_train.txt").write_text("a  1\nb -1\n")
    tool.main([str(folder), "--output", str(tmp_path / "all")])
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["train.json"]
    tool.main([str(folder), "--output", str(tmp_path / "cats"), "--splits", "cat_train"])
    content = json.loads((tmp_path / "cats" / "cat_train.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.jpg"]


@pytest.mark.parametrize("damage", ["<annotation>", "<annotation></annotation>"])
def test_damaged_annotations_are_named(tool, folder, tmp_path, capsys, damage):
    (folder / "Annotations" / "a.xml").write_text(damage)
    assert tool.main([str(folder), "--output", str(tmp_path)]) == 1
    assert "a.xml is not a Pascal VOC annotation" in capsys.readouterr().err


def test_missing_lists_are_named(tool, folder, tmp_path, capsys):
    assert tool.main([str(folder), "--output", str(tmp_path), "--splits", "test"]) == 1
    assert "test.txt" in capsys.readouterr().err


def test_blood_cells_have_the_published_counts(tool, shared):
    content, left_out = tool.convert(shared / "data" / "bccd", "train", ["RBC", "WBC", "Platelets"])
    counts = [sum(x["category_id"] == i for x in content["annotations"]) for i in (1, 2, 3)]
    assert counts == [2382 - 1, 214, 209]
    assert left_out == {"without area": 1}
