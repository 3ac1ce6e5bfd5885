import pytest

from centernet_d2.readers import discover_dataset, write_coco
from support.folders import write_image

CAR = "Car 0.00 0 -1.57 10.00 10.00 30.00 30.00 1.5 1.6 3.7 1.0 1.5 20.0 -1.5"


@pytest.fixture
def root(tmp_path):
    """Dataset with six frames."""
    training = tmp_path / "kitti" / "training"
    for folder in ("label_2", "calib"):
        (training / folder).mkdir(parents=True)
    for index in range(6):
        write_image(training / "image_2" / f"{index:06d}.png")
        (training / "label_2" / f"{index:06d}.txt").write_text(f"{CAR}\n{CAR.replace('Car', 'DontCare')}\n")
        (training / "calib" / f"{index:06d}.txt").write_text("P2: 1 0 0 0 0 1 0 0 0 0 1 0\n")
    return tmp_path / "kitti"


def write_lists(root, **lists):
    (root / "ImageSets").mkdir()
    for name, indices in lists.items():
        (root / "ImageSets" / f"{name}.txt").write_text("".join(f"{index:06d}\n" for index in indices))


def test_complete_lists_are_preferred(root):
    write_lists(root, train=range(100), small_train=range(4), val=(4, 5), trainval=range(6), test=(0, 1))
    dataset = discover_dataset(root)
    assert {name: (s.kitti_list, len(s.images)) for name, s in dataset.splits.items()} == {
        "train": ("small_train", 4),
        "val": ("val", 2),
    }
    assert dataset.splits["train"].root == root
    assert [(obj.label, obj.box) for obj in dataset.splits["val"].images[0].objects] == [("Car", (10, 10, 30, 30))]
    assert dataset.report.counts == {"classes without objects": 2}


def test_random_splits_are_written_to_the_output_folder(root, tmp_path):
    before = sorted(root.rglob("*"))
    dataset = discover_dataset(root, val_share=0.5)
    files = write_coco(dataset, tmp_path / "out")
    frames = {name: path.read_text().split() for name, path in files.items()}
    assert [len(frames[name]) for name in ("train", "val")] == [3, 3]
    assert sorted(frames["train"] + frames["val"]) == [f"{index:06d}" for index in range(6)]
    assert files["train"] == tmp_path / "out" / "train.txt"
    assert all(split.kitti_list == "" for split in dataset.splits.values())
    assert sorted(root.rglob("*")) == before


def test_written_lists_can_be_loaded(root, tmp_path):
    from centernet_d2.data.kitti import load_kitti_3d

    files = write_coco(discover_dataset(root), tmp_path / "out")
    assert len(load_kitti_3d(root, str(files["train"].with_suffix("")))) == 5


def test_missing_frames_of_lists_are_noted(root):
    write_lists(root, train=range(4), val=range(4, 90))
    dataset = discover_dataset(root)
    assert {name: (s.kitti_list, len(s.images)) for name, s in dataset.splits.items()} == {
        "train": ("train", 4),
        "val": ("", 2),
    }
    assert "84 frames of ImageSets/val.txt are missing" in dataset.report.notes


def test_frames_with_missing_files_are_counted(root):
    training = root / "training"
    (training / "image_2" / "000000.png").unlink()
    (training / "label_2" / "000001.txt").unlink()
    (training / "calib" / "000002.txt").unlink()
    (training / "image_2" / "000003.png").write_text("no image")
    write_lists(root, train=(3, 4), val=(5,))
    dataset = discover_dataset(root)
    examples = dataset.report.examples
    assert examples["unreadable images, skipped"][0].startswith("training/image_2/000003.png (")
    counts = {reason: places for reason, places in examples.items() if "labels" in reason or "calibration" in reason}
    assert counts == {
        "labels without an image": ["training/label_2/000000.txt"],
        "images without labels, skipped": ["training/image_2/000001.png"],
        "images without calibration, skipped": ["training/image_2/000002.png"],
    }
    assert dataset.splits["train"].kitti_list == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("Car 0 0 0", "4 fields instead of 15"),
        (CAR.replace("30.00", "x"), "'x' is not a"),
        ("7", "unknown type '7'; use one of Pedestrian, Car, Cyclist, Van"),
    ],
)
def test_error_contains_file_and_line(root, row, message):
    (root / "training" / "label_2" / "000000.txt").write_text(row)
    with pytest.raises(ValueError, match=rf"000000\.txt, line 1: {message}"):
        discover_dataset(root)


def test_selecting_kitti_classes_raises(root):
    with pytest.raises(ValueError, match="the classes of KITTI are fixed: Pedestrian, Car, Cyclist"):
        discover_dataset(root, classes=["Car"])


def test_folder_must_be_named_training(root):
    (root / "training").rename(root / "mine")
    with pytest.raises(ValueError, match=r"must be in one folder named training, not .*mine"):
        discover_dataset(root)


def test_training_folder_is_accepted(root):
    assert discover_dataset(root / "training").splits["train"].root == root


@pytest.mark.parametrize(
    "row",
    [
        "bus 0.00 0 0.00 10 10 30 30",
        "bus 0 0 0 10 10 30 30 0.0 0.0 0.0 0 0 0 0",
        "bus 0 -1 -10 10 10 30 30 -1 -1 -1 -1000 -1000 -1000 -10",
    ],
)
def test_rows_without_3d_boxes_give_boxes_of_any_class(root, tmp_path, row):
    for path in (root / "training" / "label_2").iterdir():
        path.write_text(f"{row}\nDontCare -1 -1 -10 1 1 9 9 -1 -1 -1 -1000 -1000 -1000 -10\n")
    (root / "training" / "calib" / "000000.txt").unlink()
    dataset = discover_dataset(root)
    assert (dataset.layout, dataset.class_names) == ("KITTI without 3-D boxes", ("bus",))
    objects = [obj.box for split in dataset.splits.values() for image in split.images for obj in image.objects]
    assert objects == [(10, 10, 30, 30)] * 6
    assert write_coco(dataset, tmp_path / "out")["train"].suffix == ".json"


def test_all_unknown_types_are_named(root):
    for index, kind in ((1, "Bus"), (2, "car"), (3, "car")):
        (root / "training" / "label_2" / f"{index:06d}.txt").write_text(CAR.replace("Car", kind))
    with pytest.raises(
        ValueError, match=r"000001\.txt, line 1: unknown type 'Bus'; .*: Bus \(1 rows\), car \(2 rows\)"
    ):
        discover_dataset(root)
