"""Console output and exit codes of train_net.py."""

import re
import sys

import pytest
import torch
from torch import multiprocessing

from centernet_d2.cli import train as command
from centernet_d2.cli import training


@pytest.fixture
def call(arguments, capsys, monkeypatch):
    """Function (flags, key=value...) -> exit code, standard output and standard error of a tiny training."""
    monkeypatch.setattr("sys.argv", ["train_net.py"])

    def run(*flags, **overrides):
        args = arguments(*flags, **overrides)
        code = command.run(["--config-file", args.config_file, *flags, *args.opts])
        return code, *capsys.readouterr()

    return run


def test_console_shows_progress_and_log_file_everything(call, tmp_path):
    code, out, err = call(SOLVER__MAX_ITER=2, SOLVER__STEPS="(1,)")
    assert (code, err) == (0, "")
    for shown in (
        "output folder: ",
        "device: cpu",
        "2/2  epoch 0.7/0.7  loss ",
        "iteration     2  epoch   0.7  ",
    ):
        assert shown in out, shown
    # The last line is a command, which is not wrapped; paths are not broken.
    lines = out.replace(str(tmp_path), "").splitlines()
    assert max(map(len, lines[:-1])) <= 100
    log = (tmp_path / "out" / "log.txt").read_text()
    for logged in (
        "Environment info",
        "Command line arguments",
        "Running with full config",
        "Model:",
        "IoU=0.50:0.95",
        "iter: 1  total_loss",
    ):
        assert logged in log, logged
        assert logged not in out, logged
    assert len(out.splitlines()) < 25
    assert len(log.splitlines()) > 300


def test_config_by_model_zoo_name(arguments, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train_net.py"])
    args = arguments(SOLVER__MAX_ITER=1, DATASETS__TEST="()")
    code = command.run(["--config-file", "Shapes/centernet_R_18_shapes.yaml", *args.opts])
    assert (code, capsys.readouterr().err) == (0, "")


@pytest.mark.parametrize(
    ("flags", "overrides", "message"),
    [
        (["--eval-only"], {"MODEL__WEIGHTS": "nope.pth"}, "the weights file nope.pth does not exist"),
        ([], {"MODEL__TRUNK_WEIGHTS": "nope.pth"}, "the weights file nope.pth does not exist"),
        (["--eval-only"], {}, "--eval-only needs weights: set MODEL.WEIGHTS, or add --resume"),
        ([], {"MODEL__NOTHING": 1}, "there is no key MODEL.NOTHING"),
        ([], {"DATASETS__TRAIN": "('nowhere',)", "DATASETS__TEST": "()"}, "'nowhere' is not registered"),
    ],
)
def test_error_is_one_line(call, flags, overrides, message):
    code, out, err = call(*flags, **overrides)
    assert code == 1
    assert re.fullmatch(rf"train_net: .*{re.escape(message)}.*\n", err)
    assert len(out.splitlines()) <= 3


def test_missing_tensorboard_is_a_warning(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    code, out, err = call(SOLVER__MAX_ITER=1, DATASETS__TEST="()")
    assert (code, err) == (0, "")
    assert "TensorBoard is not installed" in out
    assert not list((tmp_path / "out").glob("events.*"))
    assert (tmp_path / "out" / "metrics.json").exists()


def test_divergence_is_one_line(call, monkeypatch):
    monkeypatch.setattr(
        "centernet_d2.modeling.heads.center.CenterHead.losses", lambda self, *_: {"loss": torch.tensor(float("nan"))}
    )
    code, out, err = call()
    assert code == 1
    assert re.fullmatch(
        r"train_net: the loss or a gradient is NaN or infinite at iteration 0 \(.*'loss': .*nan.*\)\. .*\n", err
    )
    assert "Traceback" not in out


def test_output_folder_can_be_reused_after_failed_start(call, tmp_path):
    assert call(DATASETS__TRAIN="('nowhere',)", DATASETS__TEST="()")[0] == 1
    assert (tmp_path / "out" / "config.yaml").exists()
    assert call(DATASETS__TEST="()", SOLVER__MAX_ITER=1)[0] == 0


def test_too_many_gpus_is_one_line(call, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert call("--num-gpus", "2")[::2] == (1, "train_net: --num-gpus is 2, but only 1 GPUs are visible\n")


def test_several_gpus_without_a_gpu_are_one_line(call, arguments, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(training, "launch", lambda *_, **__: pytest.fail("processes were started"))
    config = arguments().config_file
    assert command.run(["--config-file", config, "--num-gpus", "2"]) == 1
    message = "--num-gpus is 2, but no GPU is available. To train in 2 processes on the CPU, add MODEL.DEVICE cpu"
    assert capsys.readouterr().err == f"train_net: {message}\n"


def test_no_arguments_show_the_usage_with_data_first(call, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train_net.py"])
    assert command.run([]) == 1
    problem, first, *_ = capsys.readouterr().err.splitlines()
    assert problem == "train_net: no data and no config is specified:"
    assert first.startswith("usage: train_net.py --data PATH ")


def test_cpu_processes_on_gpu_machine_require_torchrun(call, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(training, "launch", lambda *_, **__: pytest.fail("processes were started"))
    code, _, err = call("--num-gpus", "2")
    assert code == 1
    assert err.endswith("--num-gpus does not support MODEL.DEVICE cpu on a machine with GPUs: use torchrun\n")


def test_errors_are_reported_before_processes_start(call, monkeypatch):
    monkeypatch.setattr(training, "launch", lambda *_, **__: pytest.fail("processes were started"))
    code, _, err = call("--num-gpus", "2", MODEL__WEIGHTS="nope.pth")
    assert (code, err) == (1, "train_net: the weights file nope.pth does not exist\n")


@pytest.mark.parametrize("debug", [False, True])
def test_error_in_several_processes_is_one_line(arguments, capsys, monkeypatch, debug):
    def launch(main, processes, *, args, **options):
        """Run the processes sequentially and raise the same error as torch."""
        for _rank in range(processes):
            with pytest.raises(FileNotFoundError if debug else SystemExit):
                main(*args)
        raise multiprocessing.ProcessExitedException("exit code 1", error_index=0, error_pid=0, exit_code=1)

    def execute(job):
        raise FileNotFoundError("the image a.png does not exist")

    monkeypatch.setattr(training, "launch", launch)
    monkeypatch.setattr(training, "execute", execute)
    monkeypatch.setattr("sys.argv", ["train_net.py"])
    flags = ["--num-gpus", "2", *(["--debug"] if debug else [])]
    args = arguments()
    argv = ["--config-file", args.config_file, *flags, *args.opts]
    if debug:
        with pytest.raises(multiprocessing.ProcessExitedException):
            command.run(argv)
    else:
        assert command.run(argv) == 1
        assert capsys.readouterr().err == "train_net: the image a.png does not exist\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SIGKILL", "ended by SIGKILL. Usually, memory ran out: lower SOLVER.IMS_PER_BATCH or DATALOADER.NUM_WORKERS."),
        ("SIGSEGV", "ended by SIGSEGV."),
    ],
)
def test_killed_process_is_reported_in_one_line(arguments, capsys, monkeypatch, name, message):
    def launch(*_, **__):
        raise multiprocessing.ProcessExitedException(name, error_index=1, error_pid=0, exit_code=-9, signal_name=name)

    monkeypatch.setattr(training, "launch", launch)
    monkeypatch.setattr("sys.argv", ["train_net.py"])
    args = arguments()
    assert command.run(["--config-file", args.config_file, "--num-gpus", "2", *args.opts]) == 1
    assert capsys.readouterr().err == f"train_net: process 1 of the training was {message} Continue with --resume\n"
