"""Export of models to ONNX and OpenVINO files."""

from .exporting import export_model

__all__ = ["export_model"]
