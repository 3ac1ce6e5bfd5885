import pytest
import torch
import torch.nn.functional as F

from centernet_d2.layers import DeformConv
from centernet_d2.layers.deform_conv import deform_conv2d_by_bags, deform_conv2d_by_grid_sample

# The oldest supported torch has neither autocast to float16 on the CPU nor an export of torchvision's operator.
newer_torch = pytest.mark.skipif(torch.__version__ < (2, 3), reason="needs torch 2.3")


def test_initial_output_is_half_of_a_convolution():
    layer = DeformConv(4, 6)
    x = torch.rand(2, 4, 7, 9)
    # All offsets are 0 and the mask is sigmoid(0) = 0.5.
    assert torch.allclose(layer(x), 0.5 * F.conv2d(x, layer.weight, padding=1), atol=1e-6)
    assert layer.weight.abs().max() <= 1 / (9 * 4) ** 0.5


def test_integer_offset_shifts_the_input():
    layer = DeformConv(1, 1)
    with torch.no_grad():
        layer.conv_offset_mask.bias[0:18:2] = 2.0  # vertical displacement of every tap
        layer.conv_offset_mask.bias[18:] = 50.0  # mask 1
        x = torch.rand(1, 1, 8, 8)
        shifted = F.pad(x[:, :, 2:], (0, 0, 0, 2))
        expected = F.conv2d(shifted, layer.weight, padding=1)
        assert torch.allclose(layer(x)[:, :, 1:5], expected[:, :, 1:5], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=newer_torch)])
def test_output_is_float32_under_autocast(dtype):
    layer = DeformConv(4, 6)
    with torch.autocast("cpu", dtype=dtype):
        out = layer(torch.rand(1, 4, 6, 6, requires_grad=True))
        out.sum().backward()
    assert out.dtype == torch.float32
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("size", [(1, 1), (5, 1), (7, 12)])
def test_implementations_have_equal_outputs_and_gradients(size):
    torch.manual_seed(0)
    layers = [DeformConv(4, 6, implementation=name) for name in ("torchvision", "grid_sample")]
    torch.nn.init.normal_(layers[0].conv_offset_mask.weight, std=0.5)  # offsets of a few pixels, beyond the border
    torch.nn.init.normal_(layers[0].bias)
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(2, 4, *size, requires_grad=True)
    outputs = [layer(x) for layer in layers]
    assert outputs[0].shape == (2, 6, *size)
    torch.testing.assert_close(*outputs, atol=2e-6, rtol=1e-5)
    gradients = [
        torch.autograd.grad(output.square().sum(), [x, *layer.parameters()])
        for layer, output in zip(layers, outputs, strict=True)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_invalid_offsets_are_visible_in_the_output(value):
    torch.manual_seed(0)
    offset, x, mask = torch.randn(2, 18, 4, 5), torch.randn(2, 3, 4, 5), torch.rand(2, 9, 4, 5)
    offset[1, 4, 2, 3] = value
    arguments = (x, offset, mask, torch.randn(6, 3, 3, 3), torch.zeros(6))
    expected, found = deform_conv2d_by_grid_sample(*arguments), deform_conv2d_by_bags(*arguments)
    assert torch.equal(found.isnan(), expected.isnan())
    torch.testing.assert_close(found, expected, equal_nan=True, atol=1e-5, rtol=1e-5)


@pytest.mark.long  # 17 million positions and 5 GB: float32 cannot represent all their indices.
def test_many_positions():
    shape = (4104, 1, 64, 64)
    x = torch.zeros(shape)
    x[-1] = torch.rand(shape[1:])
    offset, mask = (
        torch.zeros(1, 18, 64, 64).expand(len(x), -1, -1, -1),
        torch.ones(1, 9, 64, 64).expand(len(x), -1, -1, -1),
    )
    weight, bias = torch.randn(1, 1, 3, 3), torch.zeros(1)
    found = deform_conv2d_by_bags(x, offset, mask, weight, bias)[-1]
    torch.testing.assert_close(found, F.conv2d(x[-1:], weight, padding=1)[0], atol=1e-5, rtol=1e-5)


def test_no_grad_gives_equal_outputs_and_keeps_the_input():
    torch.manual_seed(0)
    layers = [DeformConv(4, 6, implementation=name) for name in ("torchvision", "grid_sample")]
    torch.nn.init.normal_(layers[0].conv_offset_mask.weight, std=0.5)
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(3, 4, 7, 12)
    original = x.clone()
    trained = layers[1](x)
    with torch.no_grad():
        torch.testing.assert_close(layers[0](x), layers[1](x), atol=2e-6, rtol=1e-5)
        assert torch.equal(layers[1](x), trained)
    assert torch.equal(x, original)


def sampled(x):
    """Return a layer for the channels of `x` that samples beyond the border, and its offset and mask for `x`."""
    layer = DeformConv(x.shape[1], 6)
    torch.nn.init.normal_(layer.conv_offset_mask.weight, std=0.5)
    torch.nn.init.normal_(layer.bias)
    offset, mask = layer.conv_offset_mask(x).split([18, 9], dim=1)
    return layer, offset, mask.sigmoid()


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (5, 1), (7, 12)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 0.01)])
def test_bags_equal_grid_sample(size, memory_format, dtype, tolerance, monkeypatch):
    monkeypatch.setattr("centernet_d2.layers.deform_conv._CHUNK", 40)
    torch.manual_seed(0)
    x = torch.randn(3, 8, *size)
    layer, offset, mask = sampled(x)
    expected = deform_conv2d_by_grid_sample(x, offset, mask, layer.weight, layer.bias)
    x = x.to(dtype).contiguous(memory_format=memory_format)
    found = deform_conv2d_by_bags(x, offset, mask, layer.weight, layer.bias)
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert (found.float() - expected).abs().max() <= tolerance * expected.abs().max()


def test_inference_on_a_cpu_equals_training():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 12)
    layer, _, _ = sampled(x)
    trained = layer(x)
    with torch.no_grad():
        assert not torch.equal(layer(x), trained)  # Another implementation.
        torch.testing.assert_close(layer(x), trained, atol=2e-6, rtol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), trained, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("name", [pytest.param("torchvision", marks=newer_torch), "grid_sample"])
def test_implementations_can_be_exported(name):
    layer = DeformConv(4, 6, implementation=name).eval()
    x = torch.rand(1, 4, 6, 6)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


def test_unknown_implementation_raises():
    with pytest.raises(ValueError, match="implementation is 'fast', known: auto, torchvision, grid_sample"):
        DeformConv(4, 6, implementation="fast")
