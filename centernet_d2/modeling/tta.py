"""Flip and multi-scale testing (original.md: Flip test, Merging scales; paper, section 5.1)."""

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
    """A CenterNet that looks at every image several times; called like Detectron2's GeneralizedRCNNWithTTA.

    The maps of an image and of its mirror image are averaged before decoding, by the heads' own rules. Test scales
    decode on their own and are merged by soft-NMS. At any time there is one scale and one group of images of the same
    canvas size in memory; a result does not depend on the other images of the list.
    """

    #: Argument -> config key.
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
            model: a CenterNet; may be wrapped in DistributedDataParallel.
            flip: average with the mirrored image.
            scales: factors by which images are resized.
            soft_nms, keep_stale: how scales are merged, see :func:`centernet_d2.modeling.nms.merge_scales`.
            batch_size: canvases that run together at most.

        Raises:
            ValueError: a parameter is unknown, or a head cannot be merged over scales.
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
        """`tta_mapper` is there for Detectron2's signature only: the model makes its own canvases."""
        if tta_mapper is not None:
            raise ValueError("CenterNetWithTTA takes no tta_mapper: TEST.AUG.FLIP and TEST.AUG.SCALES say what is done")
        return {**read_keys(cfg, cls.keys), "model": model, "batch_size": batch_size}

    @property
    def input_format(self) -> str:
        return self.model.input_format

    def forward(self, batched_inputs: Sequence[DatasetDict]) -> list[dict[str, Instances]]:
        """See :meth:`CenterNet.forward`; inputs may have a ``file_name`` instead of an ``image``."""
        return self.inference(batched_inputs)

    def inference(self, batched_inputs: Sequence[DatasetDict], *, keep_heatmap: bool = False) -> list[dict[str, Any]]:
        """See :meth:`CenterNet.inference`; the heatmap is that of the scale nearest to 1.

        Raises:
            RuntimeError: the model is in training mode.
        """
        if self.model.training:
            raise RuntimeError("test-time augmentation needs the model in evaluation mode: call model.eval()")
        inputs = [x if "image" in x else {**x, "image": self._read(x["file_name"])} for x in batched_inputs]
        found: list[list[Instances]] = [[] for _ in inputs]
        heatmaps: list[dict[str, Any]] = [{} for _ in inputs]
        shown = min(range(len(self.scales)), key=lambda i: abs(self.scales[i] - 1)) if keep_heatmap else None
        for number, scale in enumerate(self.scales):
            for index, instances, heatmap, geometry in self._detect_at(inputs, scale):
                found[index].append(instances)
                if number == shown:
                    heatmaps[index] = {"heatmap": heatmap.amax(dim=0, keepdim=True), "geometry": geometry}
        return [{"instances": self.merge(own), **extra} for own, extra in zip(found, heatmaps, strict=True)]

    def _read(self, file_name: str) -> Tensor:
        return torch.from_numpy(read_image(file_name, self.input_format).transpose(2, 0, 1).copy())

    def _detect_at(
        self, inputs: Sequence[DatasetDict], scale: float
    ) -> Iterator[tuple[int, Instances, Tensor, Geometry]]:
        """Index, detections, (C, h, w) heatmap and geometry of every image at one scale, group by group."""
        canvases, geometries = self.model.preprocessor.canvases(inputs, scale)
        for members in group_by_shape(canvases, self.batch_size):
            maps = self.compute_maps(self.model.preprocessor.batch([canvases[i] for i in members]))
            chosen = [geometries[i] for i in members]
            yield from zip(members, self.model.detect(maps, chosen), maps["heatmap"], chosen, strict=True)

    def compute_maps(self, canvases: Tensor) -> Maps:
        """Normalized (B, C, H, W) canvases -> activated maps, mirrored ones averaged in (original.md: Flip test).

        A map for which its head's :meth:`PointHead.unflip` gives None stays that of the upright canvas.
        """
        maps = self.model.compute_test_maps(canvases)
        if not self.flip:
            return maps
        # Not in one batch with the upright canvases: less memory, and sums of the same terms to the last bit.
        mirrored = self.model.compute_test_maps(canvases.flip(-1))
        for head in self.model.heads.values():
            for name, upright in head.unflip(mirrored).items():
                if upright is not None:
                    maps[name] = (maps[name] + upright) / 2
        return maps

    def merge(self, detections: Sequence[Instances]) -> Instances:
        """One image's detections, a set per scale -> one set, best first (original.md: Merging scales)."""
        merged = detections[0]
        if len(detections) > 1:
            limited = all(head.limit_merged for head in self.model.heads.values())
            limit = self.model.max_detections if limited else None
            merged = merge_scales(detections, limit=limit, method=self.soft_nms, keep_stale=self.keep_stale)
            merged = merged[merged.scores.argsort(descending=True, stable=True)]
            merged = merged[merged.scores > self.model.score_threshold]
        return self.model.suppress(merged)


def _check_scales(scales: Sequence[float], model: CenterNet) -> None:
    """Check that the test scales are valid and that the heads support merging them, which compares boxes.

    Raises:
        ValueError: there is no scale, one is not positive, or there are several that cannot be merged.
    """
    if not scales or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise ArgumentError("scales", f"is {scales}, but must be positive factors such as (0.5, 1, 1.5)")
    if len(scales) == 1:
        return
    if not any("boxes" in head.provides for head in model.heads.values()):
        raise ArgumentError("scales", f"is {scales}, but several scales need boxes to be merged: add BoxHead")
    if single := [name for name, head in model.heads.items() if not head.multi_scale]:
        raise ArgumentError("scales", f"is {scales}, but detections of {', '.join(single)} cannot be merged; set one")
