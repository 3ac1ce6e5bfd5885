"""Implementation of centernet-export."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ..checkpoint.source import find_checkpoint, load_source
from ..config.loading import load_config
from ..predictor import Predictor
from .sources import find_images

__all__ = ["export"]

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export(args: argparse.Namespace) -> None:
    """Export the model of a command line, and print a summary.

    Raises:
        ValueError: a package is not installed, or the export fails.
    """
    packages = PACKAGES + (("openvino",) if args.format == "openvino" else ())
    if missing := [package for package in packages if find_spec(package) is None]:
        raise ValueError(
            f"export needs {', '.join(missing)}: install the extra, pip install 'centernet_d2[export,openvino]'"
        )
    weights = ["MODEL.WEIGHTS", args.weights] if args.weights else []
    cfg = _load(args.model or args.config_file, ["MODEL.DEVICE", "cpu", "TEST.FOLD_NORMS", False, *args.opts, *weights])
    report = Predictor(cfg).export(
        args.output,
        images=find_images(args.images or []),
        file_format=args.format,
        form=args.form,
        precision=args.precision,
        deform_conv=args.deform_conv,
        check=not args.no_verify,
        max_drop=args.max_drop,
    )
    print("\n".join(_summary(report, args.output)))


def _load(source: str, overrides: list[Any]) -> CfgNode:
    """Return the config of a source; unlike in checkpoints, the config of a run contains the datasets."""
    own = Path(source, "config.yaml")
    if own.is_file():
        return load_config(own, ["MODEL.WEIGHTS", str(find_checkpoint(source)), *overrides])
    return load_source(source, overrides)


def _summary(report: dict[str, Any], folder: Path) -> list[str]:
    """Return the lines that describe the result."""
    lines = []
    if (result := report.get("verification")) is not None:
        lines.append(
            f"verified: {result['compared'] - result['unmatched']} of {result['compared']} detections in "
            f"{result['images']} images agree with the model (scores above {result['min_score']:g}; largest difference "
            f"{result['value_error']:.2g} pixels, {result['score_error']:.2g} in score)"
        )
    if (result := report.get("evaluation")) is not None:
        lines.append(f"{result['metric']}: {result['before']:.2f} before, {result['after']:.2f} after the export")
    if not lines:
        lines.append("not verified")
    (size,) = [sum(file.stat().st_size for file in folder.glob(f"{Path(report['file']).stem}.*")) / 1e6]
    return [*lines, f"saved {folder / report['file']} ({size:.1f} MB), detect.py and export.json"]
