"""Small stub networks."""

import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

from centernet_d2.modeling import BoxHead, CenterHead, CenterNet


class StubBackbone(Backbone):
    """Backbone with one convolution per stack and average pooling to stride 4."""

    def __init__(self, channels=4, stacks=1, divisibility=32):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, channels, 3, padding=1) for _ in range(stacks))
        self.channels = channels
        self.divisibility = divisibility

    @property
    def size_divisibility(self):
        return self.divisibility

    def output_shape(self):
        return {f"stack_{i}": ShapeSpec(channels=self.channels, stride=4) for i in range(len(self.convolutions))}

    def forward(self, x):
        return {f"stack_{i}": F.avg_pool2d(layer(x), 4).tanh() for i, layer in enumerate(self.convolutions)}


def widen_boxes(box_head, side=8.0):
    """Set the bias of sizes, in cells: detections whose box has no area are discarded."""
    for stack in box_head.stacks:
        nn.init.constant_(stack["size"][-1].bias, side)


def stub_heads(num_classes=3, stacks=1, box=(), **center):
    common = {"in_channels": 4, "head_conv": 0, "num_stacks": stacks}
    box_head = BoxHead(num_classes=num_classes, **dict(box), **common)
    widen_boxes(box_head)
    return {"CenterHead": CenterHead(num_classes=num_classes, **center, **common), "BoxHead": box_head}


def stub_model(heads=None, stacks=1, divisibility=32, **options):
    """Build a CenterNet with a stub backbone; `options` are arguments of CenterNet."""
    defaults = {"pixel_mean": [104.0, 114.0, 120.0], "pixel_std": [73.0, 70.0, 71.0], "fixed_size": (64, 64)}
    return CenterNet(
        backbone=StubBackbone(stacks=stacks, divisibility=divisibility),
        heads=heads or stub_heads(stacks=stacks),
        **{**defaults, **options},
    )
