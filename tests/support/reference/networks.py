import numpy as np
import torch

from centernet_d2.layers import DeformConv
from centernet_d2.modeling import ResNetUpConv
from centernet_d2.modeling.heads import MapBranches

from . import synthetic
from .comparison import checks


def build(arch, maps):
    """A backbone and its head branches, with the names of the original in their joint state dict."""
    family, depth = arch.rsplit("_", 1)
    deformable = family == "resdcn"
    channels = (256, 128, 64) if deformable else (256, 256, 256)
    backbone = ResNetUpConv(depth=int(depth), channels=channels, deformable=deformable)
    branches = MapBranches(maps, in_channels=channels[-1], head_conv=64)
    return backbone, branches


def state_shapes(*modules):
    return {name: tensor.shape for module in modules for name, tensor in module.state_dict().items()}


def read_keys(path):
    """Name -> (shape, type), as listed."""
    rows = [line.split("\t") for line in path.read_text().splitlines() if line]
    return {name: (() if shape == "scalar" else tuple(map(int, shape.split("x"))), kind) for name, shape, kind in rows}


@checks("keys/res_*.ctdet.txt", "keys/resdcn_*.ctdet.txt")
def check_keys(path, comparison, tmp_path):
    recorded = read_keys(path)
    maps = {name: recorded[f"{name}.2.weight"][0][0] for name in ("hm", "wh", "reg")}
    backbone, branches = build(path.name.split(".")[0], maps)
    ours = {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for module in (backbone, branches)
        for name, tensor in module.state_dict().items()
    }
    comparison.arrays = len(recorded)
    for name in sorted(ours.keys() ^ recorded.keys()):
        comparison.fail(f"at {name}: only {'ours' if name in ours else 'recorded'}")
    for name in sorted(ours.keys() & recorded.keys()):
        if ours[name] != recorded[name]:
            comparison.fail(f"at {name}: {ours[name]} instead of {recorded[name]}")


@checks("net/res_*.ctdet.*", "net/resdcn_*.ctdet.*")
def check_network(path, comparison, tmp_path):
    data = np.load(path)
    maps = {name: data[name].shape[1] for name in ("hm", "wh", "reg")}
    backbone, branches = build(path.name.split(".")[0], maps)
    state = synthetic.weights(state_shapes(backbone, branches))
    backbone.load_state_dict({name: state[name] for name in backbone.state_dict()})
    branches.load_state_dict({name: state[name] for name in branches.state_dict()})
    backbone.eval()
    with torch.no_grad():
        feature = backbone(torch.from_numpy(data["input"]))["stack_0"]
        outputs = {**branches(feature), "feat": feature}
    for name in sorted(set(data.files) - {"input"}):
        limit = 1e-3 * max(1.0, float(np.abs(data[name]).max())) if "101" in path.name else 1e-3
        comparison.close(name, outputs[name], data[name], atol=limit)


@checks("net/dcn_layer*")
def check_deformable_layer(path, comparison, tmp_path):
    data = np.load(path)
    out_channels, in_channels = data["weight"].shape[:2]
    layer = DeformConv(in_channels, out_channels)
    layer.load_state_dict({name: torch.from_numpy(data[name]) for name in layer.state_dict()})
    x = torch.from_numpy(data["input"])
    with torch.no_grad():
        comparison.close("offset_mask", layer.conv_offset_mask(x), data["offset_mask"], atol=1e-4)
        comparison.close("output", layer(x), data["output"], atol=1e-4)
