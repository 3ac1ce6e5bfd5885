"""Functions run in several processes of this machine that talk to each other."""

import os
import traceback

import torch


def run_forked(function, count, folder):
    """Call function(rank) in `count` copies of this process, and return what they return, by rank.

    Forked and not started anew: imports alone would take ten seconds each. The copies use one thread, since those of
    OpenMP do not live on in them.

    Args:
        function: returns anything that torch can save without code.
        count: number of processes.
        folder: empty, for their results.
    """
    children = {}
    for rank in range(count):
        child = os.fork()
        if child == 0:
            _run(function, rank, folder)
        children[child] = rank
    codes = {children[child]: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
    said = "\n".join(path.read_text() for path in sorted(folder.glob("*.error")))
    assert not any(codes.values()), f"exit codes by rank: {codes}\n{said}"
    return [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in range(count)]


def _run(function, rank, folder):
    """The life of a copy: it must never go on with the tests of the process that it was forked from."""
    code = 1
    try:
        torch.set_num_threads(1)
        torch.save(function(rank), folder / f"{rank}.pth")
        code = 0
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
    finally:
        os._exit(code)
