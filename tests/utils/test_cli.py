import argparse
import importlib
from pathlib import Path

import pytest
import torch

from centernet_d2.utils import cli


def run(error, *argv):
    """Run a program that raises an error or returns a value."""

    def main(args):
        if isinstance(error, BaseException):
            raise error
        return error

    return cli.run(argparse.ArgumentParser(prog="draw.py"), main, argv)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("the key A is wrong"), "the key A is wrong"),
        (KeyError("the set 'a' is not registered"), "the set 'a' is not registered"),
        (KeyError(), "KeyError"),
        (FileNotFoundError("no x"), "no x"),
        (FileNotFoundError("no \x1b]0;title\x07\udcff.png\nor y"), r"no \x1b]0;title\x07\udcff.png" + "\nor y"),
        (FileNotFoundError(2, "No such file or directory", "x"), "[Errno 2] No such file or directory: 'x'"),
        (FloatingPointError("the loss is NaN"), "the loss is NaN"),
        (MemoryError(), "out of memory; use smaller batches or images."),
        (torch.cuda.OutOfMemoryError("CUDA is full"), "out of memory; use smaller batches or images. CUDA is full"),
    ],
)
def test_expected_error_is_printed_after_program_name(capsys, error, message):
    assert run(error) == 1
    assert capsys.readouterr() == ("", f"draw: {message}\n")
    with pytest.raises(type(error)):
        run(error, "--debug")


@pytest.mark.parametrize("error", [TypeError("x"), AttributeError("x"), AssertionError("x"), RuntimeError("x")])
def test_unexpected_error_keeps_traceback(error):
    with pytest.raises(type(error)):
        run(error)


def test_exit_codes(capsys):
    assert (run(None), run(0), run(3)) == (0, 0, 3)
    assert run(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "draw: interrupted\n"


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("demo.py", ["x.png", "--json", "r.json", "--config-file", "no.yaml"]),
        ("train_net.py", ["--config-file", "no.yaml"]),
        ("train_net.py", []),
        ("centernet_d2/cli/benchmark.py", ["inference", "no.yaml"]),
        ("tools/benchmark.py", ["data", "--data", "no"]),
        ("centernet_d2/cli/convert.py", ["no.pth", "x.pth", "--config", "no.yaml"]),
        ("tools/count_flops.py", ["no.yaml"]),
        ("tools/draw_conventions.py", ["no/folder/x.png"]),
        ("tools/draw_dataset.py", ["shapes", "."]),
        ("tools/quickstart.py", ["--output", "x", "--images", "1", "1", "NO.KEY", "1"]),
        ("centernet_d2/cli/visualize.py", ["no.yaml", "--output", "x"]),
        ("tools/voc_to_coco.py", ["no", "--output", "x"]),
    ],
)
def test_all_programs_report_errors_without_traceback(load_script, tmp_path, monkeypatch, capsys, tool, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", "")
    monkeypatch.setattr("sys.argv", [tool])
    script = importlib.import_module(tool[:-3].replace("/", ".")) if "/cli/" in tool else load_script(tool)
    assert (script.run if tool == "train_net.py" else script.main)(arguments) == 1
    err = capsys.readouterr().err
    assert f"{Path(tool).stem}: " in err
    assert "Traceback" not in err
