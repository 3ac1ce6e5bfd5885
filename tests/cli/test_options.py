"""Help screens, options before and after other arguments, and commands without Detectron2."""

import importlib
import shlex
import subprocess
import sys

import pytest
from detectron2.engine import default_argument_parser

from centernet_d2.cli import detect, train
from centernet_d2.config.dependency import INSTALL_DETECTRON2
from centernet_d2.utils import cli

COMMANDS = {
    "train": "run",
    "detect": "main",
    "benchmark": "main",
    "visualize": "main",
    "convert": "main",
    "report": "main",
    "export": "main",
}


def run(name, *arguments):
    return getattr(importlib.import_module(f"centernet_d2.cli.{name}"), COMMANDS[name])(list(arguments))


def screen(capsys, name, *arguments):
    """Return the output of a command that prints a screen and exits."""
    with pytest.raises(SystemExit) as exit_info:
        run(name, *arguments)
    assert exit_info.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_groups_and_three_examples_within_99_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", [f"centernet-{name}"])
    text = screen(capsys, name, "--help")
    assert max(map(len, text.splitlines())) < 100
    _, examples = text.split("examples:\n")
    assert [line.split()[0] for line in examples.splitlines()] == 3 * [f"centernet-{name}"]
    assert "other options:" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_valid(name, capsys, monkeypatch):
    """Parse each example; the commands themselves are replaced."""
    parsers = []
    monkeypatch.setattr(cli, "run", lambda parser, *_, **__: parsers.append(parser) or 0)
    run(name)
    (parser,) = parsers
    for line in parser.epilog.splitlines()[1:]:
        arguments = shlex.split(line)[1:]
        if arguments != ["--list-models"]:
            assert cli._parse(parser, arguments)


def test_parsers_need_neither_torch_nor_detectron2():
    # A new process, because everything is imported here already.
    script = f"""
import importlib, sys
for name in ("torch", "torchvision", "detectron2", "fvcore", "cv2", "matplotlib"):
    sys.modules[name] = None
for name, function in {COMMANDS!r}.items():
    command = getattr(importlib.import_module(f"centernet_d2.cli.{{name}}"), function)
    try:
        command(["--help"])
    except SystemExit as end:
        assert end.code == 0
    else:
        raise AssertionError(name)
sys.argv = ["centernet-train"]
train = importlib.import_module("centernet_d2.cli.train").run
assert train([]) == 1
assert train(["--data", "photos"]) == 1
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    errors = result.stderr.split("centernet-train: ")[-2:]
    assert "--data PATH" in errors[0].splitlines()[1]
    assert errors[1] == (f"Detectron2 is not installed in this environment. Install it with:\n  {INSTALL_DETECTRON2}\n")


def test_help_all_lists_the_options_of_heads(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["demo.py"])
    assert "--focal-length" not in screen(capsys, "detect", "--help")
    assert run("detect", "--help-all") == 0
    assert "--focal-length" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train", "detect", "visualize", "convert"])
def test_models_are_listed(name, capsys):
    lines = screen(capsys, name, "--list-models").splitlines()
    assert {"  dla34-coco", "  COCO-Detection/centernet_R_18_1x.yaml"} <= set(lines)


def test_training_has_the_options_of_detectron2():
    own = {action.dest: action for action in train.build_parser()._actions}
    for action in default_argument_parser()._actions:
        assert own[action.dest].option_strings == action.option_strings
        assert (own[action.dest].type, own[action.dest].const) == (action.type, action.const)
        assert action.dest == "opts" or own[action.dest].default == action.default


@pytest.mark.parametrize(
    "line",
    [
        "--config-file a.yaml --resume SOLVER.MAX_ITER 3 SOLVER.BASE_LR -1",
        "SOLVER.MAX_ITER 3 --config-file a.yaml SOLVER.BASE_LR -1 --resume",
        "SOLVER.MAX_ITER 3 SOLVER.BASE_LR -1 --resume --config-file=a.yaml",
    ],
)
def test_options_of_the_training_stand_before_or_after_keys(line):
    args = train.build_parser().parse_intermixed_args(line.split())
    assert (args.config_file, args.resume) == ("a.yaml", True)
    assert args.opts == ["SOLVER.MAX_ITER", "3", "SOLVER.BASE_LR", "-1"]


def test_options_of_the_demo_stand_before_or_after_inputs():
    line = "a.png --opts MODEL.DEVICE cpu --config-file c.yaml b.png --heatmap c.png"
    args = detect.build_parser().parse_intermixed_args(line.split())
    assert (args.inputs, args.opts, args.heatmap) == (["a.png", "b.png", "c.png"], ["MODEL.DEVICE", "cpu"], True)
