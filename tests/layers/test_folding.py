import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from centernet_d2.layers import DeformConv
from centernet_d2.layers.folding import NORMS, fold_batch_norms


class Network(nn.Module):
    """Modules by name, and a forward pass over them."""

    def __init__(self, flow, **modules):
        super().__init__()
        self.flow = flow
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.flow(self, x)


def with_statistics(network):
    """Norms that change what they see, as after a training."""
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
def check(network, left):
    """Folding leaves so many norms, changes no output, and does not touch what it folds."""
    torch.manual_seed(0)
    with_statistics(network)
    before, number = {name: value.clone() for name, value in network.state_dict().items()}, count_norms(network)
    folded = fold_batch_norms(network)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(folded(x), network(x), atol=1e-5, rtol=1e-5)
    assert count_norms(folded) == left
    assert count_norms(network) == number
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
def test_a_norm_behind_a_convolution_is_folded(conv, norm):
    check(nn.Sequential(CONVOLUTIONS[conv](), norm(6), nn.ReLU(inplace=True)), left=0)


def test_what_is_not_a_pair_stays():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    check(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1)), left=1)
    check(nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.BatchNorm2d(6)), left=1)
    check(nn.Sequential(Doubled(4, 6, 1), nn.BatchNorm2d(6)), left=1)
    check(nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6)), left=1)
    check(nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, track_running_stats=False)), left=1)


FLOWS = {
    "the convolution runs twice": lambda net, x: net.norm(net.conv(x)) + net.conv(x + 1),
    "the norm runs twice": lambda net, x: net.norm(net.conv(x)) + net.norm(x),
    "both run twice": lambda net, x: net.norm(net.conv(net.norm(net.conv(x)))),
    "others see what the convolution makes": lambda net, x: (made := net.conv(x), net.norm(made) + made)[1],
    "its weight is read": lambda net, x: net.norm(net.conv(x)) * net.conv.weight.sum(),
    "the norm sees a sum": lambda net, x: net.norm(net.conv(x) + x),
}


@pytest.mark.parametrize("flow", FLOWS)
def test_a_norm_stays_where(flow):
    check(Network(FLOWS[flow], conv=nn.Conv2d(4, 4, 1), norm=nn.BatchNorm2d(4)), left=1)


def test_detectron2s_convolutions_have_their_norm_inside():
    check(nn.Sequential(Conv2d(4, 6, 1, norm=nn.BatchNorm2d(6), activation=torch.relu), nn.BatchNorm2d(6)), left=1)
    check(nn.Sequential(Conv2d(4, 6, 1, activation=torch.relu), nn.BatchNorm2d(6)), left=1)


def test_what_cannot_be_traced_is_an_error():
    network = Network(lambda net, x: net.conv(x) if x.sum() > 0 else x, conv=nn.Conv2d(4, 4, 1))
    with pytest.raises(ValueError, match="of a Network cannot be folded, torch.fx cannot trace it .*FOLD_NORMS False"):
        fold_batch_norms(network)
