"""A lock is between processes, so these tests fork some, which do nothing else."""

import os
import signal

import pytest

from centernet_d2.utils.files import lock_folder


def in_another_process(work):
    """The number of a process that does some work."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BlockingIOError as error:
            os._exit(7 if "another training is running in OUTPUT_DIR" in str(error) else 8)
        finally:
            os._exit(9)
    return child


def is_locked(folder):
    def lock():
        with lock_folder(folder):
            pass

    code = os.waitstatus_to_exitcode(os.waitpid(in_another_process(lock), 0)[1])
    assert code in (0, 7)
    return code == 7


def test_one_run_at_a_time(tmp_path):
    folder = tmp_path / "a" / "b"
    with lock_folder(folder):
        assert is_locked(folder)
        assert is_locked(folder), "also after the process that was refused"
        os.waitpid(in_another_process(lambda: None), 0)
        assert is_locked(folder), "also after the end of a process that was forked, like a worker"
    assert not is_locked(folder)
    with pytest.raises(RuntimeError), lock_folder(folder):
        raise RuntimeError
    assert not is_locked(folder)


def test_a_killed_run_holds_nothing_and_its_worker_neither(tmp_path):
    read, write = os.pipe()

    def hold():
        with lock_folder(tmp_path):
            worker = in_another_process(signal.pause)
            os.write(write, str(worker).encode())
            signal.pause()

    run = in_another_process(hold)
    worker = int(os.read(read, 20))
    assert is_locked(tmp_path)
    with (
        pytest.raises(BlockingIOError, match=rf"\(process {run} on .*\); wait until it has ended"),
        lock_folder(tmp_path),
    ):
        pass
    os.kill(run, signal.SIGKILL)
    os.waitpid(run, 0)
    assert not is_locked(tmp_path)
    os.kill(worker, signal.SIGKILL)
    os.close(read)
    os.close(write)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=r"\.lock"), lock_folder(tmp_path / "out"):
        pass
    assert not (tmp_path / "mine").exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(NotADirectoryError, match="OUTPUT_DIR .*out is a file"), lock_folder(tmp_path / "out"):
        pass


def test_without_locks_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("centernet_d2.utils.files.HAS_LOCKS", False)
    with lock_folder(tmp_path / "out"):
        assert (tmp_path / "out").is_dir()
