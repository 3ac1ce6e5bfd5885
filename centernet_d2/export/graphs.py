"""Modules from image to detections, which exported files contain."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..imaging.reading import read_image
from ..modeling import CenterNet, CenterNetWithTTA
from ..structures.types import DatasetDict, Fields

__all__ = ["FORMS", "CanvasGraph", "Graph", "ImageGraph", "build_graph", "output_name", "unwrap"]

FORMS = ("image", "canvas")


def output_name(field: str) -> str:
    """Return the name of the output for a field of ``Instances``."""
    return field.removeprefix("pred_")


def unwrap(model: CenterNet | CenterNetWithTTA) -> CenterNet:
    """Return the model without test-time augmentation."""
    return cast(CenterNet, model.model if isinstance(model, CenterNetWithTTA) else model)


class Graph(nn.Module):
    """Base class of exported modules."""

    def __init__(self, model: CenterNet | CenterNetWithTTA) -> None:
        super().__init__()
        self.model = model

    @property
    def network(self) -> CenterNet:
        """Model without test-time augmentation."""
        return unwrap(self.model)

    def example(self) -> dict[str, Tensor]:
        """Return inputs by name."""
        raise NotImplementedError

    def dynamic_shapes(self) -> list[dict[int, Any]]:
        """Return the dimensions of each input that may change."""
        raise NotImplementedError

    def read_inputs(self, record: DatasetDict) -> dict[str, np.ndarray]:
        """Return the inputs of the image ``file_name`` of a dataset dict."""
        raise NotImplementedError

    def compute_fields(self, canvases: Tensor) -> Fields:
        """Compute fields at the peaks, in map pixels, of uint8 (B, C, H, W) canvases."""
        images = self.network.preprocessor.normalize(canvases.float())
        if isinstance(self.model, CenterNetWithTTA):
            return self.network.decode(self.model.compute_maps(images))
        return self.network.decode(self.network.compute_test_maps(images))


class CanvasGraph(Graph):
    """Module from (B, C, H, W) uint8 canvases to (B, K, ...) fields in map pixels."""

    def forward(self, canvases: Tensor) -> Fields:
        return self.compute_fields(canvases)

    def example(self) -> dict[str, Tensor]:
        sides = self._fixed_size() or [3 * self.network.preprocessor.size_divisibility] * 2
        return {"canvases": torch.zeros(2, len(self.network.pixel_mean), *sides, dtype=torch.uint8)}

    def dynamic_shapes(self) -> list[dict[int, Any]]:
        multiple = self.network.preprocessor.size_divisibility
        height, width = (multiple * torch.export.Dim(name, min=1) for name in ("rows", "columns"))
        return [{0: torch.export.Dim("batch", min=1), **({} if self._fixed_size() else {2: height, 3: width})}]

    def read_inputs(self, record: DatasetDict) -> dict[str, np.ndarray]:
        image = read_image(record["file_name"], self.network.input_format).transpose(2, 0, 1)
        canvas, _ = self.network.preprocessor.canvas(torch.from_numpy(image.copy()), image.shape[1:], {})
        return {"canvases": canvas[None].numpy()}

    def _fixed_size(self) -> tuple[int, int] | None:
        preprocessor = self.network.preprocessor
        return None if preprocessor.test_resolution == "keep" else preprocessor.fixed_size


class ImageGraph(Graph):
    """Module from an (H, W, C) uint8 image to (K, ...) detections.

    Detections are in pixels of the image, by descending score. Rows that are no detections have score 0.
    """

    def forward(self, image: Tensor, *inputs: Tensor) -> Fields:
        pixels, size = image.permute(2, 0, 1), (image.shape[0], image.shape[1])
        named = dict(zip(self.example_inputs(), inputs, strict=True))
        canvas, geometry = self.network.preprocessor.canvas(pixels, size, named)
        fields = {name: values[0] for name, values in self.compute_fields(canvas[None]).items()}
        produced, valid = self.network.to_image(fields, geometry)
        outputs = {output_name(name): x for name, x in produced.items()}
        kept = valid & (outputs["scores"] > self.network.score_threshold)
        scores, order = torch.where(kept, outputs["scores"], 0).topk(kept.shape[0])
        return {name: scores if name == "scores" else x[order] for name, x in outputs.items()}

    def example_inputs(self) -> dict[str, Tensor]:
        """Return inputs of all properties."""
        return {
            name: torch.zeros(shape, dtype=torch.float64)
            for prop in self.network.properties
            for name, shape in prop.input_shapes.items()
        }

    def example(self) -> dict[str, Tensor]:
        return {"image": torch.zeros(75, 91, len(self.network.pixel_mean), dtype=torch.uint8), **self.example_inputs()}

    def read_inputs(self, record: DatasetDict) -> dict[str, np.ndarray]:
        defaults = {name: x for prop in self.network.properties for name, x in prop.default_inputs().items()}
        inputs = {name: np.asarray(record.get(name, default), np.float64) for name, default in defaults.items()}
        return {"image": read_image(record["file_name"], self.network.input_format), **inputs}

    def dynamic_shapes(self) -> list[dict[int, Any]]:
        dims = {axis: torch.export.Dim(name, min=1) for axis, name in enumerate(("height", "width"))}
        return [dims, *({} for _ in self.example_inputs())]


def build_graph(form: str, model: CenterNet | CenterNetWithTTA) -> Graph:
    """Build the module of a form, one of FORMS."""
    return (ImageGraph if form == "image" else CanvasGraph)(model).eval()
