import datetime

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from centernet_d2 import load_config
from centernet_d2.checkpoint import CenterNetCheckpointer
from centernet_d2.layers.folding import NORMS, fold_batch_norms
from centernet_d2.modeling import CenterNet, TimmUpConv
from centernet_d2.modeling.backbone.trunk import freeze_stages, trunk_parameters
from support.processes import run_forked

timm = pytest.importorskip("timm")
# The configs of the model zoo, and trunks with other feature extractors: levels of stride 2, and parallel branches.
TRUNKS = ("mobilenetv4_conv_small", "repvit_m1_1", "convnext_nano", "resnet10t", "mobileone_s0")
SIZE = (64, 96)


@pytest.fixture(scope="module", params=TRUNKS)
def trained(request):
    """Backbone with random statistics, and the parameters without a gradient in training."""
    torch.manual_seed(0)
    backbone = TimmUpConv(name=request.param, width=8)
    backbone(torch.randn(2, 3, *SIZE))["stack_0"].square().mean().backward()
    without = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    backbone.zero_grad()
    return backbone.eval(), without


def test_shapes_and_gradients_of_all_parameters(trained):
    backbone, without_gradient = trained
    assert without_gradient == []  # DistributedDataParallel would wait for them.
    assert backbone(torch.randn(1, 3, *SIZE))["stack_0"].shape == (1, 8, SIZE[0] // 4, SIZE[1] // 4)
    assert backbone.output_shape()["stack_0"].channels == 8
    with pytest.raises(ValueError, match="this backbone needs multiples of 32"):
        backbone(torch.zeros(1, 3, 64, 80))


@torch.no_grad()
def test_folding_and_reparametrization_keep_the_output(trained):
    backbone, _ = trained
    folded = fold_batch_norms(backbone)
    x = torch.randn(1, 3, *SIZE)
    expected = backbone(x)["stack_0"]
    torch.testing.assert_close(folded(x)["stack_0"], expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert not any(isinstance(module, NORMS) for module in folded.modules())
    branches = "repvit" in backbone.name or "mobileone" in backbone.name
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in network.modules()) for network in (folded, backbone)]
    assert (convolutions[0] < convolutions[1]) == branches


@torch.no_grad()
def test_channels_last_keeps_the_output(trained):
    backbone, _ = trained
    x = torch.randn(1, 3, *SIZE)
    expected = backbone(x)["stack_0"]
    backbone.to(memory_format=torch.channels_last)
    outputs = backbone(x.contiguous(memory_format=torch.channels_last))["stack_0"]
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_trunk_parameters_are_all_parameters_of_the_trunk(trained):
    backbone, _ = trained
    expected = {id(parameter) for parameter in backbone.trunk.parameters()}
    assert {id(parameter) for parameter in trunk_parameters(backbone)} == expected


@pytest.mark.parametrize(
    ("name", "count", "last", "first"),
    [
        ("convnext_nano", 1, "trunk.stem_1.bias", "trunk.stages_0.blocks.0.gamma"),
        ("convnext_nano", 2, "trunk.stages_0.blocks.1.mlp.fc2.bias", "trunk.stages_1.downsample.0.weight"),
        ("mobilenetv4_conv_small", 1, "trunk.bn1.bias", "trunk.blocks.0.0.conv.weight"),
        ("mobilenetv4_conv_small", 5, "trunk.blocks.4.0.bn1.bias", "neck.projections.0.0.weight"),
        ("dla34", 1, "trunk.level1.1.bias", "trunk.level2.project.0.weight"),
    ],
)
def test_frozen_stages_end_at_levels(name, count, last, first):
    backbone = TimmUpConv(name=name)
    freeze_stages(backbone, count)
    frozen = {name: not parameter.requires_grad for name, parameter in backbone.named_parameters()}
    names = list(frozen)
    assert names.index(first) == names.index(last) + 1
    assert all(frozen[name] == (i <= names.index(last)) for i, name in enumerate(names))


def train_one_of_two(rank, folder):
    """Train in one of two processes; return a checksum of the parameters after each step."""
    distributed.init_process_group(
        "gloo", f"file://{folder}/meet", datetime.timedelta(seconds=60), world_size=2, rank=rank
    )
    torch.manual_seed(rank)  # DistributedDataParallel starts from the parameters of the first process.
    backbone = DistributedDataParallel(TimmUpConv(name="mobilenetv4_conv_small", width=8))
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    checksums = []
    for _ in range(2):  # The second step would raise an error if a parameter were unused in the first.
        optimizer.zero_grad()
        backbone(torch.randn(2, 3, *SIZE))["stack_0"].square().mean().backward()
        optimizer.step()
        checksums.append(sum(parameter.detach().double().abs().sum() for parameter in backbone.parameters()))
    distributed.barrier()
    return torch.stack(checksums)


def test_distributed_training_keeps_processes_equal(tmp_path):
    first, second = run_forked(lambda rank: train_one_of_two(rank, tmp_path), 2, tmp_path)
    assert torch.equal(first, second)
    assert first[0] != first[1]


def test_frozen_batch_norms_of_the_trunk():
    torch.manual_seed(0)
    backbone = TimmUpConv(name="mobilenetv4_conv_small", trunk_norm="FrozenBN").eval().train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items() if "running" in name}
    backbone(torch.randn(2, 3, *SIZE))
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, backbone.state_dict()[name])}
    assert changed == {name for name in before if name.startswith("neck.")}
    norms = [module for module in backbone.trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(parameter.requires_grad for norm in norms for parameter in norm.parameters())
    assert backbone.trunk.conv_stem.weight.requires_grad


def test_synchronized_batch_norms_of_the_trunk():
    backbone = TimmUpConv(name="mobilenetv4_conv_small", trunk_norm="SyncBN")
    norms = [module for module in backbone.trunk.modules() if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm))]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert backbone.stages[0] == "trunk.bn1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "convnext_nan"},
            "^name is 'convnext_nan', which is not .*did you mean convnext_nano",
        ),
        ({"name": "hf-hub:timm/resnet18"}, "^name is 'hf-hub:timm/resnet18', which is not a network of timm"),
        ({"name": "vit_tiny_patch16_224"}, r"^name is .*strides \[16, 16, 16\], but \[4, 8, 32\] are needed too"),
        ({"name": "swin_tiny_patch4_window7_224"}, "^name is .* not a convolutional network for inputs of any size"),
        ({"name": "convnext_nano", "trunk_norm": "GN"}, "^trunk_norm is 'GN', known"),
        ({"name": "resnet10t", "width": -1}, "^width is -1, but must be at least 1"),
    ],
)
def test_invalid_arguments_raise(options, message):
    with pytest.raises(ValueError, match=message):
        TimmUpConv(**options)


def test_constructor_does_not_download(monkeypatch):
    create, options = timm.create_model, []
    monkeypatch.setattr(timm, "create_model", lambda *args, **own: (options.append(own), create(*args, **own))[1])
    CenterNet(load_config("timm:resnet10t", ["MODEL.DEVICE", "cpu", "MODEL.TRUNK_WEIGHTS", "timm"]))
    assert [own.get("pretrained") for own in options] == [False]


def test_checkpoint_is_loaded_again(tmp_path):
    cfg = load_config("timm:resnet10t", ["MODEL.DEVICE", "cpu", "MODEL.UPCONV.WIDTH", 8])
    model, copy = CenterNet(cfg), CenterNet(cfg)
    CenterNetCheckpointer(model, str(tmp_path)).save("model_final")
    CenterNetCheckpointer(copy).load(str(tmp_path / "model_final.pth"))
    assert all(torch.equal(tensor, copy.state_dict()[name]) for name, tensor in model.state_dict().items())
