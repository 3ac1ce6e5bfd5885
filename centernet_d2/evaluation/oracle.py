"""What if a map were perfect? Maps replaced by their ground truth (paper's error analysis; original.md: Oracle)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.data.transforms import TransformList
from detectron2.structures import Instances
from torch import Tensor, nn

from ..data.mapper import CenterNetDatasetMapper
from ..imaging.geometry import Geometry, invert_affine
from ..imaging.transforms import AffineTransform
from ..modeling import PointHead
from ..modeling.meta_arch import unwrap
from ..structures.points import DenseTarget, Points, SparseTarget, known_objects
from ..structures.types import DatasetDict, Maps

__all__ = ["OracleCenterNet", "OracleMapper", "check_map_names", "spread"]


class OracleMapper(CenterNetDatasetMapper):
    """A mapper for testing that keeps the annotations, and can move them to where the model has the image."""

    def __call__(self, dataset_dict: dict) -> dict:
        return {**super().__call__(dataset_dict), "annotations": dataset_dict.get("annotations", [])}

    def on_canvas(self, inputs: dict, geometry: Geometry, stride: int) -> Instances:
        """The annotations of an image as ``gt_*`` fields in pixels of its test canvas.

        Args:
            inputs: from this mapper.
            geometry: of the image.
            stride: canvas pixels per map pixel.
        """
        to_canvas = invert_affine(geometry.to_image.numpy()) * np.array(stride, dtype=np.float64)
        transform = AffineTransform(to_canvas, geometry.image_size, geometry.input_size)
        # Some policies mark regions to ignore in the heatmap.
        return known_objects(self.annotate(inputs, TransformList([transform]), geometry.input_size))


def spread(target: SparseTarget, predicted: Tensor) -> Tensor:
    """Values known at the objects' cells, spread: each cell takes that of the nearest object (original.md: Oracle).

    Distances are counted in steps to one of four neighbours; of equal ones the first object wins. Every channel has its
    own set of objects, those with a weight in it. Where an image has none, the prediction stays.

    Args:
        target: values at cells.
        predicted: (B, D, H, W) map.

    Returns:
        A new (B, D, H, W) map.

    Raises:
        ValueError: the target has other channels than the map.
    """
    channels, height, width = predicted.shape[1:]
    if target.value.shape[1] != channels:
        raise ValueError(f"the ground truth has {target.value.shape[1]} channels and the map {channels}")
    rows, columns = (torch.arange(size, device=predicted.device) for size in (height, width))
    nearest = predicted.new_full(predicted.shape, height + width)
    result = predicted.clone()
    for image, (x, y), value, known in zip(
        target.image.tolist(), target.cells.tolist(), target.value.to(predicted), target.weight > 0, strict=True
    ):
        distance = ((rows - y).abs()[:, None] + (columns - x).abs()).to(predicted)
        closer = (distance < nearest[image]) & known[:, None, None]
        nearest[image] = torch.where(closer, distance, nearest[image])
        result[image] = torch.where(closer, value[:, None, None], result[image])
    return result


def wanted(target: DenseTarget | SparseTarget, predicted: Tensor) -> Tensor:
    """A (B, D, H, W) map as a target wants it; where nothing is known, the prediction stays.

    Raises:
        ValueError: the target has another shape than the map.
    """
    if isinstance(target, SparseTarget):
        return spread(target, predicted)
    if target.value.shape != predicted.shape:
        raise ValueError(
            f"the ground truth has the shape {tuple(target.value.shape)}, the map {tuple(predicted.shape)}"
        )
    value = target.value.to(predicted)
    return value if target.weight is None else torch.where(target.weight > 0, value, predicted)


def oracle_maps(
    heads: Mapping[str, PointHead],
    names: Sequence[str],
    predicted: Maps,
    gt: Sequence[Instances],
    points: Points,
) -> Maps:
    """Activated maps of a batch with those of the given names replaced by what the heads want them to be.

    Raises:
        ValueError: a head has no ground truth for its map, or one of another shape.
    """
    targets = {name: target for head in heads.values() for name, target in head.targets(gt, points).items()}
    maps = dict(predicted)
    for name in names:
        if name not in targets:
            raise ValueError(f"the oracle finds no ground truth for the map '{name}'")
        try:
            maps[name] = wanted(targets[name], maps[name])
        except ValueError as error:
            raise ValueError(f"the oracle cannot replace the map '{name}': {error}") from error
    return maps


def check_map_names(argument: str, names: Sequence[str], model: nn.Module) -> None:
    """Raise a ValueError that names the argument, or the config key, unless the model has maps of all these names."""
    known = sorted(name for head in unwrap(model).heads.values() for name in head.maps)
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"{argument}: no map is called {', '.join(unknown)}; known: {', '.join(known)}")


class OracleCenterNet(nn.Module):
    """A CenterNet that is told the ground truth of some of its maps; reads what :class:`OracleMapper` makes."""

    def __init__(self, *, model: nn.Module, names: Sequence[str], mapper: OracleMapper) -> None:
        """
        Args:
            model: a CenterNet; may be wrapped in DistributedDataParallel.
            names: maps to replace.
            mapper: moves annotations onto the canvas.

        Raises:
            ValueError: the model has no such map.
        """
        super().__init__()
        self.model = unwrap(model)
        check_map_names("names", names, self.model)
        self.names = tuple(names)
        self.mapper = mapper
        self.train(self.model.training)

    def forward(self, batched_inputs: Sequence[DatasetDict]) -> list[dict[str, Instances]]:
        """See :meth:`CenterNet.forward`; the inputs have ``annotations`` and a ``file_name``."""
        canvases, geometries = self.model.preprocessor.canvases(batched_inputs)
        results = []
        for inputs, canvas, geometry in zip(batched_inputs, canvases, geometries, strict=True):
            maps = self.model.compute_test_maps(self.model.preprocessor.batch([canvas]))
            gt = [self.mapper.on_canvas(inputs, geometry, self.model.stride).to(self.model.device)]
            points = self.model.build_points(gt, maps["heatmap"].shape[-2:])
            maps = oracle_maps(self.model.heads, self.names, maps, gt, points)
            results.append({"instances": self.model.suppress(self.model.detect(maps, [geometry])[0])})
        return results
