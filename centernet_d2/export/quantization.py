"""Static quantization of convolutions to int8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from torch import nn

from ..layers.deform_conv import DeformConv
from ..modeling.heads.branches import MapBranches
from ..structures.types import DatasetDict
from ..utils.logging import errors_only
from .graphs import Graph

__all__ = ["write_quantized"]

CONVOLUTIONS = ("Conv", "ConvTranspose")


def write_quantized(graph: Graph, source: Path, images: Sequence[DatasetDict]) -> Path:
    """Write a copy of an ONNX file with quantized convolutions.

    Each output channel has a scale. The last convolution of each branch and the offsets of deformable convolutions stay
    in floating point, because their outputs are scores and positions.

    Args:
        graph: the exported module.
        source: its ONNX file.
        images: dataset dicts of the images that determine the ranges of activations.

    Returns:
        A new file next to `source`.

    Raises:
        ValueError: there are no images.
    """
    if not images:
        raise ValueError("int8 needs images to calibrate the ranges of activations: specify them with --images")
    target = source.with_name("quantized.onnx")
    model = onnx.load(source)
    precise = set(_precise_weights(graph))
    with errors_only("root"):  # Recommends preprocessing for other models.
        quantize_static(
            source,
            target,
            _Images(graph, images),
            op_types_to_quantize=list(CONVOLUTIONS),
            nodes_to_exclude=[
                node.name for node in model.graph.node if node.op_type in CONVOLUTIONS and node.input[1] in precise
            ],
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            reduce_range=True,  # Products of 8-bit weights overflow on x86 processors without VNNI.
        )
    quantized = onnx.load(target)
    onnx.helper.set_model_props(quantized, {prop.key: prop.value for prop in model.metadata_props})
    onnx.save(quantized, target)
    return target


def _precise_weights(network: nn.Module) -> Iterator[str]:
    """Generate the names of the weights that are not quantized."""
    for name, module in network.named_modules():
        if isinstance(module, DeformConv):
            yield f"{name}.conv_offset_mask.weight"
        if isinstance(module, MapBranches):
            yield from (
                f"{name}.{branch}.{len(list(layers.children())) - 1}.weight" for branch, layers in module.items()
            )


class _Images(CalibrationDataReader):
    """Inputs of the graph for a list of images."""

    def __init__(self, graph: Graph, images: Sequence[DatasetDict]) -> None:
        self.inputs = iter(graph.read_inputs(record) for record in images)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        return next(self.inputs, None)
