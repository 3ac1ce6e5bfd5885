"""Distributed training with torchrun: environment variables and config checks."""

import json
import socket

import pytest

from centernet_d2.cli import train as command
from centernet_d2.cli import training
from centernet_d2.cli.training import build_run
from support.processes import run_forked

FROZEN = {"MODEL__RESNETS__NORM": "FrozenBN", "MODEL__UPCONV__NORM": "FrozenBN"}
TRAINING = {**FROZEN, "SOLVER__IMS_PER_BATCH": "4", "SOLVER__MAX_ITER": "2", "SEED": "7", "DATASETS__TEST": "()"}


def torchrun(monkeypatch, rank, processes, port="29511"):
    """Set the environment variables of a process started by torchrun."""
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    for name, value in {**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))


def total_losses(folder):
    return [json.loads(line)["total_loss"] for line in (folder / "metrics.json").read_text().splitlines()]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def test_losses_with_torchrun_equal_those_of_a_single_process(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train_net.py"])
    port = free_port()

    def call(name):
        args = arguments(**TRAINING, OUTPUT_DIR=str(tmp_path / name))
        return command.run(["--config-file", args.config_file, *args.opts])

    def process(rank):
        torchrun(monkeypatch, rank, 2, port)
        return {"code": call("two")}

    # The forked processes run first, because threads do not survive a fork.
    assert run_forked(process, 2, tmp_path) == [{"code": 0}] * 2
    assert call("one") == 0
    two, one = total_losses(tmp_path / "two"), total_losses(tmp_path / "one")
    assert len(two) == len(one) > 0
    assert two == pytest.approx(one, rel=1e-4)
    for rank, name in enumerate(("log.txt", "log.txt.rank1")):
        assert f"Rank of current process: {rank}. World size: 2" in (tmp_path / "two" / name).read_text()


@pytest.mark.parametrize(
    ("flags", "overrides", "message"),
    [
        (["--num-gpus", "2"], {}, "torchrun started this process, so --num-gpus and --num-machines cannot be used"),
        (
            [],
            {"SOLVER__IMS_PER_BATCH": "3"},
            "SOLVER.IMS_PER_BATCH is 3, but must be a positive multiple of the number of processes, 2",
        ),
        (
            [],
            {"MODEL__UPCONV__NORM": "SyncBN"},
            "MODEL.UPCONV.NORM is SyncBN, which needs GPUs for 2 processes: use BN",
        ),
        (
            [],
            {"SOLVER__REFERENCE_WORLD_SIZE": "2", "SOLVER__REFERENCE_IMS_PER_BATCH": "2"},
            "both scale the learning rate: set one of them to 0",
        ),
    ],
)
def test_incompatible_config_is_an_error_before_the_process_group_is_created(
    arguments, capsys, monkeypatch, flags, overrides, message
):
    monkeypatch.setattr("sys.argv", ["train_net.py"])
    monkeypatch.setattr(training, "process_group", lambda _: pytest.fail("process group created"))
    torchrun(monkeypatch, 0, 2)
    args = arguments(*flags, **overrides)
    assert command.run(["--config-file", args.config_file, *flags, *args.opts]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_evaluation_accepts_any_norm_and_batch_size(arguments, monkeypatch, tmp_path):
    torchrun(monkeypatch, 0, 2)
    (tmp_path / "weights.pth").touch()
    wrong = {"MODEL__UPCONV__NORM": "SyncBN", "SOLVER__IMS_PER_BATCH": "3"}
    build_run(arguments("--eval-only", MODEL__WEIGHTS=str(tmp_path / "weights.pth"), **wrong))
    with pytest.raises(ValueError, match="multiple of the number of processes, 2"):
        build_run(arguments(**wrong))
