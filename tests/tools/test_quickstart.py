import re

from centernet_d2.utils.signals import Stopped


def test_the_demo_trains_evaluates_and_draws(load_script, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "")
    quickstart = load_script("tools/quickstart.py")
    options = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
    quickstart.main(["--output", str(tmp_path / "demo"), "--images", "4", "13", *options])
    last = capsys.readouterr().out.strip().splitlines()[-1]
    pattern = r"demo: AP50=(\d+\.\d|nan) AP=(\d+\.\d|nan) seconds=\d+ pictures=(.*)"
    assert re.fullmatch(pattern, last)
    pictures = sorted(path.name for path in (tmp_path / "demo" / "pictures").iterdir())
    assert pictures == [*(f"{index:02d}.png" for index in range(12)), "sheet.png"]


def test_a_stopped_demo_says_how_to_go_on(load_script, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "")
    quickstart = load_script("tools/quickstart.py")

    def stopped_training(*_):
        raise Stopped(15, "stopped")

    monkeypatch.setattr(quickstart, "train", stopped_training)
    demo = tmp_path / "demo"
    assert quickstart.main(["--output", str(demo), "--images", "1", "1"]) == 143
    said = capsys.readouterr().err.strip()
    assert f"DETECTRON2_DATASETS={demo / 'datasets'} " in said
    assert said.endswith(f"train_net.py --config-file {demo / 'config.yaml'} --resume")


def test_a_second_demo_gets_a_folder_of_its_own(load_script, tmp_path):
    fresh_folder = load_script("tools/quickstart.py").fresh_folder
    assert fresh_folder(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").mkdir()
    assert fresh_folder(tmp_path / "demo") == tmp_path / "demo-3"


def test_drawing_never_overwrites(load_script, tmp_path, capsys):
    draw = load_script("tools/draw_dataset.py").main
    written = {
        "shapes": "annotations/val.json",
        "kites": "val/annotations.json",
        "boxes": "ImageSets/other.txt",
    }
    for kind, file in written.items():
        draw([kind, str(tmp_path / kind), "--train", "2", "--val", "1"])
        assert (tmp_path / kind / file).exists()
        assert draw([kind, str(tmp_path / kind)]) == 1
        assert f"{kind} already exists; nothing is overwritten" in capsys.readouterr().err
