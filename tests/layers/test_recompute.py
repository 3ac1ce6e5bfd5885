import copy

import pytest
import torch
from torch import nn

from centernet_d2.layers.recompute import RecomputedSequential


class Noted(nn.Conv2d):
    """Counts how often it ran."""

    runs = 0

    def forward(self, x):
        self.runs += 1
        return super().forward(x)


def rows(*extra):
    """The same modules, kept and recomputed."""
    torch.manual_seed(0)
    modules = [Noted(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), *extra]
    return nn.Sequential(*copy.deepcopy(modules)), RecomputedSequential(*modules)


def gradients(row, x):
    row(x).square().mean().backward()
    return [parameter.grad for parameter in row.parameters()]


def test_gradients_and_statistics_are_those_of_a_sequential():
    kept, recomputed = rows()
    assert kept.state_dict().keys() == recomputed.state_dict().keys()
    x = torch.randn(2, 3, 6, 6)
    for one, other in zip(gradients(kept, x), gradients(recomputed, x), strict=True):
        assert torch.equal(one, other)
    assert (kept[0].runs, recomputed[0].runs) == (1, 2)
    for name, value in kept.state_dict().items():
        assert torch.equal(value, recomputed.state_dict()[name]), name
    assert recomputed[1].num_batches_tracked == 1


def test_statistics_stay_when_the_backward_pass_fails():
    class Fails(nn.Module):
        runs = 0

        def forward(self, x):
            self.runs += 1
            if self.runs == 2:
                raise RuntimeError("out of memory")
            return x * 2

    _, recomputed = rows(Fails(), nn.Sigmoid())
    out = recomputed(torch.randn(2, 3, 6, 6)).sum()
    buffers = {name: (buffer, buffer.clone()) for name, buffer in recomputed.named_buffers()}
    with pytest.raises(RuntimeError, match="out of memory"):
        out.backward()
    for name, buffer in recomputed.named_buffers():
        assert buffer is buffers[name][0]
        assert torch.equal(buffer, buffers[name][1])


def test_what_is_random_is_drawn_once():
    kept, recomputed = rows(nn.Dropout(0.5))
    x = torch.randn(2, 3, 6, 6)
    results = []
    for row in (kept, recomputed):
        torch.manual_seed(1)
        results.append([*gradients(row, x), torch.rand(1)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_nothing_is_recomputed_without_gradients_or_in_evaluation():
    kept, recomputed = rows()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        assert torch.equal(kept(x), recomputed(x))
    for one, other in zip(gradients(kept.eval(), x), gradients(recomputed.eval(), x), strict=True):
        assert torch.equal(one, other)
    assert recomputed[0].runs == 2
