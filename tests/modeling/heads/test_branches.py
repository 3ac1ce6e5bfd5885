import pytest
import torch

from centernet_d2.modeling.heads.branches import HEATMAP_BIAS, MapBranches


def test_branches_have_given_names_and_channels():
    branches = MapBranches({"heatmap": 3, "anything": 5}, in_channels=8, head_conv=4, heatmaps=("heatmap",))
    maps = branches(torch.rand(2, 8, 6, 10))
    assert {name: tuple(tensor.shape) for name, tensor in maps.items()} == {
        "heatmap": (2, 3, 6, 10),
        "anything": (2, 5, 6, 10),
    }
    assert set(branches.state_dict()) == {
        f"{name}.{layer}.{kind}" for name in maps for layer in (0, 2) for kind in ("weight", "bias")
    }


def test_head_conv_zero_gives_single_convolution():
    assert set(MapBranches({"m": 2}, in_channels=8, head_conv=0).state_dict()) == {"m.0.weight", "m.0.bias"}


def test_initialization():
    def branch(init):
        torch.manual_seed(0)
        return MapBranches({"heatmap": 2, "size": 2}, in_channels=8, head_conv=64, heatmaps=("heatmap",), init=init)

    for init, first_std, last_std, first_bias in (
        ("default", 0.07, 0.07, True),
        ("zero_bias", 0.07, 0.07, False),
        ("small_last", 0.07, 0.001, True),
        ("small", 0.001, 0.001, False),
    ):
        first, _, last = branch(init)["size"]
        assert first.weight.std().item() == pytest.approx(first_std, rel=0.2), init
        assert last.weight.std().item() == pytest.approx(last_std, rel=0.2), init
        assert bool(first.bias.any()) is first_bias, init
        assert bool(last.bias.any()) is (init == "default"), init
        assert (branch(init)["heatmap"][2].bias == HEATMAP_BIAS).all()


def test_unknown_initialization_raises():
    with pytest.raises(ValueError, match="^init is 'other', known: default"):
        MapBranches({"m": 2}, in_channels=8, head_conv=0, init="other")


def test_maps_are_float32_under_autocast():
    branches = MapBranches({"heatmap": 1}, in_channels=8, head_conv=8, heatmaps=("heatmap",))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert branches(torch.rand(1, 8, 4, 4))["heatmap"].dtype == torch.float32
