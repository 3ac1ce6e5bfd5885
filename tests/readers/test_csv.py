import pytest

from centernet_d2.readers import discover_dataset
from support.folders import TRUTH, annotations, write_image, write_table

HEADER = "path,x1,y1,x2,y2,label"


def write(root, text, images=("a", "b"), name="labels.csv", encoding="utf-8"):
    for image in images:
        write_image(root / f"{image}.jpg")
    (root / name).write_bytes(text.encode(encoding))
    return root


def boxes(dataset):
    return {
        image.path.stem: [(obj.label, obj.box) for obj in image.objects]
        for split in dataset.splits.values()
        for image in split.images
    }


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("path,x1,y1,x2,y2,label", "{}.jpg,1,2,11,22,ant"),
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "{}.jpg,64,48,ant,1,2,11,22"),
        ("image_id,xmin,ymin,xmax,ymax,class_name", "{},1,2,11,22,ant"),
        ("Image ID;Class ID;X Min;Y Min;X Max;Y Max;Category", "{}.jpg;7;1,0;2;11;22;ant"),
        ("Filename;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId", "{}.jpg;1;2;11;22;ant"),
        ("image\tleft\ttop\tright\tbottom\tlabel_name", "{}.jpg\t1\t2\t11\t22\tant"),
        ("file_name,category,x,y,w,h", "{}.jpg,ant,1,2,10,20"),
        ("image,x_min,y_min,width,height,label", "{}.jpg,1,2,10,20,ant"),
        ("img,bbox_x,bbox_y,bbox_width,bbox_height,name", "{}.jpg,1,2,10,20,ant"),
        ("image,x_center,y_center,width,height,label", "{}.jpg,6,12,10,20,ant"),
        ("image_id,width,height,bbox,label", '{},64,48,"[1.0, 2.0, 10.0, 20.0]",ant'),
        ("ImageID,LabelName,XMin,XMax,YMin,YMax", "{},ant,0.015625,0.171875,0.0416666667,0.4583333333"),
        ('"path","x1","y1","x2","y2","label"', '"{}.jpg","1","2","11","22","ant"'),
    ],
)
def test_common_headers_are_supported(tmp_path, header, row):
    dataset = discover_dataset(write(tmp_path, "\n".join((header, row.format("a"), row.format("b")))))
    assert dataset.layout == "CSV"
    for objects in boxes(dataset).values():
        assert objects == [("ant", pytest.approx((1, 2, 11, 22), abs=1e-3))]
    assert set(boxes(dataset)) == {"a", "b"}
    assert not dataset.report.counts


def test_every_kind_of_error_is_counted(tmp_path):
    root = write_table(tmp_path)
    rows = [
        "images/a.jpg,nan,1,9,9,RBC",
        "images/a.jpg,5,5,5,9,RBC",
        "images/a.jpg,100,100,120,120,RBC",
        "images/a.jpg,60,40,90,90,RBC",
        "images/a.jpg,60,40,66,50,RBC",
        "images/a.jpg,9,1,1,9,RBC",
        "images/a.jpg,0.1,0.1,0.9,0.9,RBC",
        "images/a.jpg,x,1,9,9,RBC",
        "images/a.jpg,1,9,9",
        "images/a.jpg,1,1,9,9,",
        ",1,1,9,9,RBC",
        "images/lost.jpg,1,1,9,9,RBC",
        "https://example.org/gone.jpg,1,1,9,9,RBC",
        "images/bad.jpg,1,1,9,9,RBC",
    ]
    with (root / "train.csv").open("a") as file:
        file.write("\n".join(rows))
    (root / "images" / "bad.jpg").write_text("no image")
    write_image(root / "images" / "unlisted.jpg")
    dataset = discover_dataset(root)
    assert dataset.report.counts == {
        "non-finite boxes, skipped": 1,
        "boxes without area, skipped": 1,
        "boxes outside their image, skipped": 1,
        "boxes with exchanged corners, repaired": 1,
        "boxes that exceed their image by more than 2 pixels and 1 % (of another image size?), skipped": 1,
        "boxes partly outside their image, clipped": 1,
        "boxes in 0..1 among boxes in pixels, skipped": 1,
        "broken rows, skipped": 4,
        "labels without an image": 1,
        "labels whose image is a URL (not downloaded)": 1,
        "unreadable images, skipped": 1,
        "images in no table, skipped": 1,
        "images without labels, kept as background": 2,
    }
    assert dataset.report.examples["broken rows, skipped"] == [f"train.csv, line {line}" for line in (16, 17, 18)]


def test_images_without_a_row_are_background(tmp_path):
    text = f"{HEADER}\na.jpg,1,1,9,9,ant\nb.jpg,1,1,9,9,ant\n"
    dataset = discover_dataset(write(tmp_path, text, images=("a", "b", "c")))
    assert boxes(dataset)["c"] == []
    assert dataset.report.examples["images without labels, kept as background"] == ["c.jpg"]


def test_split_column_defines_splits(tmp_path):
    rows = [
        f"{name}.jpg,{','.join(map(str, box))},{label},{split.upper()}"
        for split, images in TRUTH.items()
        for name, objects in images.items()
        for label, box in objects
    ]
    names = [name for images in TRUTH.values() for name, objects in images.items() if objects]
    root = write(tmp_path, "\n".join((f"{HEADER},split", *rows)), names)
    expected = {split: {name for name, objects in images.items() if objects} for split, images in TRUTH.items()}
    assert {split: set(images) for split, images in annotations(discover_dataset(root)).items()} == expected
    write(root, "\n".join((f"{HEADER},split", *rows, "a.jpg,1,1,5,5,RBC,val")))
    with pytest.raises(ValueError, match=r"labels\.csv, line .*: a\.jpg is in the splits train and val"):
        discover_dataset(root)


def test_folders_define_splits(tmp_path):
    for split, name in (("train", "a"), ("valid", "b")):
        (tmp_path / split).mkdir()
        text = f"filename,class,xmin,ymin,xmax,ymax\n{name}.jpg,ant,1,1,9,9\n"
        write(tmp_path / split, text, (name,), "_annotations.csv")
    assert {split: set(images) for split, images in annotations(discover_dataset(tmp_path)).items()} == {
        "train": {"a"},
        "val": {"b"},
    }


def test_table_without_boxes_is_noted(tmp_path):
    root = write_table(tmp_path)
    (root / "test.csv").write_text("image_id\nq.jpg\n")
    assert "test.csv is not used: its first row has no image and box columns" in discover_dataset(root).report.notes


def test_table_without_class_column_has_one_class(tmp_path):
    dataset = discover_dataset(write(tmp_path, "path,x1,y1,x2,y2\na.jpg,1,1,9,9\nb.jpg,1,1,9,9\n"))
    assert dataset.class_names == ("object",)
    assert "labels.csv has no class column: all objects get the class 'object'" in dataset.report.notes


def test_numeric_classes_are_sorted_numerically(tmp_path):
    rows = [f"{name}.jpg,1,1,9,9,{label}" for label in (10, 9, 1) for name in "ab"]
    assert discover_dataset(write(tmp_path, "\n".join((HEADER, *rows)))).class_names == ("1", "9", "10")


@pytest.mark.parametrize("name", ["", "labels.csv"])
def test_table_without_header_raises(tmp_path, name):
    write(tmp_path, "a.jpg,1,1,9,9,ant\nb.jpg,1,1,9,9,ant\n")
    with pytest.raises(ValueError, match=r"labels\.csv: the first row must be a header .* RetinaNet-style tables"):
        discover_dataset(tmp_path / name)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1251", "gbk", "shift-jis"])
def test_undeclared_encodings_raise(tmp_path, encoding):
    word = {"latin-1": "Ähre", "cp1251": "красный", "gbk": "红色", "shift-jis": "赤"}[encoding]
    write(tmp_path, f"{HEADER}\na.jpg,1,1,9,9,{word}\n", encoding=encoding)
    with pytest.raises(ValueError, match=r"labels\.csv is not a text file in UTF-8 \(byte .*\); save it in UTF-8"):
        discover_dataset(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings_and_line_endings_are_supported(tmp_path, encoding):
    text = f"{HEADER}\r\nÄ b.jpg,1,1,9,9,Ähre\r\n\r\nb.jpg,1,1,9,9,Ähre\r\n"
    dataset = discover_dataset(write(tmp_path, text, images=("Ä b", "b"), encoding=encoding))
    assert dataset.class_names == ("Ähre",)
    assert not dataset.report.counts


@pytest.mark.parametrize("corners", ["9,1,1,8", "1,8,9,1", "9,8,1,1"])
def test_exchanged_corners_are_repaired(tmp_path, corners):
    dataset = discover_dataset(write(tmp_path, f"{HEADER}\na.jpg,{corners},ant\nb.jpg,1,1,9,8,ant\n"))
    assert boxes(dataset) == {name: [("ant", (1, 1, 9, 8))] for name in "ab"}
    assert dataset.report.examples == {"boxes with exchanged corners, repaired": ["labels.csv, line 2"]}


@pytest.mark.parametrize("corners", ["-0.0004,0,0.5,0.5", "0,0,0.5,1.000002", "0,-0.02,0.5,0.5"])
@pytest.mark.parametrize("header", [HEADER, "ImageID,XMin,YMin,XMax,YMax,LabelName"])
def test_fractions_slightly_beyond_the_image_are_read(tmp_path, header, corners):
    dataset = discover_dataset(write(tmp_path, f"{header}\na.jpg,{corners},ant\nb.jpg,0,0,0.5,0.5,ant\n"))
    expected = (0, 0, 32, 48) if corners.endswith("2") else (0, 0, 32, 24)
    assert boxes(dataset)["a"] == [("ant", pytest.approx(expected, abs=1))]


def test_fractions_far_beyond_the_image_are_rejected(tmp_path):
    rows = "".join(f"{name}.jpg,0,0,0.5,0.5,ant\n" for name in "abab")
    dataset = discover_dataset(write(tmp_path, f"{HEADER}\n{rows}a.jpg,0,0,1.2,0.5,ant\nb.jpg,3,4,9,20,ant\n"))
    assert {name: len(rows) for name, rows in boxes(dataset).items()} == {"a": 2, "b": 2}
    assert sorted(dataset.report.examples.values()) == [["labels.csv, line 6"], ["labels.csv, line 7"]]


def test_group_flags_are_read(tmp_path):
    rows = "".join(f"{name}.jpg,1,1,9,9,ant,{flag}\n" for name, flag in (("a", 0), ("a", "True"), ("b", 1), ("b", "")))
    dataset = discover_dataset(write(tmp_path, f"{HEADER},IsGroupOf\n{rows}"))
    objects = {i.path.stem: [obj.crowd for obj in i.objects] for s in dataset.splits.values() for i in s.images}
    assert objects == {"a": [False, True], "b": [True, False]}


def test_unused_tables_are_noted_with_the_reason(tmp_path):
    rows = {name: f"{name}.jpg,1,1,9,9,ant\n" for name in "abc"}
    write(tmp_path, f"{HEADER}\n{''.join(rows.values())}", "abc", "all.csv")
    write(tmp_path, f"{HEADER}\n{rows['a']}", "a", "train_labels.csv")
    write(tmp_path, f"{HEADER}\n{rows['b']}", "b", "test_labels.csv")
    notes = discover_dataset(tmp_path / "all.csv").report.notes
    assert notes == [f"{name}_labels.csv is not used: all.csv was passed" for name in ("test", "train")]
    write(tmp_path, f"{HEADER}\n{rows['c']}", "c", "val_labels.csv")
    counts = discover_dataset(tmp_path).report.counts
    assert counts == {"images listed twice, with and without a split (the labels of the split are used)": 3}


def test_open_quotes_raise(tmp_path):
    write(tmp_path, f'{HEADER}\n"a.jpg,1,2,11,22,ant\nb.jpg,1,2,11,22,ant\n')
    with pytest.raises(ValueError, match=r"labels.csv, line 3: unexpected end of data"):
        discover_dataset(tmp_path)


def test_repeated_columns_raise(tmp_path):
    write(tmp_path, "path,x1,y1,x2,y2,x1,label\na.jpg,1,2,11,22,5,ant\n")
    with pytest.raises(ValueError, match=r"labels.csv: a column occurs twice in the header path, x1,"):
        discover_dataset(tmp_path)
