import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from centernet_d2.data.loader import _start_worker, configure_workers


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot fork safely")
@pytest.mark.parametrize("default", ["spawn", "forkserver"])
def test_workers_are_forked(default, monkeypatch):
    monkeypatch.setattr("torch.multiprocessing.get_start_method", lambda *_, **__: default)
    loader = DataLoader([1, 2], num_workers=1)
    configure_workers(loader)
    assert loader.multiprocessing_context.get_start_method() == "fork"
    assert [int(batch) for batch in loader] == [1, 2]
    configure_workers(DataLoader([1, 2]))


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start_late(write, parent):
    """Act as a worker whose parent is killed before its initialization."""
    os.write(write, b"%d" % os.getpid())
    while os.getppid() == parent:
        time.sleep(0.01)
    _start_worker(0)
    time.sleep(100)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_worker_exits_if_its_parent_is_killed_during_the_start():
    """Fork a process that starts a worker and is killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        process = multiprocessing.get_context("fork").Process(target=start_late, args=(write, os.getpid()))
        process.start()
        process.join()
        os._exit(0)
    worker = int(os.read(read, 20))
    for descriptor in (read, write):
        os.close(descriptor)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 20
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(worker)
