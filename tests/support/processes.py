"""Functions that run in several communicating processes."""

import os
import traceback

import torch


def run_forked(function, count, folder):
    """Call function(rank) in `count` forked processes; return the results by rank.

    Processes are forked, because imports in new processes would take ten seconds each. They use one thread, because
    OpenMP threads do not survive a fork.

    Args:
        function: function whose result can be loaded with ``weights_only=True``.
        count: number of processes.
        folder: empty folder for the results.
    """
    children = {}
    for rank in range(count):
        child = os.fork()
        if child == 0:
            _run(function, rank, folder)
        children[child] = rank
    codes = {children[child]: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
    tracebacks = "\n".join(path.read_text() for path in sorted(folder.glob("*.error")))
    assert not any(codes.values()), f"exit codes by rank: {codes}\n{tracebacks}"
    return [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in range(count)]


def _run(function, rank, folder):
    """Run a forked process and exit, so that it does not continue with the tests."""
    code = 1
    try:
        torch.set_num_threads(1)
        torch.save(function(rank), folder / f"{rank}.pth")
        code = 0
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
    finally:
        os._exit(code)
