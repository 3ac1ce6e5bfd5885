import os

import torch
from torch import distributed, nn

from centernet_d2.engine.hooks import _largest


def test_all_processes_learn_of_a_signal_that_one_got(tmp_path):
    """Two processes, forked: an agreement needs some."""
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            code = 99
            try:
                torch.set_num_threads(1)
                distributed.init_process_group(
                    "gloo", init_method=f"file://{tmp_path}/meeting", rank=rank, world_size=2
                )
                model = nn.Linear(1, 1)
                code = 0 if [_largest(n, model) for n in (0, 15 * rank, 2 - rank)] == [0, 15, 2] else 1
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert _largest(15, nn.Linear(1, 1)) == 15
