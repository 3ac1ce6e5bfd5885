"""Export of a model to a folder."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from detectron2.data import Metadata

from ..layers.deform_conv import DeformConv
from ..modeling import CenterNet, CenterNetWithTTA
from ..structures.types import DatasetDict
from ..utils.validation import check_choice
from . import detect
from .graphs import FORMS, build_graph
from .metadata import describe
from .onnx_file import write_onnx
from .verification import verify

__all__ = ["FORMATS", "PRECISIONS", "export_model"]

FORMATS = {"onnx": "model.onnx", "openvino": "model.xml"}
PRECISIONS = ("float32", "float16", "int8")
DEFORM_CONVS = {"grid_sample": "grid_sample", "onnx": "torchvision"}


@torch.no_grad()
def export_model(
    model: CenterNet | CenterNetWithTTA,
    folder: str | Path,
    *,
    images: Sequence[DatasetDict] = (),
    metadata: Metadata | None = None,
    threshold: float = 0.3,
    format: str = "onnx",
    form: str = "image",
    precision: str = "float32",
    deform_conv: str = "grid_sample",
    check: bool = True,
) -> dict[str, Any]:
    """Export."""
    check_choice("format", format, tuple(FORMATS))
    check_choice("form", form, FORMS)
    check_choice("precision", precision, PRECISIONS)
    model = prepare(model, deform_conv)
    graph = build_graph(form, model)
    outputs = list(graph(*graph.example().values()))
    described = describe(graph, outputs, metadata or Metadata(), threshold, precision)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".export.", dir=folder) as temporary:
        path = Path(temporary, FORMATS[format])
        write_onnx(graph, path, outputs, described)
        report = {"metadata": described}
        if check:
            report["verification"] = verify(graph, path, images)
        Path(temporary, "export.json").write_text(json.dumps(report, indent=1))
        shutil.copyfile(detect.__file__, Path(temporary, "detect.py"))
        for file in sorted(Path(temporary).iterdir()):
            os.replace(file, folder / file.name)
    return report


def prepare(model: CenterNet | CenterNetWithTTA, deform_conv: str) -> CenterNet | CenterNetWithTTA:
    """Return a copy of a model on the CPU."""
    model = copy.deepcopy(model).cpu().eval()
    for module in model.modules():
        if isinstance(module, DeformConv):
            module.implementation = DEFORM_CONVS[deform_conv]
    return model
