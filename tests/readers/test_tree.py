import unicodedata

import pytest
from PIL import Image

from centernet_d2.readers import Report
from centernet_d2.readers.tree import Tree, read_text
from support.folders import write_image


@pytest.fixture
def tree(tmp_path):
    for name in ("train/a.jpg", "val/a.jpg", "val/deep/b.PNG", "c d.jpeg", f"{unicodedata.normalize('NFD', 'é')}.jpg"):
        write_image(tmp_path / name)
    for junk in ("._a.jpg", "Thumbs.db", ".hidden/x.jpg", "__MACOSX/y.jpg"):
        (tmp_path / junk).parent.mkdir(exist_ok=True)
        (tmp_path / junk).write_bytes(b"\0")
    (tmp_path / "val" / "loop").symlink_to(tmp_path, target_is_directory=True)
    return Tree(tmp_path, Report())


def test_junk_is_skipped_and_loops_end(tree):
    assert len(tree.files) == len(tree.images) == 5


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("train/a.jpg", "train/a.jpg"),
        ("a.jpg", "val/a.jpg"),
        ("a", "val/a.jpg"),
        ("b.png", "val/deep/b.PNG"),
        ("deep\\B.jpg", "val/deep/b.PNG"),
        ("C:\\photos\\c d.jpg", "c d.jpeg"),
        ("/gone/train/b.jpg", "val/deep/b.PNG"),
        ("é.jpg", "é.jpg"),
        ("gs://farm/all/b.png?v=2#top", "val/deep/b.PNG"),
    ],
)
def test_images_are_found_near_their_label(tree, name, found):
    path = tree.find_image(name, tree.root / "val" / "labels" / "x.txt")
    assert unicodedata.normalize("NFC", tree.name(path)) == found


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("z.jpg", "labels without an image"),
        ("", "labels without an image"),
        ("a.jpg", "labels without an image"),  # two are equally near
        ("../../etc/z.jpg", "though they may name one outside"),
        ("file:///etc/a.jpg", "is a URL, which is not fetched"),
    ],
)
def test_why_an_image_is_not_found_is_counted(tree, name, reason):
    assert tree.find_image(name, tree.root / "x.txt") is None
    (counted,) = tree.report.counts
    assert reason in counted


def test_names_do_not_leave_the_folder(tree, tmp_path):
    inner = Tree(tmp_path / "train", Report())
    assert inner.find_image("../val/deep/b.PNG", tmp_path / "train" / "x.txt") is None
    assert tree.find_image("../val/deep/b.PNG", tmp_path / "train" / "x.txt") == tmp_path / "val" / "deep" / "b.PNG"


def test_a_folder_of_a_split_without_images_is_told_from_one_of_labels(tmp_path):
    for name in ("labels/val", "images/train", "images/val"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "labels" / "val" / "a.txt").write_text("")
    write_image(tmp_path / "a.jpg")
    assert Tree(tmp_path, Report()).empty_splits() == set()
    write_image(tmp_path / "images" / "train" / "b.jpg")
    assert Tree(tmp_path, Report()).empty_splits() == {"val"}


def image_size(path):
    tree = Tree(path.parent, Report())
    tree.measure([path])
    return tree.sizes[path]


def test_sizes_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "b.jpg").write_text("no image")
    assert image_size(tmp_path / "a.jpg") == (20, 30)
    assert image_size(tmp_path / "b.jpg") is None


def test_images_are_not_decoded_for_their_sizes(tmp_path, monkeypatch):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda *_: pytest.fail("decoded"))
    assert image_size(tmp_path / "a.png") == (30, 20)
    monkeypatch.setenv("CENTERNET_D2_MAX_PIXELS", "500")
    assert image_size(tmp_path / "a.png") is None


def test_text_that_is_none_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(ValueError, match=r"a\.txt is not a text file"):
        read_text(tmp_path / "a.txt")
