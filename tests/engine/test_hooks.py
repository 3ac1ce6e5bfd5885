import os
from types import SimpleNamespace

import pytest
import torch
from torch import distributed, nn

from centernet_d2.engine.hooks import CheckGradients, _max_over_processes


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_gradients_raise_and_finite_ones_are_unchanged(bad):
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
    # A gradient scaler may still reduce its scale, but not below 1.
    hook.trainer.grad_scaler = SimpleNamespace(get_scale=lambda: 2.0)
    hook.after_backward()
    hook.trainer.grad_scaler = SimpleNamespace(get_scale=lambda: 1.0)
    with pytest.raises(FloatingPointError, match="in the gradients of 0$"):
        hook.after_backward()


def test_error_names_heads_with_non_finite_loss():
    heads = nn.ModuleDict({"Good": nn.Linear(2, 1), "Bad": nn.Linear(2, 1)})
    model = nn.ModuleDict({"module": nn.ModuleDict({"backbone": nn.Linear(2, 2), "heads": heads})})
    feature = model["module"]["backbone"](torch.ones(2))
    (heads["Good"](feature).sum() + heads["Bad"](feature).sum() / 0).backward()
    hook = CheckGradients()
    hook.trainer = SimpleNamespace(model=model)
    with pytest.raises(FloatingPointError, match="in the gradients of backbone, Bad$"):
        hook.after_backward()


def test_signal_number_is_shared_by_all_processes(tmp_path):
    """Run the reduction in two forked processes."""
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
                code = 0 if [_max_over_processes(n, model) for n in (0, 15 * rank, 2 - rank)] == [0, 15, 2] else 1
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert _max_over_processes(15, nn.Linear(1, 1)) == 15
