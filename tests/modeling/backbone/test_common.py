import pytest
import torch

from centernet_d2.modeling.backbone.common import DepthwiseUpsampling


@pytest.mark.parametrize("factor", [2, 4])
def test_depthwise_upsampling_uses_float32_under_autocast(factor):
    layer, x = DepthwiseUpsampling(3, factor), torch.rand(2, 3, 5, 6)
    expected = torch.nn.ConvTranspose2d.forward(layer, x.bfloat16().float())
    assert expected.shape == (2, 3, 5 * factor, 6 * factor)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected.bfloat16())
    assert torch.equal(layer(x), torch.nn.ConvTranspose2d.forward(layer, x))
