import pytest
import torch
from torch import nn

from centernet_d2 import load_config, model_zoo
from centernet_d2.engine.muon import Muon
from centernet_d2.engine.solver import OPTIMIZERS, build_optimizer, scaled_learning_rate, with_iterations
from centernet_d2.modeling import CenterNet


def optimizer(*overrides):
    cfg = load_config(model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml"), overrides)
    return build_optimizer(cfg, nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))


def test_default_optimizer_is_adam():
    adam = optimizer("SOLVER.BASE_LR", 5e-4)
    assert type(adam) is torch.optim.Adam
    (group,) = adam.param_groups
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (5e-4, (0.9, 0.999), 1e-8, 0)
    assert len(group["params"]) == 4


@pytest.mark.parametrize(("name", "kind"), [("AdamW", torch.optim.AdamW), ("SGD", torch.optim.SGD), ("Muon", Muon)])
def test_optimizer_by_name(name, kind):
    assert isinstance(optimizer("SOLVER.OPTIMIZER", name), kind)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_learning_rate_scales_with_batch_size(name):
    options = ("SOLVER.BASE_LR", 1.25e-4, "SOLVER.OPTIMIZER", name, "SOLVER.IMS_PER_BATCH", 128)
    assert optimizer(*options).param_groups[0]["lr"] == 1.25e-4
    scaled = optimizer(*options, "SOLVER.REFERENCE_IMS_PER_BATCH", 32)
    assert scaled.param_groups[0]["lr"] == pytest.approx(5e-4)


def test_weight_decay_of_norms():
    groups = optimizer("SOLVER.WEIGHT_DECAY", 0.1, "SOLVER.WEIGHT_DECAY_NORM", 0.0).param_groups
    assert sorted((group["weight_decay"], len(group["params"])) for group in groups) == [(0.0, 2), (0.1, 2)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learning_rate_of_the_trunk(name):
    options = ["MODEL.DEVICE", "cpu", "SOLVER.OPTIMIZER", name, "SOLVER.BASE_LR", 0.1, "SOLVER.TRUNK_LR_FACTOR", 0.25]
    cfg = load_config("Shapes/centernet_R_18_shapes.yaml", options)
    model = CenterNet(cfg)
    rates = {id(p): group["lr"] for group in build_optimizer(cfg, model).param_groups for p in group["params"]}
    trunk = tuple(f"backbone.{name}." for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"))
    for key, parameter in model.named_parameters():
        assert rates[id(parameter)] == (0.025 if key.startswith(trunk) else 0.1), key


@pytest.mark.parametrize(
    ("config", "factor", "message"),
    [
        ("Shapes/centernet_R_18_shapes.yaml", 0.0, "is 0, but must be greater than 0; MODEL.TRUNK_FROZEN_STAGES"),
        ("Shapes/centernet_HG_shapes.yaml", 0.1, "is 0.1, but must be 1 for this backbone"),
    ],
)
def test_invalid_factor_of_the_trunk_raises(config, factor, message):
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", "SOLVER.TRUNK_LR_FACTOR", factor])
    with pytest.raises(ValueError, match=f"SOLVER.TRUNK_LR_FACTOR {message}"):
        build_optimizer(cfg, CenterNet(cfg))


def test_norms_biases_and_layer_scales_have_no_weight_decay():
    pytest.importorskip("timm")
    cfg = load_config("timm:convnext_nano", ["MODEL.DEVICE", "cpu"])
    model = CenterNet(cfg)
    decays = {
        id(p): group["weight_decay"] for group in build_optimizer(cfg, model).param_groups for p in group["params"]
    }
    assert any(name.endswith("gamma") for name, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.05 if parameter.ndim > 1 else 0.0), name


def test_gradient_clipping():
    model = nn.Linear(1, 1, bias=False)
    sgd = ["SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.0, "SOLVER.BASE_LR", 1.0]
    clip = ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.25]
    cfg = load_config(model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml"), sgd + clip)
    before = model.weight.item()
    clipped = build_optimizer(cfg, model)
    (model(torch.ones(1, 1)) * 100).sum().backward()
    clipped.step()
    assert before - model.weight.item() == pytest.approx(0.25)


def test_fused_adam_equals_unfused_adam(monkeypatch):
    def trained(adam):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 1))
        cfg = load_config(model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml"))
        built = adam(cfg, model)
        for _ in range(20):
            built.zero_grad()
            model(torch.randn(4, 5)).square().sum().backward()
            built.step()
        return built, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    def plain(cfg, model):
        return torch.optim.Adam(model.parameters(), lr=scaled_learning_rate(cfg))

    fused, ours = trained(build_optimizer)
    torch.testing.assert_close(ours, trained(plain)[1], atol=1e-6, rtol=1e-5)
    assert fused.param_groups[0]["fused"] or torch.__version__ < (2, 4)
    # A training resumed from an unfused checkpoint stays unfused.
    old, _ = trained(plain)
    fused.load_state_dict(old.state_dict())
    assert not fused.param_groups[0]["fused"]

    # Without a fused kernel, the constructor raises an error.
    class WithoutFusedKernel(torch.optim.Adam):
        def __init__(self, *args, fused=None, **kwargs):
            super().__init__(*args, **kwargs)
            if fused:
                raise RuntimeError("no fused kernel")

    monkeypatch.setitem(OPTIMIZERS, "Adam", WithoutFusedKernel)
    refused, theirs = trained(build_optimizer)
    assert not refused.param_groups[0]["fused"]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_optimizer_is_not_fused_with_gradient_scaler_and_clipping():
    keys = ("SOLVER.AMP.ENABLED", True, "SOLVER.CLIP_GRADIENTS.ENABLED", True)
    assert not optimizer(*keys).param_groups[0]["fused"]


def test_unknown_optimizer_raises():
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER is 'Lion', known: SGD, Adam, AdamW, Muon"):
        optimizer("SOLVER.OPTIMIZER", "Lion")


def epochs(images, *overrides):
    return with_iterations(
        load_config(model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml"), overrides), images
    )


def test_epochs_are_converted_to_iterations():
    options = ("SOLVER.IMS_PER_BATCH", 4, "SOLVER.EPOCHS", 3, "SOLVER.STEP_EPOCHS", (1, 2.5))
    node = epochs(10, *options).SOLVER
    assert (node.MAX_ITER, node.STEPS) == (8, (2, 6))
    node = epochs(12.6, *options).SOLVER
    assert (node.MAX_ITER, node.STEPS) == (10, (3, 8))
    kept = epochs(10, *options[:4], "SOLVER.STEPS", (5,)).SOLVER
    assert (kept.MAX_ITER, kept.STEPS) == (8, (5,))
    assert epochs(10, "SOLVER.MAX_ITER", 7).SOLVER.MAX_ITER == 7
    assert epochs(None, "SOLVER.MAX_ITER", 7).SOLVER.MAX_ITER == 7


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (10, ("SOLVER.EPOCHS", -1), "SOLVER.EPOCHS is -1"),
        (
            10,
            ("SOLVER.EPOCHS", 2, "SOLVER.STEP_EPOCHS", (3,)),
            r"SOLVER.STEP_EPOCHS is \(3,\): epochs must not be",
        ),
        (None, ("SOLVER.EPOCHS", 2), "SOLVER.EPOCHS needs the data loader of this project"),
    ],
)
def test_invalid_epochs_raise(images, options, message):
    with pytest.raises(ValueError, match=message):
        epochs(images, *options)
