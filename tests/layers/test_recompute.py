import copy

import pytest
import torch
from torch import nn

from centernet_d2.layers.recompute import RecomputedSequential


class CountingConv2d(nn.Conv2d):
    """Convolution that counts its forward passes."""

    runs = 0

    def forward(self, x):
        self.runs += 1
        return super().forward(x)


def build_pair(*extra):
    """Return equal modules as nn.Sequential and RecomputedSequential."""
    torch.manual_seed(0)
    modules = [CountingConv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), *extra]
    return nn.Sequential(*copy.deepcopy(modules)), RecomputedSequential(*modules)


def gradients(network, x):
    network(x).square().mean().backward()
    return [parameter.grad for parameter in network.parameters()]


def test_gradients_and_statistics_equal_those_of_sequential():
    plain, recomputed = build_pair()
    assert plain.state_dict().keys() == recomputed.state_dict().keys()
    x = torch.randn(2, 3, 6, 6)
    for one, other in zip(gradients(plain, x), gradients(recomputed, x), strict=True):
        assert torch.equal(one, other)
    assert (plain[0].runs, recomputed[0].runs) == (1, 2)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, recomputed.state_dict()[name]), name
    assert recomputed[1].num_batches_tracked == 1


def test_failed_backward_pass_does_not_change_statistics():
    class Fails(nn.Module):
        runs = 0

        def forward(self, x):
            self.runs += 1
            if self.runs == 2:
                raise RuntimeError("out of memory")
            return x * 2

    _, recomputed = build_pair(Fails(), nn.Sigmoid())
    out = recomputed(torch.randn(2, 3, 6, 6)).sum()
    buffers = {name: (buffer, buffer.clone()) for name, buffer in recomputed.named_buffers()}
    with pytest.raises(RuntimeError, match="out of memory"):
        out.backward()
    for name, buffer in recomputed.named_buffers():
        assert buffer is buffers[name][0]
        assert torch.equal(buffer, buffers[name][1])


def test_recomputation_uses_the_same_random_numbers():
    plain, recomputed = build_pair(nn.Dropout(0.5))
    x = torch.randn(2, 3, 6, 6)
    results = []
    for network in (plain, recomputed):
        torch.manual_seed(1)
        results.append([*gradients(network, x), torch.rand(1)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_no_recomputation_without_gradients_or_in_evaluation_mode():
    plain, recomputed = build_pair()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        assert torch.equal(plain(x), recomputed(x))
    for one, other in zip(gradients(plain.eval(), x), gradients(recomputed.eval(), x), strict=True):
        assert torch.equal(one, other)
    assert recomputed[0].runs == 2
