"""Export of a model to a folder."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from torch import nn

from ..layers.deform_conv import DeformConv
from ..layers.folding import fold_batch_norms
from ..modeling import CenterNet, CenterNetWithTTA
from ..modeling.heads.branches import MapBranches
from ..structures.types import DatasetDict
from ..utils.validation import check_choice
from . import detect
from .accuracy import evaluate, load_records
from .graphs import FORMS, build_graph, unwrap
from .metadata import describe, hash_weights
from .onnx_file import write_onnx
from .verification import ExportedModel, TorchModel, verify

__all__ = ["DEFORM_CONVS", "FORMATS", "PRECISIONS", "export_model"]

#: Format -> file name.
FORMATS = {"onnx": "model.onnx", "openvino": "model.xml"}
PRECISIONS = ("float32", "float16", "int8")
#: Operator for deformable convolutions -> implementation in DeformConv.
DEFORM_CONVS = {"grid_sample": "grid_sample", "onnx": "torchvision"}

# Number of images of the datasets of a config for verification and for the calibration of int8.
VERIFICATION_IMAGES = 20
CALIBRATION_IMAGES = 64

logger = logging.getLogger(__name__)


@torch.no_grad()
def export_model(
    model: CenterNet | CenterNetWithTTA,
    folder: str | Path,
    *,
    cfg: CfgNode | None = None,
    images: Sequence[DatasetDict] = (),
    metadata: Metadata | None = None,
    threshold: float = 0.3,
    file_format: str = "onnx",
    form: str = "image",
    precision: str = "float32",
    deform_conv: str = "grid_sample",
    check: bool = True,
    max_drop: float | None = 1.0,
) -> dict[str, Any]:
    """Write a model, ``detect.py`` and the report ``export.json`` to a folder.

    Files are written to a temporary folder, verified, and renamed; after an error, the folder is unchanged.

    Args:
        model: a CenterNet, possibly with flip testing.
        folder: output folder, created if needed.
        cfg: config whose datasets provide images and labels.
        images: dataset dicts of images for verification and calibration, instead of the datasets of the config.
        metadata: class names and category IDs.
        threshold: suggested score threshold.
        file_format: a key of FORMATS.
        form: "image", from a raw image to detections in its pixels, or "canvas", from batches of network inputs to
            detections in map pixels.
        precision: one of PRECISIONS.
        deform_conv: a key of DEFORM_CONVS.
        check: verify the file.
        max_drop: maximum loss of the main metric in float16 and int8; None disables the evaluation.

    Returns:
        The content of ``export.json``.

    Raises:
        ValueError: an argument is invalid, the model cannot be exported, or the verification fails.
    """
    for name, value, choices in (
        ("file_format", file_format, FORMATS),
        ("form", form, FORMS),
        ("precision", precision, PRECISIONS),
        ("deform_conv", deform_conv, DEFORM_CONVS),
    ):
        check_choice(name, value, tuple(choices))
    _check_model(model, file_format, deform_conv)
    labeled = load_records(cfg, "TEST") if precision != "float32" and max_drop is not None else []
    if precision == "int8" and max_drop is not None and not labeled:
        raise ValueError(
            "the accuracy of int8 cannot be evaluated, because DATASETS.TEST of the config is not available; specify a "
            "config with labeled images, or max_drop None (--max-drop none)"
        )
    reference, exported = (_prepare(model, deform_conv, kind) for kind in ("float32", precision))
    graph = build_graph(form, exported)
    outputs = list(graph(*graph.example().values()))
    described = describe(
        graph,
        outputs,
        metadata=metadata or Metadata(),
        threshold=threshold,
        precision=precision,
        weights=hash_weights(unwrap(model)),
    )
    report: dict[str, Any] = {"file": FORMATS[file_format], **described}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".export.", dir=folder) as temporary:
        path = Path(temporary, "files", FORMATS[file_format])
        path.parent.mkdir()
        calibration = images or _spread(load_records(cfg, "TRAIN"), CALIBRATION_IMAGES)
        _write(graph, path, described, calibration, Path(temporary))
        file = ExportedModel(path, unwrap(reference))
        if check and (precision == "float32" or (precision == "float16" and not labeled)):
            chosen = images or _spread(load_records(cfg, "TEST") or load_records(cfg, "TRAIN"), VERIFICATION_IMAGES)
            report = {**report, "verification": verify(TorchModel(reference), file, chosen)}
        if cfg is not None and labeled:
            report = {**report, "evaluation": _compare_accuracy(cfg, TorchModel(reference), file, max_drop)}
        path.with_name("export.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        shutil.copyfile(detect.__file__, path.with_name("detect.py"))
        for part in sorted(path.parent.iterdir()):
            os.replace(part, folder / part.name)
    return report


def _check_model(model: CenterNet | CenterNetWithTTA, file_format: str, deform_conv: str) -> None:
    """Raise a ValueError for models that cannot be exported."""
    if isinstance(model, CenterNetWithTTA) and model.scales != (1.0,):
        raise ValueError(f"TEST.AUG.SCALES is {model.scales}, but exported models have one scale: set it to (1.0,)")
    if unwrap(model).nms:
        raise ValueError(f"TEST.NMS is '{unwrap(model).nms}', but exported models do not support it: set it to ''")
    if (file_format, deform_conv) == ("openvino", "onnx"):
        raise ValueError("OpenVINO does not support the operator DeformConv: use deform_conv grid_sample")


def _prepare(model: CenterNet | CenterNetWithTTA, deform_conv: str, precision: str) -> CenterNet | CenterNetWithTTA:
    """Return a copy of a model on the CPU, in evaluation mode."""
    model = copy.deepcopy(model).cpu().eval()
    network = unwrap(model)
    network.compiled, network.memory_format, network.precision = False, torch.contiguous_format, "float32"
    if precision == "float16":
        network.precision = "float16"
        network.backbone = fold_batch_norms(network.backbone)  # Autocast runs them in float32.
        _halve_weights(network)
    for module in model.modules():
        if isinstance(module, DeformConv):
            module.implementation = DEFORM_CONVS[deform_conv]
    return model


def _halve_weights(network: CenterNet) -> None:
    """Convert the weights of convolutions to float16, except for the last one of each branch."""
    branches = [branch for module in network.modules() if isinstance(module, MapBranches) for branch in module.values()]
    precise = [list(branch.children())[-1] for branch in branches]
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, DeformConv)) and module not in precise:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.half()


def _write(graph: Any, path: Path, metadata: dict[str, Any], images: Sequence[DatasetDict], temporary: Path) -> None:
    """Write the file of a graph in the format of its suffix and the precision of its metadata."""
    source = temporary / "model.onnx"
    write_onnx(graph, source, metadata)
    if metadata["precision"] == "int8":
        from .quantization import write_quantized

        source = write_quantized(graph, source, images)
    if path.suffix == ".onnx":
        os.replace(source, path)
    else:
        from .openvino_file import write_openvino

        write_openvino(source, path, metadata)


def _spread(records: Sequence[DatasetDict], count: int) -> list[DatasetDict]:
    """Return at most `count` records at equal distances."""
    index = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    return [records[i] for i in index]


def _compare_accuracy(cfg: CfgNode, before: TorchModel, after: ExportedModel, max_drop: float | None) -> dict[str, Any]:
    """Evaluate the model and the file.

    Raises:
        ValueError: the metric of the file is lower by more than `max_drop`.
    """
    (metric, first), (_, second) = (evaluate(cfg, detect) for detect in (before, after))
    logger.info(f"{metric}: {first:.2f} before and {second:.2f} after the export")
    if max_drop is not None and not second >= first - max_drop:
        raise ValueError(
            f"{metric} drops from {first:.2f} to {second:.2f}, by more than {max_drop:g}; use float32, more "
            "calibration images, or a higher limit (--max-drop)"
        )
    return {"metric": metric, "before": first, "after": second, "max_drop": max_drop}
