import io

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from centernet_d2 import load_config
from centernet_d2.config.keys import add_centernet_config
from centernet_d2.layers.folding import NORMS, fold_batch_norms
from centernet_d2.modeling import CenterNet, DLABackbone, Hourglass, ResNetUpConv
from centernet_d2.modeling.backbone.aggregation import IDAUp
from centernet_d2.modeling.backbone.trunk import freeze_stages, trunk_parameters
from centernet_d2.modeling.heads import MapBranches

SMALL_DLA = {"channels": (4, 4, 8, 12, 16, 20)}
SMALL_HOURGLASS = {"widths": (8, 8, 12), "counts": (1, 1, 2)}
SMALL = {
    "resnet": lambda: ResNetUpConv(channels=(8, 8, 8)),
    "resnet_deformable": lambda: ResNetUpConv(channels=(16, 8, 4), deformable=True),
    "resnet_aggregation": lambda: ResNetUpConv(neck="aggregation", width=8),
    "resnet_deformable_aggregation": lambda: ResNetUpConv(neck="aggregation", width=8, deformable=True),
    "dla": lambda: DLABackbone(**SMALL_DLA, deformable=False),
    "dla_deformable": lambda: DLABackbone(**SMALL_DLA),
    "hourglass_one_stack": lambda: Hourglass(**SMALL_HOURGLASS, stacks=1),
    "hourglass_two_stacks": lambda: Hourglass(**SMALL_HOURGLASS),
}


@pytest.fixture(params=SMALL)
def backbone(request):
    torch.manual_seed(0)
    return SMALL[request.param]()


def config(*options):
    cfg = get_cfg()
    add_centernet_config(cfg)
    cfg.merge_from_list(list(options))
    return cfg


def build(name, *options):
    with torch.device("meta"):
        return BACKBONE_REGISTRY.get(name)(config(*options), ShapeSpec(channels=3))


def test_output_shapes(backbone):
    height, width = 2 * backbone.size_divisibility, 3 * backbone.size_divisibility
    outputs = backbone(torch.randn(2, 3, height, width))
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        name: (2, shape.channels, height // shape.stride, width // shape.stride)
        for name, shape in backbone.output_shape().items()
    }


@torch.no_grad()
def test_batch_norm_is_foldable(backbone):
    norms = {name: module for name, module in backbone.named_modules() if isinstance(module, NORMS)}
    for norm in norms.values():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    backbone.eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    folded = fold_batch_norms(backbone)
    # Two projections of DLA are unused (original.md: DLA trunk).
    unused = {f"base.level{level}.project.1" for level in (3, 4)} & norms.keys()
    assert {name for name, module in folded.named_modules() if isinstance(module, NORMS)} == unused
    images = torch.randn(2, 3, 2 * backbone.size_divisibility, 3 * backbone.size_divisibility)
    for name, output in backbone(images).items():
        torch.testing.assert_close(folded(images)[name], output, rtol=1e-5, atol=2e-6 * output.abs().max().item())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert (folded.size_divisibility, folded.output_shape()) == (backbone.size_divisibility, backbone.output_shape())


def test_every_trainable_parameter_has_a_gradient(backbone):
    # DistributedDataParallel therefore does not need find_unused_parameters.
    outputs = backbone(torch.randn(2, 3, 2 * backbone.size_divisibility, 3 * backbone.size_divisibility))
    sum(output.square().mean() for output in outputs.values()).backward()
    trainable = {name: parameter for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trainable.items() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in trainable.values())


@pytest.mark.parametrize(("extra_height", "extra_width"), [(1, 0), (0, 4)])
def test_indivisible_input_size_raises(backbone, extra_height, extra_width):
    step = backbone.size_divisibility
    height, width = 2 * step + extra_height, 2 * step + extra_width
    with pytest.raises(ValueError, match=rf"{height} x {width} .* multiples of {step}"):
        backbone(torch.zeros(1, 3, height, width))


@pytest.mark.parametrize(
    ("name", "norm_keys"),
    [
        ("build_resnet_upconv_backbone", ("RESNETS", "UPCONV")),
        ("build_dla_backbone", ("DLA",)),
        ("build_hourglass_backbone", ("HOURGLASS",)),
    ],
)
def test_config_sets_all_norms(name, norm_keys):
    backbone = build(name, *(item for key in norm_keys for item in (f"MODEL.{key}.NORM", "SyncBN")))
    norms = {type(module) for module in backbone.modules() if hasattr(module, "running_mean")}
    assert norms == {nn.SyncBatchNorm}


def test_config_sets_dla_neck():
    for deformable in (True, False):
        backbone = build("build_dla_backbone", "MODEL.DLA.DEFORMABLE", deformable)
        assert any("conv_offset_mask" in name for name in backbone.state_dict()) == deformable


def test_config_sets_hourglass_shape():
    values = {"STACKS": 3, "WIDTHS": [16, 24], "COUNTS": [3, 5]}
    backbone = build(
        "build_hourglass_backbone", *(x for key, value in values.items() for x in (f"MODEL.HOURGLASS.{key}", value))
    )
    assert backbone.output_shape() == {f"stack_{i}": ShapeSpec(channels=16, stride=4) for i in range(3)}
    assert backbone.size_divisibility == 8
    branches = backbone.kps[0]
    assert [len(branch) for branch in (branches.up1, branches.low1, branches.low2, branches.low3)] == [3, 3, 5, 3]


@pytest.mark.parametrize(
    ("build", "head_conv", "stacks", "trainable"),
    [
        (ResNetUpConv, 64, 1, 15_820_372),
        (lambda: ResNetUpConv(depth=101, channels=(256, 128, 64), deformable=True), 64, 1, 49_673_189),
        # 554,728 fewer than in the reference implementation, which has unused parameters (original.md: Network sizes).
        (DLABackbone, 256, 1, 19_634_164),
        (lambda: DLABackbone(deformable=False), 256, 1, 17_919_748),
        (Hourglass, 256, 2, 191_284_008),
    ],
    ids=["res_18", "resdcn_101", "dla_34", "dlav0_34", "hourglass"],
)
def test_number_of_trainable_parameters(build, head_conv, stacks, trainable):
    with torch.device("meta"):
        backbone = build()
        channels = backbone.output_shape()["stack_0"].channels
        maps = {"heatmap": 80, "size": 2, "offset": 2}
        branches = [MapBranches(maps, in_channels=channels, head_conv=head_conv) for _ in range(stacks)]
    parameters = [parameter for module in (backbone, *branches) for parameter in module.parameters()]
    assert sum(parameter.numel() for parameter in parameters if parameter.requires_grad) == trainable


def test_unused_dla_parameters_are_unchanged_by_training_and_saving():
    torch.manual_seed(0)
    backbone = DLABackbone(**SMALL_DLA)
    unused = ("base.fc", *(f"base.level{level}.project.{i}" for level in (3, 4) for i in (0, 1)))
    frozen = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert {name.rpartition(".")[0] for name in frozen} == set(unused)
    loaded = {
        name: torch.rand(tensor.shape).to(tensor) + 7 if name.startswith(unused) else tensor.clone()
        for name, tensor in backbone.state_dict().items()
    }
    backbone.load_state_dict(loaded)
    optimizer = torch.optim.SGD((p for p in backbone.parameters() if p.requires_grad), lr=0.1)
    backbone(torch.randn(2, 3, 64, 64))["stack_0"].square().mean().backward()
    optimizer.step()

    file = io.BytesIO()
    torch.save(backbone.state_dict(), file)
    file.seek(0)
    copy = DLABackbone(**SMALL_DLA)
    copy.load_state_dict(torch.load(file, weights_only=True))
    assert copy.state_dict().keys() == loaded.keys()
    for name, tensor in copy.state_dict().items():
        assert torch.equal(tensor, backbone.state_dict()[name]), name
        assert torch.equal(tensor, loaded[name]) == name.startswith(unused), name


@pytest.mark.parametrize("factor", [2, 4])
def test_dla_upsampling_is_initialized_bilinear(factor):
    up = IDAUp(3, [5], [factor], deformable=True).up_1
    steps = torch.arange(8.0).expand(1, 3, 8, 8)
    enlarged = up(steps)
    assert enlarged.shape == (1, 3, 8 * factor, 8 * factor)
    expected = nn.functional.interpolate(steps, scale_factor=factor, mode="bilinear")
    inside = slice(factor, -factor)
    torch.testing.assert_close(enlarged[..., inside, inside], expected[..., inside, inside])


def test_plain_dla_neck_is_initialized_normal():
    torch.manual_seed(0)
    merge = IDAUp(32, [48], [2], deformable=False)
    assert merge.proj_1[0].weight.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.05)
    assert merge.node_1[0].weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        (DLABackbone, {"channels": (4, 4, 8)}, r"channels must have 6 values .*\[4, 4, 8\]"),
        (DLABackbone, {"tree_depths": (1, 2)}, r"tree_depths 4, but are .*\[1, 2\]"),
        (DLABackbone, {"norm": "GN"}, "^norm is 'GN', known"),
        (DLABackbone, {"deform_conv": "fast"}, "^deform_conv is 'fast', known"),
        (Hourglass, {"stacks": 0}, "^stacks is 0"),
        (Hourglass, {"widths": (8,), "counts": (1,)}, r"^widths is \[8\], but must have at least two values"),
        (Hourglass, {"counts": (1, 1)}, r"^counts is \[1, 1\], but must have one positive number per value of widths"),
        (Hourglass, {"widths": (8, 8), "counts": (1, 0)}, r"^counts is \[1, 0\], but must have one positive number"),
        (Hourglass, {"norm": "GN"}, "^norm is 'GN', known"),
        (ResNetUpConv, {"depth": 19}, "^depth is 19, known"),
        (ResNetUpConv, {"trunk_norm": "GN"}, "^trunk_norm is 'GN', known"),
        (ResNetUpConv, {"channels": (8,)}, r"^channels is .*, but must have 3 values"),
        (ResNetUpConv, {"neck": "fpn"}, "^neck is 'fpn', known"),
        (ResNetUpConv, {"neck": "aggregation", "width": 0}, "^width is 0, but must be at least 1"),
    ],
)
def test_invalid_arguments_raise(backbone, options, message):
    with pytest.raises(ValueError, match=message):
        backbone(**options)


@pytest.mark.parametrize(
    ("backbone", "key", "value", "message"),
    [
        ("dla", "MODEL.DLA.NORM", "GN", "MODEL.DLA.NORM is 'GN', known"),
        ("hourglass", "MODEL.HOURGLASS.NORM", "GN", "MODEL.HOURGLASS.NORM is 'GN', known"),
        ("hourglass", "MODEL.HOURGLASS.STACKS", 0, "MODEL.HOURGLASS.STACKS is 0"),
        (
            "hourglass",
            "MODEL.HOURGLASS.COUNTS",
            [1],
            "MODEL.HOURGLASS.COUNTS is .*, but must have one positive number",
        ),
    ],
)
def test_invalid_config_error_names_key(backbone, key, value, message):
    with pytest.raises(ValueError, match=message):
        BACKBONE_REGISTRY.get(f"build_{backbone}_backbone")(config(key, value), ShapeSpec(channels=3))


def test_aggregation_neck_of_dla_width_equals_the_neck_of_dla():
    resnet, dla = ResNetUpConv(neck="aggregation", deformable=True), DLABackbone()
    necks = {**dict(dla.dla_up.named_parameters("dla_up")), **dict(dla.ida_up.named_parameters("ida_up"))}
    ours = dict(resnet.neck.named_parameters())
    assert {name: p.shape for name, p in ours.items()} == {name: p.shape for name, p in necks.items()}


STEM = {"conv1", "bn1"}
STAGES = {
    "resnet": [STEM, *({f"layer{level}"} for level in range(1, 5))],
    "dla": [{"base.base_layer", "base.level0", "base.level1"}, *({f"base.level{level}"} for level in range(2, 6))],
}


@pytest.mark.parametrize("count", range(6))
@pytest.mark.parametrize("name", STAGES)
def test_frozen_stages_have_no_gradients_and_fixed_statistics(name, count):
    backbone = SMALL[name]()
    unused = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    freeze_stages(backbone, count)
    prefixes = tuple(f"{prefix}." for stage in STAGES[name][:count] for prefix in stage)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.eval()
    backbone.train()
    backbone(torch.randn(2, 3, 64, 64))
    frozen = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert frozen - unused == {name for name, _ in backbone.named_parameters() if name.startswith(prefixes)} - unused
    changed = {name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])}
    means = {name for name in before if name.endswith("running_mean") and not name.startswith(tuple(unused))}
    used = {name for name in means if name.replace("running_mean", "weight") not in unused}
    assert {name for name in changed if name.endswith("running_mean")} == {
        name for name in used if not name.startswith(prefixes)
    }


def test_frozen_stages_are_a_config_key():
    options = ["MODEL.DEVICE", "cpu", "MODEL.TRUNK_FROZEN_STAGES"]
    zoo = "Shapes/centernet_R_18_shapes.yaml"
    model = CenterNet(load_config(zoo, [*options, 2]))
    assert not model.backbone.layer1[0].conv1.weight.requires_grad
    assert model.backbone.layer2[0].conv1.weight.requires_grad
    with pytest.raises(ValueError, match="TRUNK_FROZEN_STAGES is 6, but the trunk of ResNetUpConv has 5 stages"):
        CenterNet(load_config(zoo, [*options, 6]))
    with pytest.raises(ValueError, match="TRUNK_FROZEN_STAGES is 1, but Hourglass has no trunk: set it to 0"):
        CenterNet(load_config("Shapes/centernet_HG_shapes.yaml", [*options, 1]))


@pytest.mark.parametrize("name", ["resnet", "dla", "hourglass_one_stack"])
def test_trunk_parameters(name):
    backbone = SMALL[name]()
    prefixes = tuple(f"{prefix}." for stage in STAGES.get(name, ()) for prefix in stage)
    expected = {
        id(parameter) for key, parameter in backbone.named_parameters() if prefixes and key.startswith(prefixes)
    }
    assert {id(parameter) for parameter in trunk_parameters(backbone)} == expected
