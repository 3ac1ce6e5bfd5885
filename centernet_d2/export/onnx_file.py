"""ONNX files."""

from __future__ import annotations

import contextlib
import io
import json
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch

from ..modeling.heads import PointHead
from .graphs import Graph

__all__ = ["METADATA_KEY", "write_onnx"]

METADATA_KEY = "centernet_d2"
OPSET = 20  # The first one with a three-dimensional GridSample; 19 is the first with DeformConv.


@torch.no_grad()
def write_onnx(graph: Graph, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write the graph of a module, and its metadata.

    Args:
        graph: a module.
        path: file to write.
        metadata: see :func:`centernet_d2.export.metadata.describe`.

    Raises:
        ValueError: the module contains operations that cannot be exported.
    """
    example = graph.example()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                graph,
                tuple(example.values()),
                dynamo=True,
                dynamic_shapes=_match_signature(graph.dynamic_shapes()),
                input_names=list(example),
                output_names=metadata["outputs"],
                opset_version=OPSET,
                custom_translation_table=_translations(),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"the model cannot be exported: {_reason(error)}") from error
    model = program.model_proto
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _match_signature(shapes: list[dict]) -> tuple:
    """Return dynamic shapes for the signature (first input, *further inputs)."""
    return (shapes[0],) if len(shapes) == 1 else (shapes[0], tuple(shapes[1:]))


def _reason(error: BaseException) -> str:
    """Return the first line of the message of the original error, after the head that raised it."""
    while error.__cause__ is not None:
        error = error.__cause__
    owners = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    heads = [f"{type(owner).__name__}: " for owner in owners if isinstance(owner, PointHead)]
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return "".join(heads[-1:]) + lines[0]


def _translations() -> dict:
    """Return the translations of operators that the exporter does not know."""
    from onnxscript import opset19 as op

    def deform_conv(x: Any, weight: Any, offset: Any, mask: Any, bias: Any, *settings: Any, **named: Any) -> Any:
        return op.DeformConv(x, weight, offset, bias, mask, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])

    return {torch.ops.torchvision.deform_conv2d.default: deform_conv}
