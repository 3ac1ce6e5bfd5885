"""OpenVINO files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino

from .onnx_file import METADATA_KEY

__all__ = ["write_openvino"]


def write_openvino(source: Path, target: Path, metadata: Mapping[str, Any]) -> None:
    """Convert an ONNX file to an .xml and a .bin file.

    Args:
        source: ONNX file.
        target: name of the .xml file.
        metadata: saved as JSON in ``rt_info``.
    """
    model = openvino.convert_model(source)
    model.set_rt_info(json.dumps(metadata), [METADATA_KEY])
    openvino.save_model(model, target, compress_to_fp16=metadata["precision"] == "float16")
