"""Metadata of exported files."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from detectron2.data import Metadata
from torch import nn

from ..data.catalog import to_plain
from ..modeling import CenterNetWithTTA
from .detect import FORMAT
from .graphs import Graph, ImageGraph, output_name

__all__ = ["describe", "hash_weights"]

PACKAGES = ("centernet_d2", "torch", "onnx", "onnxscript", "onnxruntime", "openvino")


def hash_weights(model: nn.Module) -> str:
    """Return the SHA-256 hash of the names and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe(
    graph: Graph, outputs: list[str], *, metadata: Metadata, threshold: float, precision: str, weights: str
) -> dict[str, Any]:
    """Return the metadata of an exported file as plain values.

    Args:
        graph: exported module.
        outputs: names of its outputs.
        metadata: class names and category IDs.
        threshold: suggested score threshold.
        precision: precision of the file.
        weights: output of :func:`hash_weights`.
    """
    network = graph.network
    preprocessor = network.preprocessor
    known = to_plain(metadata, network.properties)
    defaults = [pair for prop in network.properties for pair in prop.default_inputs().items()]
    return {
        "format": FORMAT,
        "form": "image" if isinstance(graph, ImageGraph) else "canvas",
        "precision": precision,
        "class_names": known.pop("thing_classes", None),
        "category_ids": known.pop("category_ids", None),
        "threshold": threshold,
        "color": network.input_format,
        "canvas": {
            "resolution": preprocessor.test_resolution,
            "multiple": preprocessor.size_divisibility,
            "size": None if preprocessor.test_resolution == "keep" else list(preprocessor.fixed_size),
        },
        "stride": network.stride,
        "max_detections": network.max_detections,
        "flip": isinstance(graph.model, CenterNetWithTTA) and graph.model.flip,
        "inputs": {name: None if value is None else value.tolist() for name, value in defaults},
        "outputs": outputs,
        "json_keys": {output_name(name): key for prop in network.properties for name, key in prop.json_keys.items()},
        "heads": list(network.heads),
        **known,
        "weights_sha256": weights,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
