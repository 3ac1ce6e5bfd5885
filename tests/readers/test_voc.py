import pytest

from centernet_d2.readers import discover_dataset, discover_voc_lists
from centernet_d2.readers.voc import read_annotation
from support.folders import TRUTH, annotations, voc_xml, write_image, write_voc

SPACE = '<?xml version="1.0" encoding="{}"?>\n'


@pytest.fixture
def root(tmp_path):
    return write_voc(tmp_path / "voc")


def append(root, split, name):
    with (root / "ImageSets" / "Main" / f"{split}.txt").open("a") as file:
        file.write(f"{name}\n")


def add_object(root, name, text):
    path = root / "Annotations" / f"{name}.xml"
    path.write_text(path.read_text().replace("</annotation>", f"{text}</annotation>"))


def box(*corners, name="RBC"):
    tags = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{name}</name><bndbox>{tags}</bndbox></object>"


def test_boxes_become_zero_based_and_difficult_is_read(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(voc_xml("a.jpg", []).replace("</annotation>", f"{box(1, 1, 10, 20)}</annotation>"))
    _, size, (obj,), broken = read_annotation(path)
    assert (obj.box, size, broken) == ((0, 0, 10, 20), (64, 48), [])
    assert not obj.difficult
    path.write_text(path.read_text().replace("<bndbox>", "<difficult>1</difficult><bndbox>"))
    assert read_annotation(path)[2][0].difficult


def test_every_kind_of_error_is_counted(root):
    add_object(root, "a", box("inf", 1, 9, 9))
    add_object(root, "a", box(5, 5, 5, 9))
    add_object(root, "a", box(9, 9, 5, 5))
    add_object(root, "a", box("x", 1, 9, 9))
    add_object(root, "a", "<object><name>RBC</name></object>")
    add_object(root, "a", box(200, 200, 220, 220))
    add_object(root, "a", box(60, 40, 90, 90))
    add_object(root, "a", box(60, 40, 66, 50))
    add_object(root, "b", "<object><bndbox><xmin>1</xmin></bndbox></object>")
    (root / "Annotations" / "cut.xml").write_text("<annotation><object>")
    write_image(root / "JPEGImages" / "cut.jpg")
    (root / "Annotations" / "lost.xml").write_text(voc_xml("lost.jpg", TRUTH["val"]["e"]))
    (root / "Annotations" / "c.xml").write_text(voc_xml("c.jpg", [], size=(640, 480)))
    (root / "Annotations" / "bad.xml").write_text(voc_xml("bad.jpg", []))
    (root / "JPEGImages" / "bad.jpg").write_text("no image")
    write_image(root / "JPEGImages" / "unlisted.jpg")
    write_image(root / "JPEGImages" / "bare.jpg")
    for name in ("bad", "bare", "nowhere"):
        append(root, "train", name)
    dataset = discover_dataset(root)
    assert dataset.report.counts == {
        "broken rows, skipped": 3,
        "non-finite boxes, skipped": 1,
        "boxes without area, skipped": 1,
        "boxes with exchanged corners, repaired": 1,
        "boxes outside their image, skipped": 1,
        "boxes that exceed their image by more than 2 pixels and 1 % (of another image size?), skipped": 1,
        "boxes partly outside their image, clipped": 1,
        "broken label files, skipped": 1,
        "labels without an image": 1,
        "unreadable images, skipped": 1,
        "images without labels, kept as background": 4,  # c, f, bare and unlisted
        "list entries without an image": 1,
        "images in no split, skipped": 1,
    }
    assert dataset.report.examples["broken rows, skipped"] == [
        "a.xml, object 6 (<xmin> is 'x')",
        "a.xml, object 7 (no bndbox)",
        "b.xml, object 4 (no name)",
    ]
    assert dataset.report.examples["images in no split, skipped"] == ["JPEGImages/unlisted.jpg"]
    assert dataset.report.examples["labels without an image"] == ["Annotations/lost.xml (lost)"]
    assert {("RBC", (59, 39, 64, 48)), ("RBC", (4, 4, 9, 9))} <= set(annotations(dataset)["train"]["a"])


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY b "cc">]><annotation><filename>&b;</filename></annotation>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation><filename>&b;</filename></annotation>',
        "<annotation>",
        "<html></html>",
    ],
)
def test_damaged_files_and_entities_raise(tmp_path, text):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ValueError, match=r"a\.xml is not a Pascal VOC annotation"):
        read_annotation(tmp_path / "a.xml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings_and_line_endings_are_supported(tmp_path, encoding):
    text = SPACE.format(encoding.removesuffix("-sig")) + voc_xml("Ähre 1.jpg", [("Ähre", (0, 0, 5, 5))])
    (tmp_path / "a.xml").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    name, _, (obj,), _ = read_annotation(tmp_path / "a.xml")
    assert (name, obj.label) == ("Ähre 1.jpg", "Ähre")


def test_folder_names_define_splits_without_lists(tmp_path):
    for split, images in TRUTH.items():
        for name, objects in images.items():
            write_image(tmp_path / split / "nested" / f"{name}.JPG")
            (tmp_path / split / "nested" / f"{name}.xml").write_text(voc_xml("renamed.jpg", objects))
    assert {n: set(i) for n, i in annotations(discover_dataset(tmp_path)).items()} == {
        n: set(i) for n, i in TRUTH.items()
    }


def test_folder_without_splits_is_split_at_random(root):
    for path in (root / "ImageSets" / "Main").iterdir():
        path.unlink()
    dataset = discover_dataset(root, seed=3, val_share=0.5)
    assert dataset.split_rule == "splits: 3 of the 6 images sampled for val (seed 3)"
    assert annotations(dataset) == annotations(discover_dataset(root, seed=3, val_share=0.5))


def test_trainval_alone_is_split(root):
    for name in ("train", "val"):
        (root / "ImageSets" / "Main" / f"{name}.txt").unlink()
    dataset = discover_dataset(root)
    assert dataset.split_rule == "splits: 1 of the 6 images of trainval sampled for val (seed 0)"


def test_several_voc_folders_are_merged(tmp_path):
    write_voc(tmp_path / "VOC2007")
    more = {"train": {"x": [("cat", (1, 1, 9, 9))]}, "val": {"a2": [("cat", (2, 2, 9, 9))]}}
    write_voc(tmp_path / "VOC2012", more)
    dataset = discover_dataset(tmp_path)
    assert {name: len(split.images) for name, split in dataset.splits.items()} == {"train": 5, "val": 3}
    assert dataset.class_names == ("Platelets", "RBC", "WBC", "cat")


def test_masks_are_not_background(root):
    write_image(root / "SegmentationClass" / "a.png")
    for path in (root / "ImageSets" / "Main").iterdir():
        path.unlink()
    dataset = discover_dataset(root)
    assert sum(len(split.images) for split in dataset.splits.values()) == 6
    assert dataset.report.examples["images with the name of a labeled image, skipped"] == ["SegmentationClass/a.png"]


def test_lists_per_class_use_their_flags(root):
    (root / "ImageSets" / "Main" / "RBC_train.txt").write_text("a  1\nb  0\nd -1\n")
    dataset = discover_voc_lists(root, ["RBC_train"])
    assert [image.path.stem for image in dataset.splits["RBC_train"].images] == ["a", "b"]


GBK, CYRILLIC, KANJI = "红色", "красный", "赤"


@pytest.mark.parametrize(
    ("declared", "encoding", "word"),
    [
        ("GBK", "gbk", GBK),
        ("gb2312", "gb18030", GBK),
        ("windows-1251", "cp1251", CYRILLIC),
        ("KOI8-R", "koi8-r", CYRILLIC),
        ("Shift-JIS", "shift-jis", KANJI),
        ("EUC-JP", "euc-jp", KANJI),
        ("Big5", "big5", "紅色"),
        ("EUC-KR", "cp949", "빨강"),
        ("iso-8859-1", "latin-1", "Ähre"),
        ("utf-16", "utf-16", GBK),
        ("utf-16", "utf-8", GBK),  # As .NET writes it.
    ],
)
def test_declared_encoding_is_used(tmp_path, declared, encoding, word):
    text = SPACE.format(declared) + voc_xml("a.jpg", [(word, (0, 0, 5, 5))])
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    assert read_annotation(tmp_path / "a.xml")[2][0].label == word


@pytest.mark.parametrize(
    ("declaration", "encoding", "message"),
    [
        ('<?xml version="1.0" encoding="utf-8"?>', "shift-jis", "it is not in UTF-8 as declared"),
        ("", "gbk", "it is not in UTF-8 and declares no other encoding"),
        ('<?xml version="1.0" encoding="klingon"?>', "utf-8", "the declared encoding klingon is unknown"),
        ('<?xml version="1.0" encoding="idna"?>', "ascii", "the declared encoding idna is unknown"),
        ('<?xml version="1.0" encoding="zlib"?>', "ascii", "the declared encoding zlib is unknown"),
    ],
)
def test_files_in_another_encoding_are_skipped_with_the_reason(root, declaration, encoding, message):
    label = "RBC" if encoding == "ascii" else KANJI
    data = (declaration + voc_xml("a.jpg", [(label, (0, 0, 5, 5))])).encode(encoding)
    (root / "Annotations" / "a.xml").write_bytes(data)
    dataset = discover_dataset(root)
    (reason,) = dataset.report.examples["broken label files, skipped"]
    assert "a.xml is not a Pascal VOC annotation" in reason
    assert message in reason
    assert "a" not in annotations(dataset)["train"]


@pytest.mark.parametrize("named", ["always a", "the next image"])
def test_label_files_are_paired_by_their_own_name(root, named):
    names = sorted(TRUTH["train"])
    for index, name in enumerate(names):
        other = "a" if named == "always a" else names[(index + 1) % len(names)]
        path = root / "Annotations" / f"{name}.xml"
        path.write_text(path.read_text().replace(f"{name}.jpg", f"{other}.jpg"))
    dataset = discover_dataset(root)
    expected = {name: sorted((label, tuple(box)) for label, box in rows) for name, rows in TRUTH["train"].items()}
    assert annotations(dataset)["train"] == expected
    reason = "label files that name another image (paired by the name of the label file)"
    assert dataset.report.counts[reason] == (3 if named == "always a" else 4)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("<polygon><x1>10</x1><y1>5</y1><x2>30</x2><y2>8</y2><x3>20</x3><y3>25</y3></polygon>", (10, 5, 30, 25)),
        ("<polygon><username/><pt><x>10</x><y>5</y></pt><pt><x>30</x><y>25</y></pt></polygon>", (10, 5, 30, 25)),
        ("<robndbox><cx>20</cx><cy>15</cy><w>10</w><h>4</h><angle>0</angle></robndbox>", (15, 13, 25, 17)),
        ("<robndbox><cx>20</cx><cy>15</cy><w>10</w><h>4</h><angle>1.570796</angle></robndbox>", (18, 10, 22, 20)),
        ("<bndbox><x0>9</x0><y0>5</y0><x1>30</x1><y1>5</y1><x2>30</x2><y2>9</y2></bndbox>", (9, 5, 30, 9)),
        (
            "<type>bndbox</type><bndbox><ymax>9</ymax><xmax>30</xmax><ymin>6</ymin><xmin>10</xmin></bndbox>",
            (9, 5, 30, 9),
        ),
    ],
)
def test_other_shapes_become_boxes(tmp_path, shape, expected):
    path = tmp_path / "a.xml"
    path.write_text(f"<annotation><object><name>ship</name>{shape}</object></annotation>")
    _, _, (obj,), broken = read_annotation(path)
    assert (obj.box, broken) == (pytest.approx(expected, abs=1e-4), [])


@pytest.mark.parametrize("text", ["False", "0.0", "no", "", " 0 "])
def test_difficult_can_be_false_in_words(tmp_path, text):
    content = voc_xml("a.jpg", [("RBC", (0, 0, 5, 5))]).replace("<difficult>0", f"<difficult>{text}")
    (tmp_path / "a.xml").write_text(content)
    assert not read_annotation(tmp_path / "a.xml")[2][0].difficult


@pytest.mark.parametrize(
    "row", ["JPEGImages/{0}.jpg Annotations/{0}.xml", "/home/me/voc/JPEGImages/{0}.jpg 1,2,3,4,0", "{0}\tx.xml", "{0}"]
)
def test_lists_next_to_the_folders_define_splits(root, row):
    for path in (root / "ImageSets" / "Main").iterdir():
        path.unlink()
    (root / "labels.txt").write_text("RBC\nWBC\n")
    for split, images in TRUTH.items():
        (root / f"{split}_list.txt").write_text("".join(f"{row.format(name)}\r\n" for name in images))
    dataset = discover_dataset(root)
    assert {n: set(i) for n, i in annotations(dataset).items()} == {n: set(i) for n, i in TRUTH.items()}
    assert dataset.split_rule == "splits: defined by the dataset"


def test_empty_test_list_is_skipped_with_a_note(root):
    (root / "ImageSets" / "Main" / "test.txt").write_text("\n")
    assert "test is skipped: it contains no images" in discover_dataset(root).report.notes
    assert set(discover_voc_lists(root).splits) == {"train", "trainval", "val"}


def test_repeated_coordinates_are_counted(root):
    add_object(root, "a", box(1, 1, 9, 9).replace("<xmin>", "<xmin>5</xmin><xmin>"))
    assert discover_dataset(root).report.examples["broken rows, skipped"] == [
        "a.xml, object 3 (<bndbox/xmin> occurs 2 times)"
    ]
