import os
import unicodedata

import pytest
from PIL import Image

from centernet_d2.readers import Report, discover_dataset
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


def test_hidden_files_are_skipped_and_link_loops_end(tree):
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
def test_nearest_image_is_found(tree, name, found):
    path = tree.find_image(name, tree.root / "val" / "labels" / "x.txt")
    assert unicodedata.normalize("NFC", tree.name(path)) == found


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("z.jpg", "labels without an image"),
        ("", "labels without an image"),
        ("a.jpg", "labels without an image"),  # Two images are equally near.
        ("../../etc/z.jpg", "the image may be outside"),
        ("file:///etc/a.jpg", "labels whose image is a URL"),
    ],
)
def test_reason_for_missing_image_is_counted(tree, name, reason):
    assert tree.find_image(name, tree.root / "x.txt") is None
    (counted,) = tree.report.counts
    assert reason in counted


def test_names_outside_the_folder_are_not_found(tree, tmp_path):
    inner = Tree(tmp_path / "train", Report())
    assert inner.find_image("../val/deep/b.PNG", tmp_path / "train" / "x.txt") is None
    assert tree.find_image("../val/deep/b.PNG", tmp_path / "train" / "x.txt") == tmp_path / "val" / "deep" / "b.PNG"


def test_empty_splits_ignore_label_folders(tmp_path):
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


def test_sizes_are_read_without_decoding(tmp_path, monkeypatch):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda *_: pytest.fail("decoded"))
    assert image_size(tmp_path / "a.png") == (30, 20)
    monkeypatch.setenv("CENTERNET_D2_MAX_PIXELS", "500")
    assert image_size(tmp_path / "a.png") is None


def test_binary_file_is_in_error_message(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(ValueError, match=r"a\.txt is not a text file"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["a.xml", "data.json", "data.csv", "data.yaml", "images/a.jpg", "labels/a.txt"])
@pytest.mark.parametrize("kind", ["pipe", "device", "broken link"])
def test_special_files_are_counted(tmp_path, name, kind):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    with pytest.raises(ValueError, match=rf"(?s)no supported layout.*\n  1 pipes, .*skipped: {name}") as raised:
        discover_dataset(tmp_path)
    assert "no files" in str(raised.value)
    if kind != "broken link":
        with pytest.raises(OSError, match=f"{name} is not a regular file"):
            read_text(path)
        with pytest.raises(ValueError, match=f"{name} is neither a regular file nor a folder"):
            discover_dataset(path)


def test_sparse_files_are_not_read(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(17 << 30)
    with pytest.raises(OSError, match=r"a.json is larger than 16 GiB"):
        read_text(tmp_path / "a.json")


def test_number_and_depth_of_files_are_limited(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).write_text("")
    monkeypatch.setattr("centernet_d2.readers.tree._MOST_FILES", 2)
    with pytest.raises(ValueError, match="contains more than 2 files, .*; pass the folder of the dataset"):
        Tree(tmp_path, Report())
    deep = tmp_path.joinpath("inner", *["d"] * 60)
    deep.mkdir(parents=True)
    with pytest.raises(ValueError, match="folders in more than 50 levels"):
        Tree(tmp_path / "inner", Report())
