"""Locks exclude other processes, so these tests fork processes."""

import os
import signal

import pytest

from centernet_d2.utils.files import lock_folder


def fork_process(work):
    """Run `work` in a forked process; return its process ID."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BlockingIOError as error:
            os._exit(7 if "another run is using OUTPUT_DIR" in str(error) else 8)
        finally:
            os._exit(9)
    return child


def is_locked(folder):
    def lock():
        with lock_folder(folder):
            pass

    code = os.waitstatus_to_exitcode(os.waitpid(fork_process(lock), 0)[1])
    assert code in (0, 7)
    return code == 7


def test_lock_excludes_other_processes(tmp_path):
    folder = tmp_path / "a" / "b"
    with lock_folder(folder):
        assert is_locked(folder)
        assert is_locked(folder), "after another process failed to lock the folder"
        os.waitpid(fork_process(lambda: None), 0)
        assert is_locked(folder), "after a forked process, such as a worker, has ended"
    assert not is_locked(folder)
    with pytest.raises(RuntimeError), lock_folder(folder):
        raise RuntimeError
    assert not is_locked(folder)


def test_lock_is_released_when_process_is_killed(tmp_path):
    read, write = os.pipe()

    def hold():
        with lock_folder(tmp_path):
            worker = fork_process(signal.pause)
            os.write(write, str(worker).encode())
            signal.pause()

    run = fork_process(hold)
    worker = int(os.read(read, 20))
    assert is_locked(tmp_path)
    with (
        pytest.raises(BlockingIOError, match=rf"\(process {run} on .*\); wait until it ends"),
        lock_folder(tmp_path),
    ):
        pass
    os.kill(run, signal.SIGKILL)
    os.waitpid(run, 0)
    assert not is_locked(tmp_path)
    os.kill(worker, signal.SIGKILL)
    os.close(read)
    os.close(write)


def test_symbolic_link_is_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=r"\.lock"), lock_folder(tmp_path / "out"):
        pass
    assert not (tmp_path / "mine").exists()


def test_output_folder_that_is_a_file_raises(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(NotADirectoryError, match="OUTPUT_DIR .*out is a file"), lock_folder(tmp_path / "out"):
        pass


def test_systems_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("centernet_d2.utils.files.HAS_LOCKS", False)
    with lock_folder(tmp_path / "out"):
        assert (tmp_path / "out").is_dir()
