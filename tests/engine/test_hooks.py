import os
from types import SimpleNamespace

import pytest
import torch
from torch import distributed, nn

from centernet_d2.engine.hooks import CheckGradients, _largest


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_are_looked_at_and_not_touched(bad):
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1))
    hook = CheckGradients()
    hook.trainer = SimpleNamespace(model=model)
    hook.after_backward()  # No gradients yet.
    model[1].weight.grad = torch.tensor([[3.0]])
    hook.after_backward()
    assert model[1].weight.grad == 3
    model[0].weight.grad = torch.tensor([[1.0, bad]])
    with pytest.raises(FloatingPointError, match="in the gradients of 0$"):
        hook.after_backward()
    # A loss scaling gets the chance to scale less, but not for ever.
    hook.trainer.grad_scaler = SimpleNamespace(get_scale=lambda: 2.0)
    hook.after_backward()
    hook.trainer.grad_scaler = SimpleNamespace(get_scale=lambda: 1.0)
    with pytest.raises(FloatingPointError, match="in the gradients of 0$"):
        hook.after_backward()


def test_the_heads_are_named_whose_loss_is_not_finite():
    heads = nn.ModuleDict({"Good": nn.Linear(2, 1), "Bad": nn.Linear(2, 1)})
    model = nn.ModuleDict({"module": nn.ModuleDict({"backbone": nn.Linear(2, 2), "heads": heads})})
    feature = model["module"]["backbone"](torch.ones(2))
    (heads["Good"](feature).sum() + heads["Bad"](feature).sum() / 0).backward()
    hook = CheckGradients()
    hook.trainer = SimpleNamespace(model=model)
    with pytest.raises(FloatingPointError, match="in the gradients of backbone, Bad$"):
        hook.after_backward()


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
