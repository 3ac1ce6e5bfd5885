import copy
import math

import pytest
import torch
from torch import nn

from centernet_d2.engine.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(3, 20, 70), (2, 70, 20), (1, 16, 16)])
def test_singular_values_become_about_one(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    result = orthogonalize(matrices)
    assert result.shape == matrices.shape
    values = torch.linalg.svdvals(result)
    # A square matrix may have singular values near 0, which five iterations do not raise to 0.65.
    assert values.max() < 1.25
    assert shape[1] == shape[2] or values.min() > 0.65
    # Singular vectors are unchanged: the product with the exact orthogonal factor is symmetric positive definite.
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    symmetric = result @ (left @ right).mT if shape[1] <= shape[2] else (left @ right).mT @ result
    torch.testing.assert_close(symmetric, symmetric.mT, atol=1e-4, rtol=0)
    assert torch.linalg.eigvalsh(symmetric).min() > -1e-5


def test_orthogonalize_equals_plain_newton_schulz_iteration():
    torch.manual_seed(0)
    # Singular values over four orders of magnitude, whose squares lose precision.
    matrices = torch.randn(2, 24, 90) * torch.logspace(0, -4, 90)
    x = matrices.double() / matrices.double().norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    torch.testing.assert_close(orthogonalize(matrices), x.float(), atol=1e-5, rtol=1e-4)


def test_zero_matrix_stays_zero_and_scale_has_no_effect():
    matrices = torch.randn(1, 20, 30, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalize(1e-6 * matrices), orthogonalize(matrices), atol=1e-4, rtol=0)
    assert torch.equal(orthogonalize(torch.zeros(1, 20, 30)), torch.zeros(1, 20, 30))


def test_autocast_does_not_change_the_result():
    matrices = torch.randn(2, 24, 90, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -4, 90)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(orthogonalize(matrices), orthogonalize(matrices.double()))
        torch.testing.assert_close(torch.linalg.svdvals(orthogonalize(matrices)).max().item(), 1.0, atol=0.25, rtol=0)


def test_iteration_converges_with_bfloat16_products():
    # Five large singular values and many small ones below the rounding errors of the large ones.
    torch.manual_seed(0)
    matrices = torch.randn(2, 64, 5) @ torch.randn(2, 5, 576) + 1e-4 * torch.randn(2, 64, 576)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # Computes products in bfloat16 if the hardware supports it.
    try:
        assert torch.linalg.svdvals(orthogonalize(matrices)).max() < 1.3
    finally:
        torch.set_float32_matmul_precision(before)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.Conv2d(16, 16, 3, bias=False),
        nn.Conv2d(16, 32, 1),
        nn.BatchNorm2d(32),
        nn.Conv2d(32, 2, 1),
    )


def step(model, optimizer, images):
    optimizer.zero_grad()
    model(images).square().mean().backward()
    optimizer.step()


def test_muon_updates_convolutions_with_enough_channels():
    model = network()
    optimizer = Muon([{"params": list(model.parameters())}], lr=0.01)
    rest, matrices = optimizer.param_groups
    assert [group["orthogonal"] for group in optimizer.param_groups] == [False, True]
    assert [id(p) for p in matrices["params"]] == [id(model[1].weight), id(model[2].weight)]
    assert len(rest["params"]) == len(list(model.parameters())) - 2


def test_muon_updates_pointwise_convolutions_like_linear_layers():
    torch.manual_seed(0)
    pointwise, linear = nn.Conv2d(32, 16, 1, bias=False), nn.Linear(32, 16, bias=False)
    with torch.no_grad():
        linear.weight.copy_(pointwise.weight[:, :, 0, 0])
    x = torch.randn(5, 32)
    for layer, inputs in ((pointwise, x[:, :, None, None]), (linear, x)):
        optimizer = Muon([{"params": list(layer.parameters())}], lr=0.01)
        assert [group["orthogonal"] for group in optimizer.param_groups] == [True]
        step(layer, optimizer, inputs)
    torch.testing.assert_close(pointwise.weight[:, :, 0, 0], linear.weight)


def test_adamw_updates_depthwise_convolutions():
    depthwise, grouped = nn.Conv2d(32, 32, 3, groups=32, bias=False), nn.Conv2d(32, 32, 3, groups=2, bias=False)
    optimizer = Muon([{"params": [depthwise.weight, grouped.weight]}], lr=0.01)
    rest, matrices = optimizer.param_groups
    assert [id(p) for p in rest["params"]] == [id(depthwise.weight)]
    assert [id(p) for p in matrices["params"]] == [id(grouped.weight)]


def test_added_parameter_group_is_split():
    model, more = network(), nn.Conv2d(16, 16, 1)
    optimizer = Muon([{"params": list(model.parameters())}], lr=0.01, exclude=[model[1].weight])
    optimizer.add_param_group({"params": more.parameters(), "lr": 0.1})
    assert [(group["orthogonal"], len(group["params"]), group["lr"]) for group in optimizer.param_groups[2:]] == [
        (False, 1, 0.1),
        (True, 1, 0.1),
    ]
    assert [id(p) for p in optimizer.param_groups[1]["params"]] == [id(model[2].weight)]


def test_step_with_closure_equals_step_without():
    images = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    ours, theirs = network(), network()
    first = Muon([{"params": list(ours.parameters())}], lr=0.01)
    second = Muon([{"params": list(theirs.parameters())}], lr=0.01)

    def closure():
        first.zero_grad()
        loss = ours(images).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        loss = first.step(closure)
        step(theirs, second, images)
    assert loss > 0
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, msg=name)


def test_first_update_has_the_size_of_adamw_and_weight_decay():
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = Muon([{"params": list(model.parameters())}], lr=0.01, weight_decay=0.5)
    step(model, optimizer, torch.randn(4, 3, 9, 9))
    moved = model[1].weight - before["1.weight"] * (1 - 0.01 * 0.5)
    # Orthonormal rows of 144 weights have a mean square of 1 / 144; singular values are within 20 % of 1.
    assert moved.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.2)
    values = torch.linalg.svdvals(moved.flatten(1)) / (0.2 * 0.01 * math.sqrt(144))
    assert values.min() > 0.6
    assert values.max() < 1.25
    bias = model[4].bias - before["4.bias"] * (1 - 0.01 * 0.5)
    torch.testing.assert_close(bias.abs(), torch.full((2,), 0.01), atol=1e-4, rtol=0)


def test_other_parameters_are_updated_like_adamw():
    # Only the last layer, so that no Muon update changes its input.
    images, layer = torch.randn(4, 32, 5, 5), nn.Conv2d(32, 2, 1)
    models = [copy.deepcopy(layer) for _ in range(2)]
    ours = Muon([{"params": list(models[0].parameters())}], lr=0.01, weight_decay=0.1)
    theirs = torch.optim.AdamW(models[1].parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(5):
        step(models[0], ours, images)
        step(models[1], theirs, images)
    torch.testing.assert_close(models[0].weight, models[1].weight)


def test_resume_from_state_dict():
    images = [torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    uninterrupted, first = network(), network()
    optimizer = Muon([{"params": list(uninterrupted.parameters())}], lr=0.01)
    for batch in images:
        step(uninterrupted, optimizer, batch)
    saved = Muon([{"params": list(first.parameters())}], lr=0.01)
    for batch in images[:2]:
        step(first, saved, batch)
    second = network()
    second.load_state_dict(first.state_dict())
    resumed = Muon([{"params": list(second.parameters())}], lr=0.5)
    resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    for batch in images[2:]:
        step(second, resumed, batch)
    for name, tensor in uninterrupted.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, msg=name)


def test_parameters_without_gradients_are_unchanged():
    model = network()
    model[1].requires_grad_(False)
    before = model[1].weight.clone()
    optimizer = Muon([{"params": list(model.parameters())}], lr=0.01)
    step(model, optimizer, torch.randn(2, 3, 9, 9))
    assert torch.equal(model[1].weight, before)
