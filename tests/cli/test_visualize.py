import cv2
import pytest

from centernet_d2.cli import visualize
from support.folders import WRITERS
from synthetic.boxes import write_boxes_on_ground
from synthetic.shapes import write_shapes

ZOO = "Shapes/centernet_R_18_shapes.yaml"


@pytest.fixture
def tool(load_script, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_shapes(tmp_path / "shapes", train=2, val=1, size=64)
    return visualize.main


def test_figures_show_image_and_heatmaps(tool, tmp_path, capsys):
    assert tool([ZOO, "--output", str(tmp_path / "out"), "--count", "3", "--opts", "INPUT.AFFINE.SIZE", "[64,96]"]) == 0
    assert "saved 3 figures of training images" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["0000-00000.png", "0001-00001.png", "0002-00000.png"]
    drawn = cv2.imread(str(tmp_path / "out" / names[0]))
    assert drawn.shape == (4 * 64 + 24, 2 * 4 * 96 + 6, 3)  # Two panels, enlarged by 4, with captions.


def test_existing_folders_and_errors_are_reported(tool, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    assert tool([ZOO, "--output", str(tmp_path / "out")]) == 1
    assert "out already exists" in capsys.readouterr().err
    assert tool(["no/config.yaml", "--output", str(tmp_path / "new")]) == 1
    assert "config file, run or model no/config.yaml does not exist" in capsys.readouterr().err
    assert tool([ZOO, "--output", str(tmp_path / "new"), "--opts", "DATASETS.TRAIN", "('nowhere',)"]) == 1
    assert "'nowhere' is not registered" in capsys.readouterr().err


def test_3d_boxes_are_drawn(tool, tmp_path):
    write_boxes_on_ground(tmp_path / "boxes", {"train": 1})
    assert tool(["Shapes/centernet_3d_HG_boxes.yaml", "--output", str(tmp_path / "out"), "--count", "1"]) == 0
    drawn = cv2.imread(str(tmp_path / "out" / "0000-000000.png"))
    # Ground truth with a bird's-eye view of 160 pixels, and the heatmap, enlarged by 2.
    assert drawn.shape == (2 * 96 + 24, 2 * (2 * 288 + 160) + 6, 3)


@pytest.mark.parametrize("layout", WRITERS)
def test_sheets_of_each_layout(layout, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = WRITERS[layout](tmp_path / "cells")
    assert visualize.main([str(data)]) == 0
    assert "saved output/cells-sheets/augmented.jpg" in capsys.readouterr().out
    for name in ("images.jpg", "augmented.jpg"):
        sheet = cv2.imread(str(tmp_path / "output" / "cells-sheets" / name))
        assert sheet.shape[1] == 1600
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["cells-sheets"]


@pytest.mark.parametrize(("layout", "file"), [("coco", "train/_annotations.coco.json"), ("yolo", "data.yaml")])
def test_sheets_of_a_file(layout, file, tmp_path):
    data, out = WRITERS[layout](tmp_path / "cells"), tmp_path / "new" / "out"
    for _ in range(2):  # Sheets are replaced, and no dataset stays registered.
        assert visualize.main([str(data / file), "--output", str(out), "--count", "1"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["augmented.jpg", "images.jpg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["."], "has no supported layout"),
        (["missing.json"], "missing.json does not exist"),
        ([ZOO], "figures of a config require --output FOLDER"),
        ([".", "--count", "0"], "--count is 0, but must be at least 1"),
    ],
)
def test_invalid_sources_are_reported(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert visualize.main(options) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
