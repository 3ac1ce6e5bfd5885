import pytest

from centernet_d2.readers import discover_dataset
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
        "boxes without area, skipped": 2,
        "boxes outside their image, skipped": 1,
        "boxes partly outside their image, clipped": 1,
        "broken label files, skipped": 1,
        "labels without an image": 1,
        "unreadable images, skipped": 1,
        "images without labels, kept as background": 4,  # c, f, bare and unlisted
        "list entries without an image": 1,
        "images in no split, skipped": 1,
    }
    assert dataset.report.examples["broken rows, skipped"] == ["a.xml, object 6", "a.xml, object 7", "b.xml, object 4"]
    assert dataset.report.examples["images in no split, skipped"] == ["JPEGImages/unlisted.jpg"]
    assert dataset.report.examples["labels without an image"] == ["Annotations/lost.xml (lost)"]
    assert ("RBC", (59, 39, 64, 48)) in annotations(dataset)["train"]["a"]


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
    from centernet_d2.readers import discover_voc_lists

    (root / "ImageSets" / "Main" / "RBC_train.txt").write_text("a  1\nb  0\nd -1\n")
    dataset = discover_voc_lists(root, ["RBC_train"])
    assert [image.path.stem for image in dataset.splits["RBC_train"].images] == ["a", "b"]
