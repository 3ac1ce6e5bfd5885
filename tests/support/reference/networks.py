import numpy as np
import torch
from torch import nn

from centernet_d2.layers import DeformConv
from centernet_d2.modeling import DLABackbone, Hourglass, ResNetUpConv
from centernet_d2.modeling.heads import MapBranches

from . import synthetic
from .comparison import checks

BACKBONES = {
    "res": lambda depth: ResNetUpConv(depth=int(depth)),
    "resdcn": lambda depth: ResNetUpConv(depth=int(depth), channels=(256, 128, 64), deformable=True),
    "dla": lambda depth: DLABackbone(),
    "dlav0": lambda depth: DLABackbone(deformable=False),
    "hourglass": lambda depth: Hourglass(),
}
ARCHITECTURES = ("res_*", "resdcn_*", "dla_*", "dlav0_*", "hourglass")
TASKS = ("ctdet", "multi_pose", "ddd")
NAMES = [f"{arch}.{task}" for arch in ARCHITECTURES for task in TASKS]


class Network(nn.Module):
    """Backbone with the branches of all stacks, and mapping to names of the reference implementation."""

    def __init__(self, arch):
        super().__init__()
        self.family, _, depth = arch.partition("_")
        # The meta device skips initialization; weights are assigned later.
        with torch.device("meta"):
            self.backbone = BACKBONES[self.family](depth)
        self.stacks = nn.ModuleList()

    def add_branches(self, maps):
        hidden = 64 if self.family in ("res", "resdcn") else 256
        with torch.device("meta"):
            for shape in self.backbone.output_shape().values():
                self.stacks.append(MapBranches(maps, in_channels=shape.channels, head_conv=hidden))

    def original_state(self):
        """Return a mapping from names in the reference implementation to our name and tensor."""
        return {self.original_name(name): (name, tensor) for name, tensor in self.state_dict().items()}

    def original_name(self, name):
        part, rest = name.split(".", 1)
        if part == "stacks":
            stack, head, layer, kind = rest.split(".")
            rest = f"{head}.{layer}.{kind}"
            if self.family == "hourglass":
                rest = f"{head}.{stack}." + {"0": "0.conv", "2": "1"}[layer] + f".{kind}"
        return rest

    def forward(self, x):
        features = list(self.backbone(x).values())
        outputs = {"feat": features[-1]}
        for stack, (branches, feature) in enumerate(zip(self.stacks, features, strict=True)):
            suffix = f".{stack}" if self.family == "hourglass" else ""
            outputs.update({f"{name}{suffix}": tensor for name, tensor in branches(feature).items()})
        return outputs


def read_keys(path):
    """Read a mapping from names to (shape, type)."""
    rows = [line.split("\t") for line in path.read_text().splitlines() if line]
    return {name: (() if shape == "scalar" else tuple(map(int, shape.split("x"))), kind) for name, shape, kind in rows}


@checks(*(f"keys/{name}.txt" for name in NAMES))
def check_keys(path, comparison, tmp_path):
    recorded = read_keys(path)
    network = Network(path.name.split(".")[0])
    heads = [name for name in recorded if name not in network.original_state()]
    # The last entry of a head is its last bias.
    network.add_branches({name.split(".")[0]: recorded[name][0][0] for name in heads})
    ours = {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, (_, tensor) in network.original_state().items()
    }
    comparison.arrays = len(recorded)
    for name in sorted(ours.keys() ^ recorded.keys()):
        comparison.fail(f"at {name}: only {'ours' if name in ours else 'recorded'}")
    for name in sorted(ours.keys() & recorded.keys()):
        if ours[name] != recorded[name]:
            comparison.fail(f"at {name}: {ours[name]} instead of {recorded[name]}")


@checks(*(f"net/{name}.*" for name in NAMES))
def check_network(path, comparison, tmp_path):
    data = np.load(path)
    arch = path.name.split(".")[0]
    network = Network(arch)
    outputs = sorted(set(data.files) - {"input"})
    network.add_branches({name.split(".")[0]: data[name].shape[1] for name in outputs if name != "feat"})
    state = network.original_state()
    weights = synthetic.weights({name: tensor.shape for name, (_, tensor) in state.items()})
    network.load_state_dict({name: weights[original] for original, (name, _) in state.items()}, assign=True)
    network.eval()
    with torch.no_grad():
        ours = network(torch.from_numpy(data["input"]))
    for name in outputs:
        comparison.close(name, ours[name], data[name], atol=tolerance(arch, name, data[name]))


def tolerance(arch, name, recorded):
    """Return the tolerance, which is relative for deep networks with large values (golden/README.md, section 3)."""
    if arch == "dla_34":
        return 3e-3
    if arch.endswith(("_101", "_152")) or name.endswith(".1"):
        return 1e-3 * max(1.0, float(np.abs(recorded).max()))
    return 1e-3


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
