"""Flip and multi-scale testing (original.md: Flip test, Merging scales)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn

from ..config.arguments import configurable, read_keys
from ..imaging.geometry import Geometry
from ..imaging.reading import read_image
from ..structures.types import DatasetDict, Maps
from ..utils.validation import ArgumentError, check_choice
from .meta_arch import CenterNet, unwrap
from .nms import SOFT_NMS_METHODS, merge_scales
from .preprocess import group_by_shape

__all__ = ["CenterNetWithTTA"]


class CenterNetWithTTA(nn.Module):
    """CenterNet with test-time augmentation (paper, section 5.1).

    It is called like Detectron2's GeneralizedRCNNWithTTA. Maps of an image and of its horizontal flip are
    averaged before decoding, see :meth:`PointHead.unflip`. Test scales are decoded separately and merged by soft-NMS.
    One group of images with the same canvas size is processed at a time, at one scale; results do not depend on the
    other images.
    """

    #: Mapping from constructor arguments to config keys.
    keys: ClassVar[Mapping[str, str]] = {
        "flip": "TEST.AUG.FLIP",
        "scales": "TEST.AUG.SCALES",
        "soft_nms": "TEST.AUG.SOFT_NMS",
        "keep_stale": "MODEL.CENTERNET.QUIRKS.KEEP_STALE",
    }

    @configurable
    def __init__(
        self,
        *,
        model: nn.Module,
        flip: bool = True,
        scales: Sequence[float] = (1.0,),
        soft_nms: str = "gaussian",
        keep_stale: bool = False,
        batch_size: int = 3,
    ) -> None:
        """
        Args:
            model: a CenterNet, which may be wrapped in DistributedDataParallel.
            flip: average maps with the maps of the flipped image.
            scales: resize factors of the images.
            soft_nms, keep_stale: options of merging scales, see :func:`centernet_d2.modeling.nms.merge_scales`.
            batch_size: maximum number of canvases in a batch.

        Raises:
            ValueError: if an argument is invalid, or a head does not support merging of scales.
        """
        super().__init__()
        self.model = unwrap(model)
        check_choice("soft_nms", soft_nms, SOFT_NMS_METHODS)
        _check_scales(scales, self.model)
        if batch_size < 1:
            raise ArgumentError("batch_size", f"is {batch_size}, but must be at least 1")
        self.flip = flip
        self.scales = tuple(scales)
        self.soft_nms = soft_nms
        self.keep_stale = keep_stale
        self.batch_size = batch_size
        self.train(self.model.training)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, model: CenterNet, tta_mapper: object = None, batch_size: int = 3
    ) -> dict[str, Any]:
        """Return the constructor arguments.

        `tta_mapper` is part of Detectron2's signature and must be None.
        """
        if tta_mapper is not None:
            raise ValueError(
                "CenterNetWithTTA does not support tta_mapper: set TEST.AUG.FLIP and TEST.AUG.SCALES instead"
            )
        return {**read_keys(cfg, cls.keys), "model": model, "batch_size": batch_size}

    @property
    def input_format(self) -> str:
        return self.model.input_format

    def forward(self, batched_inputs: Sequence[DatasetDict]) -> list[dict[str, Instances]]:
        """Detect objects, see :meth:`CenterNet.forward`.

        Inputs may have a ``file_name`` instead of an ``image``.
        """
        return self.inference(batched_inputs)

    def inference(self, batched_inputs: Sequence[DatasetDict], *, keep_heatmap: bool = False) -> list[dict[str, Any]]:
        """Detect objects, see :meth:`CenterNet.inference`.

        The returned heatmap is from the scale closest to 1.

        Raises:
            RuntimeError: if the model is in training mode.
        """
        if self.model.training:
            raise RuntimeError("test-time augmentation requires evaluation mode: call model.eval()")
        inputs = [x if "image" in x else {**x, "image": self._read(x["file_name"])} for x in batched_inputs]
        detections: list[list[Instances]] = [[] for _ in inputs]
        heatmaps: list[dict[str, Any]] = [{} for _ in inputs]
        heatmap_scale = min(range(len(self.scales)), key=lambda i: abs(self.scales[i] - 1)) if keep_heatmap else None
        for number, scale in enumerate(self.scales):
            for index, instances, heatmap, geometry in self._detect_at(inputs, scale):
                detections[index].append(instances)
                if number == heatmap_scale:
                    heatmaps[index] = {"heatmap": heatmap.amax(dim=0, keepdim=True), "geometry": geometry}
        return [{"instances": self.merge(own), **extra} for own, extra in zip(detections, heatmaps, strict=True)]

    def _read(self, file_name: str) -> Tensor:
        return torch.from_numpy(read_image(file_name, self.input_format).transpose(2, 0, 1).copy())

    def _detect_at(
        self, inputs: Sequence[DatasetDict], scale: float
    ) -> Iterator[tuple[int, Instances, Tensor, Geometry]]:
        """Yield index, detections, (C, h, w) heatmap and geometry of each image at one scale."""
        canvases, geometries = self.model.preprocessor.canvases(inputs, scale)
        for members in group_by_shape(canvases, self.batch_size):
            maps = self.compute_maps(self.model.preprocessor.batch([canvases[i] for i in members]))
            group = [geometries[i] for i in members]
            yield from zip(members, self.model.detect(maps, group), maps["heatmap"], group, strict=True)

    def compute_maps(self, canvases: Tensor) -> Maps:
        """Compute activated maps, averaged over flips (original.md: Flip test).

        Maps for which :meth:`PointHead.unflip` returns None are not averaged.

        Args:
            canvases: normalized (B, C, H, W) canvases.
        """
        maps = self.model.compute_test_maps(canvases)
        if not self.flip:
            return maps
        # A separate batch uses less memory, and gives bitwise the same maps as without flip testing.
        flipped = self.model.compute_test_maps(canvases.flip(-1))
        for head in self.model.heads.values():
            for name, unflipped in head.unflip(flipped).items():
                if unflipped is not None:
                    maps[name] = (maps[name] + unflipped) / 2
        return maps

    def merge(self, detections: Sequence[Instances]) -> Instances:
        """Merge detections of one image at several scales (original.md: Merging scales).

        Args:
            detections: detections of each scale.

        Returns:
            Merged detections, by descending score.
        """
        merged = detections[0]
        if len(detections) > 1:
            limited = all(head.limit_merged for head in self.model.heads.values())
            limit = self.model.max_detections if limited else None
            merged = merge_scales(detections, limit=limit, method=self.soft_nms, keep_stale=self.keep_stale)
            merged = merged[merged.scores.argsort(descending=True, stable=True)]
            merged = merged[merged.scores > self.model.score_threshold]
        return self.model.suppress(merged)


def _check_scales(scales: Sequence[float], model: CenterNet) -> None:
    """Check that test scales are valid, and that the heads support merging several of them.

    Raises:
        ValueError: if there is no scale, a scale is not positive, or several scales cannot be merged.
    """
    if not scales or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise ArgumentError("scales", f"is {scales}, but must be a list of positive factors such as (0.5, 1, 1.5)")
    if len(scales) == 1:
        return
    if not any("boxes" in head.provides for head in model.heads.values()):
        raise ArgumentError("scales", f"is {scales}, but merging several scales needs boxes: add BoxHead to the heads")
    if single := [name for name, head in model.heads.items() if not head.multi_scale]:
        raise ArgumentError(
            "scales", f"is {scales}, but {', '.join(single)} does not support merging of scales: set a single scale"
        )
