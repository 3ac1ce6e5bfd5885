import copy
from contextlib import nullcontext

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from centernet_d2.autoconfig.choices import bytes_per_pixel
from centernet_d2.config.keys import add_centernet_config
from centernet_d2.layers.recompute import RecomputedSequential
from centernet_d2.modeling import Hourglass
from centernet_d2.modeling.backbone import build_hourglass_backbone


def pair(**options):
    """Build a small hourglass without and with recomputation, with the same weights."""
    options = {"widths": (8, 8, 12), "counts": (1, 1, 2), **options}
    torch.manual_seed(0)
    plain, saving = Hourglass(**options), Hourglass(**options, checkpoint=True)
    saving.load_state_dict(plain.state_dict())
    return plain, saving


def train(network, *, half=False, half_backward=False):
    """Train two steps; return losses, gradients of the second step, parameters and running statistics."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16) if half else nullcontext():
            loss = sum(output.float().square().mean() for output in network(torch.randn(2, 3, 32, 64)).values())
            if half_backward:
                loss.backward()
        if not half_backward:
            loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    gradients = {f"{name}.grad": parameter.grad for name, parameter in network.named_parameters()}
    return {"losses": torch.stack(losses), **gradients, **network.state_dict()}


def check_equal(plain, saving):
    assert plain.keys() == saving.keys()
    for name, expected in plain.items():
        assert torch.equal(saving[name], expected), name


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_recomputation_does_not_change_training(norm):
    plain, saving = pair(norm=norm)
    check_equal(train(plain), train(saving))


# The backward pass may be inside of autocast, as in the trainer, or outside.
@pytest.mark.parametrize("half_backward", [True, False])
def test_recomputation_does_not_change_half_precision_training(half_backward):
    plain, saving = pair()
    options = {"half": True, "half_backward": half_backward}
    check_equal(train(plain, **options), train(saving, **options))


def test_recomputation_does_not_change_distributed_training():
    plain, saving = pair(stacks=1)
    expected = train(plain)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        actual = train(DistributedDataParallel(saving))
    finally:
        distributed.destroy_process_group()
    check_equal(expected, {name.removeprefix("module."): value for name, value in actual.items()})


def test_recomputation_reduces_saved_memory():
    plain, saving = pair(counts=(2, 2, 2))
    outputs = sum(4 * shape.channels / shape.stride**2 for shape in plain.output_shape().values())
    # The layers between stacks are not recomputed.
    assert outputs < bytes_per_pixel(saving, 16) < 0.4 * bytes_per_pixel(plain, 16)


def test_copy_in_eval_mode_gives_same_outputs():
    plain, saving = pair()
    copied = copy.deepcopy(saving).eval()
    with torch.no_grad():
        for name, output in copied(torch.ones(1, 3, 32, 32)).items():
            assert torch.equal(output, plain.eval()(torch.ones(1, 3, 32, 32))[name])


@pytest.mark.parametrize("checkpoint", [False, True])
def test_config_enables_recomputation(checkpoint):
    cfg = get_cfg()
    add_centernet_config(cfg)
    if checkpoint:
        cfg.MODEL.HOURGLASS.CHECKPOINT = True
    with torch.device("meta"):
        network = build_hourglass_backbone(cfg, ShapeSpec(channels=3))
    recomputed = {name for name, module in network.named_modules() if isinstance(module, RecomputedSequential)}
    # The stem, and in each stack three sequences at five levels and one at the coarsest level.
    assert len(recomputed) == (1 + 2 * (5 * 3 + 1) if checkpoint else 0)
