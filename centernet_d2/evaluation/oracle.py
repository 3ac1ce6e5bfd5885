"""Oracle evaluation: selected maps are replaced by their ground truth.

This is the error analysis of the paper (original.md: Oracle).
"""

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

__all__ = ["OracleCenterNet", "OracleMapper", "check_map_names", "fill_from_nearest"]


class OracleMapper(CenterNetDatasetMapper):
    """Mapper for testing that keeps annotations and can transform them to the canvas."""

    def __call__(self, dataset_dict: dict) -> dict:
        return {**super().__call__(dataset_dict), "annotations": dataset_dict.get("annotations", [])}

    def annotate_canvas(self, inputs: dict, geometry: Geometry, stride: int) -> Instances:
        """Convert the annotations of an image to ``gt_*`` fields in canvas pixels.

        Args:
            inputs: output of this mapper.
            geometry: geometry of the image.
            stride: canvas pixels per map pixel.
        """
        to_canvas = invert_affine(geometry.to_image.numpy()) * np.array(stride, dtype=np.float64)
        transform = AffineTransform(to_canvas, geometry.image_size, geometry.input_size)
        # Regions to ignore are not objects.
        return known_objects(self.annotate(inputs, TransformList([transform]), geometry.input_size))


def fill_from_nearest(target: SparseTarget, predicted: Tensor) -> Tensor:
    """Fill a map with the ground truth of the nearest object (original.md: Oracle).

    The distance is the Manhattan distance; the first of equally near objects is used. Every channel uses the objects
    with a positive weight in this channel. Without such objects in an image, the prediction is kept.

    Args:
        target: values at cells.
        predicted: (B, D, H, W) map.

    Returns:
        New (B, D, H, W) map.

    Raises:
        ValueError: the number of channels differs between target and map.
    """
    channels, height, width = predicted.shape[1:]
    if target.value.shape[1] != channels:
        raise ValueError(f"the ground truth has {target.value.shape[1]} channels, but the map has {channels}")
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


def insert_target(target: DenseTarget | SparseTarget, predicted: Tensor) -> Tensor:
    """Return a (B, D, H, W) map with the ground truth where it is known.

    Raises:
        ValueError: the shape differs between target and map.
    """
    if isinstance(target, SparseTarget):
        return fill_from_nearest(target, predicted)
    if target.value.shape != predicted.shape:
        raise ValueError(
            f"the ground truth has shape {tuple(target.value.shape)}, but the map has {tuple(predicted.shape)}"
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
    """Replace selected activated maps of a batch by their ground truth.

    Raises:
        ValueError: a map has no ground truth, or a ground truth with another shape.
    """
    targets = {name: target for head in heads.values() for name, target in head.targets(gt, points).items()}
    maps = dict(predicted)
    for name in names:
        if name not in targets:
            raise ValueError(f"no ground truth is available for the map '{name}'; remove it from the oracle maps")
        try:
            maps[name] = insert_target(targets[name], maps[name])
        except ValueError as error:
            raise ValueError(f"cannot replace the map '{name}' by its ground truth: {error}") from error
    return maps


def check_map_names(argument: str, names: Sequence[str], model: nn.Module) -> None:
    """Check that a model has maps of the given names.

    Raises:
        ValueError: a map does not exist; the message contains `argument`, the name of an argument or config key.
    """
    known = sorted(name for head in unwrap(model).heads.values() for name in head.maps)
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"{argument}: unknown maps {', '.join(unknown)}; known: {', '.join(known)}")


class OracleCenterNet(nn.Module):
    """CenterNet that replaces selected maps by their ground truth.

    Its inputs are outputs of :class:`OracleMapper`.
    """

    def __init__(self, *, model: nn.Module, names: Sequence[str], mapper: OracleMapper) -> None:
        """
        Args:
            model: a CenterNet, optionally wrapped in DistributedDataParallel.
            names: names of the maps to replace.
            mapper: transforms annotations to the canvas.

        Raises:
            ValueError: a map does not exist.
        """
        super().__init__()
        self.model = unwrap(model)
        check_map_names("names", names, self.model)
        self.names = tuple(names)
        self.mapper = mapper
        self.train(self.model.training)

    def forward(self, batched_inputs: Sequence[DatasetDict]) -> list[dict[str, Instances]]:
        """Run inference, see :meth:`CenterNet.forward`.

        The inputs must have ``annotations`` and a ``file_name``.
        """
        canvases, geometries = self.model.preprocessor.canvases(batched_inputs)
        results = []
        for inputs, canvas, geometry in zip(batched_inputs, canvases, geometries, strict=True):
            maps = self.model.compute_test_maps(self.model.preprocessor.batch([canvas]))
            gt = [self.mapper.annotate_canvas(inputs, geometry, self.model.stride).to(self.model.device)]
            points = self.model.build_points(gt, maps["heatmap"].shape[-2:])
            maps = oracle_maps(self.model.heads, self.names, maps, gt, points)
            results.append({"instances": self.model.suppress(self.model.detect(maps, [geometry])[0])})
        return results
