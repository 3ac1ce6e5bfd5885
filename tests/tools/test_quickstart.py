import re

from centernet_d2.utils.signals import Stopped


def test_demo_trains_evaluates_and_writes_visualizations(load_script, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "")
    quickstart = load_script("tools/quickstart.py")
    options = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
    quickstart.main(["--output", str(tmp_path / "demo"), "--images", "4", "13", *options])
    last = capsys.readouterr().out.strip().splitlines()[-1]
    pattern = r"demo: AP50=(\d+\.\d|nan) AP=(\d+\.\d|nan) seconds=\d+ pictures=(.*)"
    assert re.fullmatch(pattern, last)
    pictures = sorted(path.name for path in (tmp_path / "demo" / "pictures").iterdir())
    assert pictures == [*(f"{index:02d}.png" for index in range(12)), "sheet.png"]


def test_interrupted_demo_prints_the_resume_command(load_script, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "")
    quickstart = load_script("tools/quickstart.py")

    def stopped_training(*_):
        raise Stopped(15, "stopped")

    monkeypatch.setattr(quickstart, "train", stopped_training)
    demo = tmp_path / "demo"
    assert quickstart.main(["--output", str(demo), "--images", "1", "1"]) == 143
    message = capsys.readouterr().err.strip()
    assert f"DETECTRON2_DATASETS={demo / 'datasets'} " in message
    assert message.endswith(f"train_net.py --config-file {demo / 'config.yaml'} --resume")


def test_existing_dataset_is_not_overwritten(load_script, tmp_path, capsys):
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
        assert f"{kind} already exists and is not overwritten" in capsys.readouterr().err
