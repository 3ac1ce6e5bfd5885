"""Detectors of torchvision, which is always installed, to compare with. Ultralytics and LibreYOLO are not compared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torchvision.models import detection

MODELS = {
    "torchvision SSDLite (MobileNetV3)": detection.ssdlite320_mobilenet_v3_large,
    "torchvision FCOS (R-50)": detection.fcos_resnet50_fpn,
    "torchvision RetinaNet (R-50)": detection.retinanet_resnet50_fpn,
}


def build(size: tuple[int, int], device: str) -> dict[str, torch.nn.Module]:
    """Untrained models, for images of one height and width as they are."""
    print("not compared: Ultralytics, LibreYOLO (not a requirement of this project)")
    return {name: _sized(function, size).to(device) for name, function in MODELS.items()}


def _sized(function: Callable[..., torch.nn.Module], size: tuple[int, int]) -> torch.nn.Module:
    model = function(weights=None, weights_backbone=None, num_classes=81)
    # Each scales images by its own rule; here all see the same pixels.
    model.transform.fixed_size = (size[1], size[0])
    return model
