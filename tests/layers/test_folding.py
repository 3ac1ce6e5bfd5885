import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from centernet_d2.layers import DeformConv
from centernet_d2.layers.folding import NORMS, fold_batch_norms


class Network(nn.Module):
    """Network with given modules and forward pass."""

    def __init__(self, flow, **modules):
        super().__init__()
        self.flow = flow
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.flow(self, x)


def with_statistics(network):
    """Set random statistics and affine parameters of all norms, as after training."""
    for module in network.modules():
        if isinstance(module, NORMS) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 3)
            if module.weight is not None:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return network.eval()


def count_norms(network):
    return sum(isinstance(module, NORMS) for module in network.modules())


@torch.no_grad()
def check(network, remaining):
    """Check outputs and the number of remaining norms of the folded copy, and that the network is unchanged."""
    torch.manual_seed(0)
    with_statistics(network)
    before, norms = {name: value.clone() for name, value in network.state_dict().items()}, count_norms(network)
    folded = fold_batch_norms(network)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(folded(x), network(x), atol=1e-5, rtol=1e-5)
    assert count_norms(folded) == remaining
    assert count_norms(network) == norms
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


CONVOLUTIONS = {
    "a convolution": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "without a bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "in groups": lambda: nn.Conv2d(4, 6, 1, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 4, stride=2, bias=False),
    "deformable": lambda: DeformConv(4, 6),
}


@pytest.mark.parametrize("conv", CONVOLUTIONS)
@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d, lambda width: nn.BatchNorm2d(width, affine=False), nn.SyncBatchNorm, FrozenBatchNorm2d]
)
def test_norm_after_a_convolution_is_folded(conv, norm):
    check(nn.Sequential(CONVOLUTIONS[conv](), norm(6), nn.ReLU(inplace=True)), remaining=0)


def test_other_norms_are_not_folded():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    check(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1)), remaining=1)
    check(nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.BatchNorm2d(6)), remaining=1)
    check(nn.Sequential(Doubled(4, 6, 1), nn.BatchNorm2d(6)), remaining=1)
    check(nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6)), remaining=1)
    check(nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, track_running_stats=False)), remaining=1)


FLOWS = {
    "the convolution runs twice": lambda net, x: net.norm(net.conv(x)) + net.conv(x + 1),
    "the norm runs twice": lambda net, x: net.norm(net.conv(x)) + net.norm(x),
    "both run twice": lambda net, x: net.norm(net.conv(net.norm(net.conv(x)))),
    "another operation uses the convolution": lambda net, x: (y := net.conv(x), net.norm(y) + y)[1],
    "another operation uses the weight": lambda net, x: net.norm(net.conv(x)) * net.conv.weight.sum(),
    "the input of the norm is a sum": lambda net, x: net.norm(net.conv(x) + x),
}


@pytest.mark.parametrize("flow", FLOWS)
def test_norm_is_not_folded_if(flow):
    check(Network(FLOWS[flow], conv=nn.Conv2d(4, 4, 1), norm=nn.BatchNorm2d(4)), remaining=1)


def test_norm_of_a_detectron2_convolution_is_folded():
    check(nn.Sequential(Conv2d(4, 6, 1, norm=nn.BatchNorm2d(6), activation=torch.relu), nn.BatchNorm2d(6)), remaining=1)
    check(nn.Sequential(Conv2d(4, 6, 1, activation=torch.relu), nn.BatchNorm2d(6)), remaining=1)


def test_untraceable_network_raises():
    network = Network(lambda net, x: net.conv(x) if x.sum() > 0 else x, conv=nn.Conv2d(4, 4, 1))
    with pytest.raises(
        ValueError, match="of Network cannot be folded, because torch.fx cannot trace it .*FOLD_NORMS False"
    ):
        fold_batch_norms(network)
