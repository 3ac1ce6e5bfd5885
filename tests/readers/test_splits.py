from pathlib import Path

import pytest

from centernet_d2.readers import LabeledImage, LabeledObject, Report
from centernet_d2.readers.splits import assign_splits, check_overlap, seeded_split, split_of_name, split_of_path
from support.folders import write_image

OBJECTS = (LabeledObject("a", (0, 0, 5, 5)),)


def images(root, names, objects=OBJECTS):
    return [LabeledImage(root / name, objects) for name in names]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("instances_train2017", "train"),
        ("person_keypoints_val", "val"),
        ("valid", "val"),
        ("Validation", "val"),
        ("dev", "val"),
        ("test-dev2017", "test"),
        ("sample_train", "train"),
        ("trainval", "trainval"),
        ("train_val", "trainval"),
        ("TrainSet", "train"),
        ("instances_default", None),
        ("trains", None),
    ],
)
def test_split_of_file_names(name, split):
    assert split_of_name(name) == split


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train/images", "train"),
        ("images/val2017/cats", "val"),
        ("test/val", "val"),
        ("images_test", "test"),
        ("train_station", None),
        ("JPEGImages", None),
        (".", None),
    ],
)
def test_split_of_folder_names(folder, split):
    assert split_of_path(folder) == split


def test_random_split_depends_on_the_seed_only(tmp_path):
    some = images(tmp_path, [f"{i}.jpg" for i in range(20)])
    train, val = seeded_split(some, 0.2, 1, tmp_path, Report())
    assert (len(train), len(val)) == (16, 4)
    assert seeded_split(some[::-1], 0.2, 1, tmp_path, Report())[1] == val[::-1]
    assert seeded_split(some, 0.2, 2, tmp_path, Report())[1] != val


def test_both_random_splits_have_objects_and_backgrounds(tmp_path):
    some = images(tmp_path, ["a.jpg", "b.jpg"]) + images(tmp_path, [f"{i}.jpg" for i in range(10)], ())
    for seed in range(5):
        parts = seeded_split(some, 0.3, seed, tmp_path, Report())
        assert [sum(bool(image.objects) for image in part) for part in parts] == [1, 1]
        assert [sum(not image.objects for image in part) for part in parts] == [7, 3]


def test_augmented_copies_stay_in_one_split(tmp_path):
    some = images(tmp_path, [f"{i}_jpg.rf.{copy}.jpg" for i in range(10) for copy in "abc"])
    train, val = seeded_split(some, 0.3, 0, tmp_path, Report())
    assert (len(train), len(val)) == (21, 9)
    sources = [{image.path.name.split(".rf.")[0] for image in part} for part in (train, val)]
    assert not sources[0] & sources[1]


def test_splitting_one_image_raises_with_report(tmp_path):
    report = Report()
    report.count("broken rows, skipped", "b.txt, line 1")
    with pytest.raises(
        ValueError, match=r"has only 1 labeled image\(s\), too few to split.*\n  1 broken rows.*: b\.txt"
    ):
        seeded_split(images(tmp_path, ["a.jpg"]), 0.2, 0, tmp_path, report)


def test_images_in_no_split_are_counted(tmp_path):
    report = Report()
    groups = {name: images(tmp_path, [f"{name}.jpg"]) for name in ("train", "val", None)}
    assigned, _ = assign_splits(groups, tmp_path, share=0.2, seed=0, report=report)
    assert set(assigned) == {"train", "val"}
    assert report.lines() == ["1 images in no split, skipped: None.jpg"]


def test_val_is_sampled_from_train_if_only_test_exists(tmp_path):
    groups = {"train": images(tmp_path, ["a.jpg", "b.jpg", "c.jpg"]), "test": images(tmp_path, ["d.jpg"])}
    assigned, rule = assign_splits(groups, tmp_path, share=0.3, seed=0, report=Report())
    assert {name: len(part) for name, part in assigned.items()} == {"train": 2, "val": 1, "test": 1}
    assert rule == "splits: 1 of the 3 images of train sampled for val (seed 0)"


def test_single_test_split_is_split(tmp_path):
    assigned, _ = assign_splits({"test": images(tmp_path, "abc")}, tmp_path, share=0.3, seed=0, report=Report())
    assert {name: len(part) for name, part in assigned.items()} == {"train": 2, "val": 1}


def test_empty_test_split_is_skipped_with_a_note(tmp_path):
    report = Report()
    groups = {"train": images(tmp_path, "ab"), "val": images(tmp_path, "c"), "test": []}
    assigned, _ = assign_splits(groups, tmp_path, share=0.3, seed=0, report=report)
    assert set(assigned) == {"train", "val"}
    assert report.notes == ["test is skipped: it contains no images"]


def test_images_also_listed_without_a_split_are_counted_apart(tmp_path):
    report = Report()
    groups = {"train": images(tmp_path, "ab"), "val": images(tmp_path, "c"), None: images(tmp_path, "abcd")}
    assign_splits(groups, tmp_path, share=0.3, seed=0, report=report)
    assert {reason.split(",")[0]: where for reason, where in report.examples.items()} == {
        "images listed twice": ["a", "b", "c"],
        "images in no split": ["d"],
    }


def test_missing_train_split_raises(tmp_path):
    groups = {"val": images(tmp_path, "a"), "test": images(tmp_path, "b")}
    with pytest.raises(ValueError, match="has no split for training; it contains: val, test"):
        assign_splits(groups, tmp_path, share=0.3, seed=0, report=Report())


def test_links_and_copies_are_detected(tmp_path):
    write_image(tmp_path / "train" / "a.jpg")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "linked.jpg").symlink_to(tmp_path / "train" / "a.jpg")
    (tmp_path / "val" / "renamed.jpg").write_bytes((tmp_path / "train" / "a.jpg").read_bytes())
    write_image(tmp_path / "val" / "a.jpg", color=(1, 2, 3))
    train, report = images(tmp_path / "train", ["a.jpg"]), Report()
    with pytest.raises(ValueError, match=r"images in both train and val: .*linked\.jpg\. Remove them"):
        check_overlap(train, images(tmp_path / "val", ["linked.jpg"]), "val", report)
    check_overlap(train, images(tmp_path / "val", ["renamed.jpg", "a.jpg"]), "val", report)
    assert report.lines() == ["1 images of val that are copies of train images: renamed.jpg"]
    (tmp_path / "val" / "a.jpg").write_bytes((tmp_path / "train" / "a.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"a copy of .*train/a\.jpg"):
        check_overlap(train, images(tmp_path / "val", ["a.jpg"]), "val", report)


def test_files_of_equal_size_are_read_once(tmp_path, monkeypatch):
    names = [f"{letter}.jpg" for letter in "abcde"]
    for split in ("train", "val"):
        for number, name in enumerate(names):
            write_image(tmp_path / split / name, color=(number, 0, 9))
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(f"{path.parent.name[0]}{path.stem}".encode())
    (tmp_path / "val" / "e.jpg").write_bytes(b"longer than all others")
    (tmp_path / "val" / "a.jpg").write_bytes(b"tb")
    read_bytes, read = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    report = Report()
    check_overlap(images(tmp_path / "train", names), images(tmp_path / "val", names), "val", report)
    parts = [f"{path.parent.name}/{path.stem}" for path in sorted(read)]
    assert parts == [*(f"train/{letter}" for letter in "abcde"), *(f"val/{letter}" for letter in "abcd")]
    assert report.lines() == ["1 images of val that are copies of train images: a.jpg"]
