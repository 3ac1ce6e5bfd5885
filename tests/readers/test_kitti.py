import pytest

from centernet_d2.readers import find_data, write_coco
from support.folders import write_image

CAR = "Car 0.00 0 -1.57 10.00 10.00 30.00 30.00 1.5 1.6 3.7 1.0 1.5 20.0 -1.5"


@pytest.fixture
def root(tmp_path):
    """Six frames."""
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


def test_lists_that_are_here_in_full_are_named(root):
    write_lists(root, train=range(100), small_train=range(4), val=(4, 5), trainval=range(6), test=(0, 1))
    found = find_data(root)
    assert {name: (s.kitti_list, len(s.images)) for name, s in found.splits.items()} == {
        "train": ("small_train", 4),
        "val": ("val", 2),
    }
    assert found.splits["train"].root == root
    assert [(thing.label, thing.box) for thing in found.splits["val"].images[0].objects] == [("Car", (10, 10, 30, 30))]
    assert found.report.counts == {"classes without objects": 2}


def test_splits_by_lot_are_written_elsewhere(root, tmp_path):
    before = sorted(root.rglob("*"))
    found = find_data(root, val_share=0.5)
    files = write_coco(found, tmp_path / "out")
    frames = {name: path.read_text().split() for name, path in files.items()}
    assert [len(frames[name]) for name in ("train", "val")] == [3, 3]
    assert sorted(frames["train"] + frames["val"]) == [f"{index:06d}" for index in range(6)]
    assert files["train"] == tmp_path / "out" / "train.txt"
    assert all(split.kitti_list == "" for split in found.splits.values())
    assert sorted(root.rglob("*")) == before


def test_the_files_can_be_registered(root, tmp_path):
    from centernet_d2.data.kitti import load_kitti_3d

    files = write_coco(find_data(root), tmp_path / "out")
    assert len(load_kitti_3d(root, str(files["train"].with_suffix("")))) == 5


def test_lists_that_are_here_in_part_are_cut(root):
    write_lists(root, train=range(4), val=range(4, 90))
    found = find_data(root)
    assert {name: (s.kitti_list, len(s.images)) for name, s in found.splits.items()} == {
        "train": ("train", 4),
        "val": ("", 2),
    }
    assert "84 frames of ImageSets/val.txt are not here" in found.report.notes


def test_frames_that_lack_a_file_are_counted(root):
    training = root / "training"
    (training / "image_2" / "000000.png").unlink()
    (training / "label_2" / "000001.txt").unlink()
    (training / "calib" / "000002.txt").unlink()
    (training / "image_2" / "000003.png").write_text("no image")
    write_lists(root, train=(3, 4), val=(5,))
    found = find_data(root)
    counts = {reason: found.report.examples[reason] for reason in found.report.counts if "classes" not in reason}
    assert counts == {
        "labels without an image": ["training/label_2/000000.txt"],
        "images without labels, left out": ["training/image_2/000001.png"],
        "images without calibration, left out": ["training/image_2/000002.png"],
        "images that cannot be read, left out": ["training/image_2/000003.png"],
    }
    assert found.splits["train"].kitti_list == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("Car 0 0 0", "4 fields instead of 15"),
        (CAR.replace("30.00", "x"), "'x' is not a"),
        ("7", "unknown type '7', known: Pedestrian, Car, Cyclist, Van"),
    ],
)
def test_broken_rows_are_named(root, row, message):
    (root / "training" / "label_2" / "000000.txt").write_text(row)
    with pytest.raises(ValueError, match=rf"000000\.txt, line 1: {message}"):
        find_data(root)


def test_classes_cannot_be_chosen(root):
    with pytest.raises(ValueError, match="the classes of KITTI are Pedestrian, Car, Cyclist"):
        find_data(root, classes=["Car"])


def test_the_folder_must_be_called_training(root):
    (root / "training").rename(root / "mine")
    with pytest.raises(ValueError, match=r"must be in one folder called training, not .*mine"):
        find_data(root)


def test_the_folder_itself_will_do(root):
    assert find_data(root / "training").splits["train"].root == root
