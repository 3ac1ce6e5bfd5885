"""Interrupted trainings: signals, full disks, locks, resuming, early stopping and averaged weights."""

import logging
import multiprocessing
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from detectron2.utils.logger import setup_logger

from centernet_d2 import Predictor, load_config
from centernet_d2.checkpoint import load_file
from centernet_d2.cli import train as command
from centernet_d2.engine import Trainer
from centernet_d2.utils.files import lock_folder
from conftest import restore_catalogs
from synthetic.shapes import write_shapes

# Enables everything with a state, and an evaluation after every second iteration.
ALL = {
    "SOLVER__MAX_ITER": 6,
    "SOLVER__STEPS": "(3,)",
    "SOLVER__CHECKPOINT_PERIOD": 2,
    "SOLVER__EMA__ENABLED": True,
    "SOLVER__EMA__DECAY": 0.5,
    "TEST__EVAL_PERIOD": 2,
    "SEED": 7,
}

SCORES = {1: 20.0, 3: 30.0, 6: 10.0}


@pytest.fixture
def tiny(tiny_model, monkeypatch):
    """Replace the model of trainings by a tiny network."""
    monkeypatch.setattr(Trainer, "build_model", staticmethod(tiny_model))


@pytest.fixture
def call(arguments, capsys, monkeypatch):
    """Return a function (*flags, **config) that runs a training and returns its exit code and standard error."""
    monkeypatch.setattr("sys.argv", ["train_net.py"])

    def run(*flags, **overrides):
        torch.manual_seed(0)
        args = arguments(*flags, **overrides)
        code = command.run(["--config-file", args.config_file, *flags, *args.opts])
        return code, capsys.readouterr().err

    return run


def scripted(monkeypatch, scores, before=None):
    """Replace evaluations by given results per iteration; return the list of evaluated iterations."""
    done = []

    def test(cls, cfg, model, evaluators=None):
        iteration = current["trainer"].iter
        done.append(iteration)
        if before is not None:
            before(iteration)
        return {"bbox": {"AP": scores.get(iteration, 0.0)}}

    current, train = {}, Trainer.train

    def watched(self):
        current["trainer"] = self
        return train(self)

    monkeypatch.setattr(Trainer, "test", classmethod(test))
    monkeypatch.setattr(Trainer, "_test_variant", classmethod(lambda cls, *_: {"bbox_EMA": {"AP": 1.0}}))
    monkeypatch.setattr(Trainer, "train", watched)
    return done


def at_iteration(monkeypatch, iteration, action):
    """Call a function at the start of an iteration."""
    run_step = Trainer.run_step

    def step(self):
        if self.iter == iteration:
            action()
        run_step(self)

    monkeypatch.setattr(Trainer, "run_step", step)


def assert_same(left, right):
    """Compare final, averaged and best weights of two runs, and the state of BestWeights."""
    names = ("model_final.pth", "model_ema.pth", "model_best.pth")
    for name in names:
        a, b = load_file(left / name), load_file(right / name)
        assert a["model"].keys() == b["model"].keys()
        for key, tensor in a["model"].items():
            assert torch.equal(tensor, b["model"][key]), f"{name}: {key}"
        assert a.get("iteration") == b.get("iteration"), name
    hooks = [load_file(folder / "model_final.pth")["trainer"]["hooks"]["BestWeights"] for folder in (left, right)]
    assert hooks[0] == hooks[1]


@pytest.fixture(scope="module")
def uninterrupted_folder(parse, tiny_model, shapes_folder, tmp_path_factory):
    """Output folder of an uninterrupted run whose best evaluation is after iteration 3."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "out"
    with pytest.MonkeyPatch.context() as patch, restore_catalogs():
        patch.setenv("DETECTRON2_DATASETS", str(shapes_folder))
        setup_logger.cache_clear()
        for name in ("fvcore", "detectron2", "centernet_d2"):
            patch.setattr(logging.getLogger(name), "handlers", [])
        patch.setattr(Trainer, "build_model", staticmethod(tiny_model))
        scripted(patch, SCORES)
        torch.manual_seed(0)
        command.main(parse(OUTPUT_DIR=folder, **ALL))
    return folder


@pytest.fixture
def finished(uninterrupted_folder, tiny, tmp_path):
    """Copy of that folder, which a test may resume from."""
    return Path(shutil.copytree(uninterrupted_folder, tmp_path / "finished"))


@pytest.fixture
def hangup():
    """Default handling of SIGHUP, even if the test suite was started with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize(
    ("number", "iteration", "code"),
    [(signal.SIGTERM, 2, 143), (signal.SIGINT, 3, 130), (signal.SIGTERM, 5, 143), (signal.SIGHUP, 2, 129)],
)
def test_run_resumed_after_a_signal_equals_an_uninterrupted_run(
    call, finished, tmp_path, monkeypatch, number, iteration, code
):
    out, handlers = tmp_path / "out", [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    done = scripted(monkeypatch, SCORES)
    with monkeypatch.context() as patch:
        at_iteration(patch, iteration, lambda: signal.raise_signal(number))
        exit_code, err = call(**ALL)
    assert exit_code == code
    assert err == f"train_net: stopped; the state after iteration {iteration} was saved, continue with --resume\n"
    assert handlers == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    name = (out / "last_checkpoint").read_text()
    assert name == ("model_final.pth" if iteration == 5 else f"model_{iteration:07d}.pth")
    assert load_file(out / name)["trainer"]["iteration"] == iteration
    assert iteration not in done, "evaluated before stopping"
    assert call("--resume", **ALL) == (0, "")
    assert done == [1, 3, 6]
    assert_same(finished, out)


@pytest.mark.parametrize("iteration", [3, 6])
def test_resumed_run_repeats_an_interrupted_evaluation(call, finished, tmp_path, monkeypatch, iteration):
    def interrupt(now):
        if now == iteration and not interrupted:
            interrupted.append(now)
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("evaluation not interrupted")

    interrupted = []
    done = scripted(monkeypatch, SCORES, before=interrupt)
    # No periodic checkpoint is due at the interruption.
    options = {**ALL, "SOLVER__CHECKPOINT_PERIOD": 100}
    code, err = call(**options)
    assert code == 143
    assert f"the state after iteration {min(iteration, 5)} was saved" in err
    assert call("--resume", **options) == (0, "")
    assert done == sorted([1, 3, 6, iteration])
    assert_same(finished, tmp_path / "out")


@pytest.mark.usefixtures("tiny")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("position", ["fork", "last batch"])
def test_signal_that_cannot_be_raised_still_ends_the_evaluation(call, tmp_path, monkeypatch, position):
    """Receive a signal in a callback, where Python ignores exceptions."""
    active = [True]

    def receive():
        if active and multiprocessing.parent_process() is None:
            active.clear()
            signal.raise_signal(signal.SIGTERM)

    class Callback:
        def __del__(self):
            receive()

    options = {"DATALOADER__NUM_WORKERS": 1, "TEST__EVAL_PERIOD": 2, "SOLVER__MAX_ITER": 6}
    build = Trainer.build_test_loader.__func__

    def build_test_loader(cls, cfg, name):
        if position == "fork":
            os.register_at_fork(after_in_parent=receive)
        return build(cls, cfg, name)

    evaluated = []
    test = Trainer.test.__func__

    def run_test(cls, *args):
        evaluated.append(1)
        results = test(cls, *args)
        if position == "last batch":
            Callback()
        return results

    monkeypatch.setattr(Trainer, "build_test_loader", classmethod(build_test_loader))
    monkeypatch.setattr(Trainer, "test", classmethod(run_test))
    code, err = call(**options)
    assert (code, err) == (143, "train_net: stopped; the state after iteration 1 was saved, continue with --resume\n")
    assert evaluated == [1]
    assert [path.name for path in (tmp_path / "out").glob("*.pth")] == ["model_0000001.pth"]


@pytest.mark.usefixtures("tiny")
def test_second_ctrl_c_stops_immediately(call, tmp_path, monkeypatch):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_iteration(monkeypatch, 1, twice)
    assert call(DATASETS__TEST="()") == (130, "train_net: interrupted\n")
    assert not list((tmp_path / "out").glob("*.pth"))


def processes_of(session):
    """Return the running processes of a session."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # The process has exited.
            continue
        if int(own) == session and state != "Z":
            processes.append(path)
    return processes


@pytest.mark.usefixtures("tiny")
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_signal_to_the_process_group_ends_all_workers(arguments, tmp_path, monkeypatch):
    """Send SIGTERM to the process group of a forked training and wait for the end of its workers."""
    monkeypatch.setattr("sys.argv", ["train_net.py"])
    args = arguments(SOLVER__MAX_ITER=10_000, DATALOADER__NUM_WORKERS=2, DATASETS__TEST="()")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            torch.set_num_threads(1)
            at_iteration(monkeypatch, 2, lambda: os.write(write, b"2"))
            os._exit(command.run(["--config-file", args.config_file, *args.opts]))
        finally:
            os._exit(9)
    os.close(write)
    assert os.read(read, 1) == b"2"
    os.close(read)
    assert len(processes_of(child)) == 3
    os.killpg(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    assert load_file(tmp_path / "out" / (tmp_path / "out" / "last_checkpoint").read_text())["iteration"] >= 2
    deadline = time.monotonic() + 20  # Workers check for their parent every few seconds.
    while processes_of(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_of(child)


@pytest.mark.usefixtures("tiny")
def test_killed_worker_is_reported_in_one_line(call, monkeypatch):
    def kill():
        (worker,) = multiprocessing.active_children()
        worker.kill()
        time.sleep(20)  # Until SIGCHLD.

    at_iteration(monkeypatch, 2, kill)
    code, err = call(SOLVER__MAX_ITER=100, DATALOADER__NUM_WORKERS=1, DATASETS__TEST="()")
    assert code == 1
    assert re.fullmatch(
        r"train_net: a data loader worker has ended \(DataLoader worker \(pid \d+\) is killed by signal: Killed\.\)\. "
        r"Usually, memory ran out: .* with --resume\n",
        err,
    )


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("flags", [[], ["--resume"]])
def test_second_training_in_a_folder_is_refused(call, tmp_path, flags):
    """Start a training while a forked process holds the lock of the folder."""
    out = tmp_path / "out"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with lock_folder(out):
            os.write(write, b"1")
            signal.pause()
    os.read(read, 1)
    code, err = call(*flags, DATASETS__TEST="()")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    assert code == 1
    assert re.fullmatch(rf"train_net: another run is using OUTPUT_DIR {out} \(process {child} .*\); .*\n", err)
    assert [path.name for path in out.iterdir()] == [".lock"]
    assert call(*flags, DATASETS__TEST="()", SOLVER__MAX_ITER=1)[0] == 0


def test_resumed_run_rewrites_a_damaged_final_checkpoint(call, finished, monkeypatch):
    final = finished / "model_final.pth"
    content = final.read_bytes()
    (finished / ".model_0000003.pth.tmp").write_bytes(content[:1000])
    for damaged in (content[: len(content) // 2], None):
        final.unlink() if damaged is None else final.write_bytes(damaged)
        (finished / "model_ema.pth").unlink(missing_ok=True)
        done = scripted(monkeypatch, SCORES)
        assert call("--resume", OUTPUT_DIR=finished, **ALL) == (0, "")
        assert done == [6], "resumes from model_0000005.pth"
        assert load_file(final)["trainer"]["iteration"] == 5
        assert load_file(finished / "model_ema.pth")
        assert (finished / "last_checkpoint").read_text() == "model_final.pth"
    (finished / "model_0000005.pth").unlink()
    final.write_bytes(b"")
    assert call("--resume", OUTPUT_DIR=finished, **ALL)[0] == 0
    assert done == [6, 3, 6], "repeats the evaluation after model_0000003.pth"
    again = load_file(final)["model"]
    final.write_bytes(content)
    assert all(torch.equal(tensor, again[name]) for name, tensor in load_file(final)["model"].items())
    assert not (finished / ".model_0000003.pth.tmp").exists()


def test_full_disk_is_reported_and_keeps_the_last_checkpoint(call, tmp_path):
    resource = pytest.importorskip("resource")
    assert call(SOLVER__MAX_ITER=1, DATASETS__TEST="()")[0] == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        code, err = call("--resume", SOLVER__MAX_ITER=2, DATASETS__TEST="()")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert re.fullmatch(
        r"train_net: \S*model_final.pth cannot be written \(File too large\); an existing file is unchanged.*\n", err
    )
    assert load_file(tmp_path / "out" / "model_final.pth")["iteration"] == 0
    assert call("--resume", SOLVER__MAX_ITER=2, DATASETS__TEST="()") == (0, "")


@pytest.mark.usefixtures("tiny")
def test_full_disk_outside_of_checkpoints_is_reported(call, monkeypatch):
    def write(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("detectron2.utils.events.JSONWriter.write", write)
    code, err = call(SOLVER__MAX_ITER=5, DATASETS__TEST="()")
    assert code == 1
    assert re.fullmatch(
        r"train_net: OUTPUT_DIR \S+ cannot be written to \(No space left on device\); its checkpoints .*\n", err
    )


@pytest.mark.usefixtures("tiny")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_log_file_on_a_full_disk_is_ignored(call, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log.txt").symlink_to("/dev/full")
    assert call(SOLVER__MAX_ITER=1, DATASETS__TEST="()") == (0, "")


@pytest.mark.usefixtures("tiny")
def test_max_to_keep_applies_to_checkpoints_before_a_resume(call, tmp_path):
    def kept():
        return sorted(path.name for path in (tmp_path / "out").glob("model_*.pth"))

    options = {"SOLVER__CHECKPOINT_PERIOD": 1, "DATASETS__TEST": "()"}
    assert call(SOLVER__MAX_ITER=3, **options)[0] == 0
    assert len(kept()) == 4
    assert call("--resume", SOLVER__MAX_ITER=4, SOLVER__MAX_TO_KEEP=2, **options)[0] == 0
    assert kept() == ["model_0000002.pth", "model_0000003.pth", "model_final.pth"]
    assert "SOLVER.MAX_TO_KEEP is -1" in call("--resume", SOLVER__MAX_TO_KEEP=-1, **options)[1]


@pytest.mark.usefixtures("tiny")
def test_checkpoints_from_the_future_do_not_displace_new_ones(call, tmp_path):
    """Continue a training after the clock was set back."""
    options = {"SOLVER__CHECKPOINT_PERIOD": 1, "DATASETS__TEST": "()", "SOLVER__MAX_TO_KEEP": 2}
    assert call(SOLVER__MAX_ITER=3, **options)[0] == 0
    for path in (tmp_path / "out").glob("model_*.pth"):
        os.utime(path, (4e9, 4e9))
    assert call("--resume", SOLVER__MAX_ITER=6, **options)[0] == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("model_*.pth"))
    assert names == ["model_0000004.pth", "model_0000005.pth", "model_final.pth"]


def test_modification_times_do_not_matter_after_a_damaged_final_checkpoint(call, finished, monkeypatch):
    for number, path in enumerate(sorted(finished.glob("model_*.pth"), reverse=True)):
        os.utime(path, (number, number))
    (finished / "model_final.pth").write_bytes(b"")
    done = scripted(monkeypatch, SCORES)
    assert call("--resume", OUTPUT_DIR=finished, **ALL) == (0, "")
    assert done == [6], "resumes from model_0000005.pth"


def test_averaged_weights_are_updated_evaluated_and_loadable(call, tmp_path, monkeypatch):
    seen, expected = [], {}

    def step(self):
        run_step(self)
        kept = min(0.2, (1 + self.iter) / (10 + self.iter))
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                old = expected.get(name)
                expected[name] = tensor.clone() if old is None else kept * old + (1 - kept) * tensor

    def logged(cls, cfg, model, name):
        seen.append(variant(cfg, model, name))
        return seen[-1]

    run_step, variant = Trainer.run_step, Trainer._test_variant
    monkeypatch.setattr(Trainer, "run_step", step)
    monkeypatch.setattr(Trainer, "_test_variant", classmethod(logged))
    assert call(SOLVER__EMA__ENABLED=True, SOLVER__EMA__DECAY=0.2, MODEL__CENTERNET__TEST_RESOLUTION="fixed")[0] == 0
    out = tmp_path / "out"
    averaged, plain = load_file(out / "model_ema.pth")["model"], load_file(out / "model_final.pth")["model"]
    assert averaged.keys() == plain.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(averaged[name], tensor, msg=name)
    assert not torch.equal(averaged["backbone.conv1.weight"], plain["backbone.conv1.weight"])
    (results,) = seen
    assert "AP" in results["bbox_EMA"]
    assert (out / "inference_EMA" / "shapes_val" / "coco_instances_results.json").exists()
    assert (out / "last_checkpoint").read_text() == "model_final.pth"

    cfg = load_config(out / "config.yaml", ["MODEL.WEIGHTS", str(out / "model_ema.pth"), "TEST.FOLD_NORMS", False])
    network = Predictor.from_config(cfg).model
    assert torch.equal(network.state_dict()["backbone.conv1.weight"], averaged["backbone.conv1.weight"])
    weights = {"MODEL__WEIGHTS": out / "model_ema.pth", "MODEL__CENTERNET__TEST_RESOLUTION": "fixed"}
    assert call("--eval-only", OUTPUT_DIR=tmp_path / "other", **weights)[0] == 0


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_invalid_decay_is_reported(call, decay):
    code, err = call(SOLVER__EMA__ENABLED=True, SOLVER__EMA__DECAY=decay)
    assert (code, err) == (1, f"train_net: SOLVER.EMA.DECAY is {decay}, but must be at least 0 and less than 1\n")


def test_model_best_contains_the_weights_of_the_best_evaluation(call, finished):
    best, saved = load_file(finished / "model_best.pth"), load_file(finished / "model_0000003.pth")
    assert best["iteration"] == 3
    assert all(torch.equal(tensor, saved["model"][name]) for name, tensor in best["model"].items())
    assert call("--eval-only", OUTPUT_DIR=finished, MODEL__WEIGHTS=finished / "model_best.pth")[0] == 0


@pytest.mark.usefixtures("tiny")
def test_model_best_of_averaged_weights(call, tmp_path, monkeypatch):
    scripted(monkeypatch, {1: 20.0})
    assert call(**{**ALL, "SOLVER__MAX_ITER": 4, "TEST__BEST_METRIC": "bbox_EMA/AP"})[0] == 0
    best = load_file(tmp_path / "out" / "model_best.pth")
    state = load_file(tmp_path / "out" / "model_0000001.pth")["trainer"]["hooks"]["AverageWeights"]
    assert best["iteration"] == 1
    assert all(torch.equal(tensor, state[f"module.{name}"]) for name, tensor in best["model"].items())


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("interrupt_at", [None, 3, 4])
def test_early_stopping_continues_counting_after_a_resume(call, tmp_path, monkeypatch, interrupt_at):
    out = tmp_path / "out"
    scores = {0: 10.0, 1: 30.0, 2: 20.0, 3: 25.0, 4: 15.0, 5: 40.0}
    done = scripted(monkeypatch, scores)
    options = {
        **ALL,
        "SOLVER__MAX_ITER": 9,
        "SOLVER__PATIENCE": 3,
        "TEST__EVAL_PERIOD": 1,
        "SOLVER__EMA__ENABLED": False,
    }
    if interrupt_at is not None:
        with monkeypatch.context() as patch:
            at_iteration(patch, interrupt_at, lambda: signal.raise_signal(signal.SIGTERM))
            assert call(**options)[0] == 143
    assert call(*([] if interrupt_at is None else ["--resume"]), **options) == (0, "")
    assert done == [0, 1, 2, 3, 4]
    assert load_file(out / "model_final.pth")["trainer"]["iteration"] == 4
    assert load_file(out / "model_best.pth")["iteration"] == 1
    log = (out / "log.txt").read_text()
    assert "early stopping: 3 evaluations without a better bbox/AP (best: 30 at iteration 1; SOLVER.PATIENCE)" in log
    assert "Traceback" not in log
    if interrupt_at is None:  # A stopped run resumes only with a larger patience.
        assert call("--resume", **options) == (0, "")
        assert done == [0, 1, 2, 3, 4]
        assert call("--resume", **{**options, "SOLVER__PATIENCE": 4, "SOLVER__MAX_ITER": 6}) == (0, "")
        assert done[5:] == [6]
        assert load_file(out / "model_final.pth")["trainer"]["iteration"] == 5


@pytest.mark.usefixtures("tiny")
def test_unavailable_best_metric_is_logged_with_available_metrics(call, tmp_path, monkeypatch):
    scripted(monkeypatch, {})
    options = {**ALL, "SOLVER__MAX_ITER": 4, "SOLVER__PATIENCE": 1, "SOLVER__EMA__ENABLED": False}
    assert call(TEST__BEST_METRIC="bbox/APP", **options)[0] == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "TEST.BEST_METRIC is bbox/APP, but the evaluation does not return this metric" in log
    assert "Available metrics: bbox/AP" in log
    assert not (tmp_path / "out" / "model_best.pth").exists()


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"SOLVER__PATIENCE": 1}, "SOLVER.PATIENCE needs DATASETS.TEST, TEST.EVAL_PERIOD and TEST.BEST_METRIC"),
        ({"TEST__EVAL_PERIOD": 1, "TEST__BEST_METRIC": "bbox_EMA/AP"}, "bbox_EMA/AP needs SOLVER.EMA.ENABLED"),
        (
            {"SOLVER__STEP_EPOCHS": "(1,)"},
            "SOLVER.EPOCHS is 0 and SOLVER.STEP_EPOCHS is (1,): epochs must not be",
        ),
    ],
)
def test_contradictory_keys_are_reported_in_one_line(call, overrides, message):
    code, err = call(**overrides)
    assert code == 1
    assert re.fullmatch(rf"train_net: .*{re.escape(message)}.*\n", err)


@pytest.mark.usefixtures("tiny")
def test_epochs_are_converted_to_iterations(call, tmp_path):
    options = {"SOLVER__EPOCHS": 2, "SOLVER__STEP_EPOCHS": "(1,)", "SOLVER__MAX_ITER": 999, "DATASETS__TEST": "()"}
    assert call(SOLVER__IMS_PER_BATCH=4, **options)[0] == 0
    out = tmp_path / "out"
    assert load_file(out / "model_final.pth")["iteration"] == 2
    assert (
        "2 epochs of 6 images in batches of 4: 3 iterations; learning rate steps at 2" in (out / "log.txt").read_text()
    )
    cfg = load_config(out / "config.yaml")
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.STEP_EPOCHS, cfg.SOLVER.MAX_ITER) == (2, (1,), 999)
    assert call("--resume", SOLVER__IMS_PER_BATCH=4, **{**options, "SOLVER__EPOCHS": 3})[0] == 0
    assert load_file(out / "model_final.pth")["iteration"] == 4


@pytest.mark.usefixtures("tiny")
def test_config_of_a_run_survives_a_kill_during_its_update(call, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def write_half(path, write):
        path.with_name(".config.yaml.tmp").write_text("SOLVER:\n  MAX")
        raise Killed

    options = {"DATASETS__TEST": "()", "SOLVER__MAX_ITER": 1}
    out = tmp_path / "out"
    assert call(**options)[0] == 0
    before = (out / "config.yaml").read_text()
    with monkeypatch.context() as patch:
        patch.setattr("centernet_d2.engine.setup.write_atomically", write_half)
        with pytest.raises(Killed):
            call("--resume", **{**options, "SOLVER__MAX_ITER": 2})
    assert (out / "config.yaml").read_text() == before
    assert call("--resume", SOLVER__BASE_LR=1.0, **{**options, "SEED": 3})[0] == 1, "compared with the recorded config"
    assert call("--resume", **options)[0] == 0
    assert not list(out.glob(".*.tmp"))


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_training_images_are_skipped_and_logged(call, tmp_path, monkeypatch, workers):
    write_shapes(tmp_path / "data" / "shapes", train=6, val=1, size=64)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    bad = sorted((tmp_path / "data" / "shapes").rglob("train/*.png"))[1]
    bad.write_bytes(bad.read_bytes()[:-200])  # The check before training reads only the header.
    options = {"DATASETS__TEST": "()", "SOLVER__MAX_ITER": 6, "DATALOADER__NUM_WORKERS": workers}
    code, err = call(**options, OUTPUT_DIR=tmp_path / "strict")
    assert code == 1
    assert str(bad) in err
    assert call(**options, DATALOADER__MAX_BAD_IMAGES=1) == (0, "")
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("the image is skipped (DATALOADER.MAX_BAD_IMAGES)") == 1
    assert f"1 images were skipped: {bad}" in log
