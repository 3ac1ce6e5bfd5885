import math

import pytest
import torch

from centernet_d2.modeling.losses import (
    focal_loss,
    focal_loss_with_logits,
    log_depth_loss,
    orientation_loss,
    regression_loss,
)


def test_focal_loss_values():
    probability = torch.tensor([0.8, 0.3, 0.1])
    target = torch.tensor([1.0, 0.5, 0.0])
    center = -math.log(0.8) * 0.2**2
    near = -math.log(0.7) * 0.3**2 * 0.5**4
    far = -math.log(0.9) * 0.1**2
    assert focal_loss(probability, target).item() == pytest.approx(center + near + far, rel=1e-5)


def test_focal_loss_is_divided_by_the_number_of_centers():
    probability, target = torch.tensor([0.8, 0.8]), torch.tensor([1.0, 1.0])
    assert focal_loss(probability, target).item() == pytest.approx(-math.log(0.8) * 0.04, rel=1e-5)


def test_focal_loss_without_centers_is_sum():
    loss = focal_loss(torch.tensor([0.1, 0.1]), torch.zeros(2))
    assert loss.item() == pytest.approx(-2 * math.log(0.9) * 0.01, rel=1e-5)


def test_weight_applies_to_background_but_not_centers():
    probability, target = torch.tensor([0.8, 0.3]), torch.tensor([1.0, 0.0])
    silent = focal_loss(probability, target, weight=torch.zeros(2))
    assert silent.item() == pytest.approx(-math.log(0.8) * 0.04, rel=1e-5)


def test_no_gradient_outside_clamp():
    logits = torch.tensor([-20.0, 20.0, 0.0], requires_grad=True)
    focal_loss_with_logits(logits, torch.tensor([1.0, 0.0, 0.0])).backward()
    assert logits.grad[:2].tolist() == [0, 0]
    assert logits.grad[2] != 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits = torch.tensor([-9.0, 0.5, 9.0], dtype=dtype)
    target = torch.tensor([0.0, 1.0, 0.3])
    loss = focal_loss_with_logits(logits, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(focal_loss_with_logits(logits.float(), target).item())


def focal_example(dtype=torch.float32):
    """Build logits, some of them outside the clamp range, targets with centers, and weights."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, 3, 8, 8, generator=generator, dtype=dtype)
    logits[(logits.abs() - 9.2102).abs() < 0.01] = 1.0  # the gradient is undefined at the edge of the clamp range
    target = torch.rand(2, 3, 8, 8, generator=generator, dtype=dtype) ** 4
    target[target > 0.8] = 1
    return logits.requires_grad_(), target, torch.rand(2, 3, 1, 1, generator=generator, dtype=dtype)


@pytest.mark.parametrize("weighted", [False, True])
def test_focal_loss_gradient_matches_autograd(weighted):
    logits, target, weight = focal_example()
    weight = weight if weighted else None
    own = focal_loss_with_logits(logits, target, weight)
    plain = focal_loss(logits.sigmoid().clamp(1e-4, 1 - 1e-4), target, weight)
    assert own.item() == pytest.approx(plain.item(), rel=1e-6)
    gradients = [torch.autograd.grad(3 * loss, logits)[0] for loss in (own, plain)]
    torch.testing.assert_close(*gradients, atol=4e-9, rtol=1e-5)
    clamped = logits.detach().abs() > 9.22
    assert clamped.any()
    assert not gradients[0][clamped].any()


@pytest.mark.parametrize("weighted", [False, True])
def test_focal_loss_gradcheck(weighted):
    logits, target, weight = focal_example(torch.float64)
    weight = weight if weighted else None
    with torch.no_grad():
        logits.clamp_(-9, 9)  # not differentiable at the clamp
    assert torch.autograd.gradcheck(lambda x: focal_loss_with_logits(x, target, weight), logits)


@pytest.mark.skipif(torch.__version__ < (2, 3), reason="torch is too old to compile it")
def test_focal_loss_compiles_to_one_graph():
    logits, target, _ = focal_example()
    compiled = torch.compile(focal_loss_with_logits, backend="aot_eager", fullgraph=True)
    own, eager = (function(logits, target) for function in (compiled, focal_loss_with_logits))
    torch.testing.assert_close(own, eager)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (own, eager)))


def test_regression_loss_values():
    prediction = torch.tensor([[1.0, 2.0], [5.0, 5.0], [9.0, 9.0]])
    target = torch.tensor([[1.5, 4.0], [5.0, 5.0], [0.0, 0.0]])
    weight = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    assert regression_loss(prediction, target, weight).item() == pytest.approx(2.5 / 4.0001)
    # Smooth L1: 0.5 * 0.5^2 and 2 - 0.5, over two objects.
    assert regression_loss(prediction, target, weight, "smooth_l1").item() == pytest.approx(1.625 / 2.0001)
    # Over ten slots of two values, including empty slots.
    assert regression_loss(prediction, target, weight, slots=10).item() == pytest.approx(2.5 / 20)


@pytest.mark.parametrize("loss", ["l1", "smooth_l1"])
def test_loss_without_objects_is_zero_with_gradient(loss):
    feature = torch.rand(1, 2, 4, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    value = regression_loss(feature[none, :, none, none], torch.zeros(0, 2), torch.zeros(0, 2), loss)
    value.backward()
    assert value.item() == 0
    assert feature.grad.abs().sum() == 0


def test_log_depth_loss_reduces_common_error():
    image = torch.tensor([0, 0, 1])
    target, weight = torch.tensor([[10.0], [20.0], [5.0]]), torch.ones(3, 1)
    for balance in (0.0, 0.5, 1.0):
        loss = log_depth_loss(target * math.e, target, weight, image, 2, balance)
        assert loss == pytest.approx(1 - balance, abs=1e-5)
    # Log depth errors of 1 and 3 in the first image give 5 - 0.5 * 4; the second image has no error.
    wrong = target * torch.tensor([[1.0], [3.0], [0.0]]).exp()
    assert log_depth_loss(wrong, target, weight, image, 2) == pytest.approx(3 / 2, abs=1e-4)


def test_log_depth_loss_skips_unknown_depths_and_empty_images():
    prediction = torch.tensor([[4.0], [-1.0], [7.0]], requires_grad=True)
    target, weight = torch.tensor([[4.0], [-1000.0], [7.0]]), torch.tensor([[1.0], [0.0], [1.0]])
    loss = log_depth_loss(prediction * 2, target, weight, torch.tensor([0, 0, 2]), 4)
    assert loss.detach() == pytest.approx(0.5 * math.log(2) ** 2, abs=1e-5)
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert gradient[1] == 0
    assert gradient[0] > 0
    nothing = log_depth_loss(prediction, target, weight * 0, torch.tensor([0, 0, 2]), 4)
    assert nothing == 0
    assert torch.autograd.grad(nothing, prediction)[0].abs().max() == 0


def test_log_depth_loss_is_float32():
    depth = torch.tensor([[1000.0]], dtype=torch.half)
    assert log_depth_loss(depth, depth * 2, torch.ones(1, 1), torch.tensor([0]), 1).dtype == torch.float32


SINGLE = torch.zeros(2, dtype=torch.long)
LOSSES = {
    "l1": (1, lambda p, t, w: regression_loss(p, t, w)),
    "smooth_l1": (1, lambda p, t, w: regression_loss(p, t, w, "smooth_l1")),
    "slots": (1, lambda p, t, w: regression_loss(p, t, w, slots=9)),
    "log": (1, lambda p, t, w: log_depth_loss(p, t, w, SINGLE, 1)),
    "orientation": (8, lambda p, t, w: orientation_loss(p, t, w[:, 0])),
    "orientation of slots": (8, lambda p, t, w: orientation_loss(p, t, w[:, 0], 9)),
}


@pytest.mark.parametrize("unknown", [math.nan, math.inf, -math.inf, -1000.0])
@pytest.mark.parametrize("name", LOSSES)
def test_targets_with_zero_weight_are_ignored(name, unknown):
    channels, loss = LOSSES[name]
    prediction = torch.linspace(0.5, 2, 2 * channels).reshape(2, channels).requires_grad_()
    target, weight = torch.ones(2, channels), torch.tensor([[1.0], [0.0]])
    expected = loss(prediction, target, weight)
    target[1] = unknown
    value = loss(prediction, target, weight)
    assert value.item() == expected.item() > 0
    for result, reference in ((value, expected), (loss(prediction, target, weight * 0), None)):
        (gradient,) = torch.autograd.grad(result, prediction)
        assert gradient.isfinite().all()
        assert gradient[1].abs().max() == 0
        if reference is not None:
            assert torch.equal(gradient, torch.autograd.grad(reference, prediction)[0])


def test_target_angle_outside_bin_is_ignored():
    prediction = torch.linspace(-1, 1, 8)[None].requires_grad_()
    target = torch.tensor([[0.0, 1, 0.6, 0.8, 1, 0, math.nan, math.nan]])
    loss = orientation_loss(prediction, target, torch.ones(1))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, prediction)[0].isfinite().all()
