"""CenterNet meta-architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, cast

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, Backbone
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config.arguments import configurable, read_keys
from ..config.keys import check_keys
from ..config.registry import lookup
from ..config.unread import warn_about_unread_keys
from ..imaging.geometry import Geometry
from ..imaging.visualization import draw_training
from ..structures.points import Peaks, Points
from ..structures.types import DatasetDict, Fields, Maps, Targets
from ..utils.validation import ArgumentError, check_choice
from .backbone.trunk import freeze_stages
from .checks import check_classes, check_fields, check_finite, check_heads
from .heads.build import build_point_heads
from .heads.point_head import PointHead, Property
from .heatmap import RADIUS_POLICIES, top_peaks
from .nms import NMS_MODES, suppress
from .points import build_points
from .preprocess import Preprocessor, group_by_shape

__all__ = ["CenterNet", "unwrap"]

INPUT_FORMATS = ("BGR", "RGB")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@META_ARCH_REGISTRY.register()
class CenterNet(nn.Module):
    """Detector that represents objects as points (arXiv 1904.07850).

    A backbone computes a feature map, from which point heads predict a heatmap of object centers and the properties of
    objects at its peaks.
    """

    #: Mapping from constructor arguments to config keys.
    keys: ClassVar[Mapping[str, str]] = {
        "heads": "MODEL.CENTERNET.HEADS",
        "pixel_mean": "MODEL.PIXEL_MEAN",
        "pixel_std": "MODEL.PIXEL_STD",
        "gaussian_radius": "MODEL.CENTERNET.QUIRKS.GAUSSIAN_RADIUS",
        "radius_round_up": "MODEL.CENTERNET.QUIRKS.RADIUS_ROUND_UP",
        "vis_period": "VIS_PERIOD",
        "input_format": "INPUT.FORMAT",
        "max_detections": "TEST.DETECTIONS_PER_IMAGE",
        "score_threshold": "MODEL.CENTERNET.SCORE_THRESH_TEST",
        "test_resolution": "MODEL.CENTERNET.TEST_RESOLUTION",
        "fixed_size": "INPUT.AFFINE.SIZE",
        "nms": "TEST.NMS",
        "nms_threshold": "TEST.NMS_THRESH",
        "channels_last": "MODEL.CENTERNET.CHANNELS_LAST",
        "compiled": "MODEL.CENTERNET.COMPILE",
        "precision": "TEST.PRECISION",
    }

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        heads: Sequence[PointHead] | Mapping[str, PointHead],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        # Training parameters:
        gaussian_radius: str = "original",
        radius_round_up: bool = True,
        vis_period: int = 0,
        input_format: str = "BGR",
        # Inference parameters:
        max_detections: int = 100,
        score_threshold: float = 0.0,
        test_resolution: str = "keep",
        fixed_size: tuple[int, int] = (512, 512),
        nms: str = "",
        nms_threshold: float = 0.5,
        channels_last: bool | str = "auto",
        compiled: bool = False,
        precision: str = "float32",
    ) -> None:
        """
        Args:
            backbone: returns one feature map per supervised stack, ``{"stack_0": ..., "stack_1": ...}``, all of the
                same shape; inference uses the last one.
            heads: point heads in decoding order. State dicts use the keys of a mapping, or the class names of heads.
            pixel_mean, pixel_std: mean and standard deviation per channel, in 0..255.
            gaussian_radius: "original" or "corrected", see :func:`centernet_d2.modeling.heatmap.gaussian_radius`.
            radius_round_up: see :func:`centernet_d2.modeling.points.build_points`.
            vis_period: number of iterations between training visualizations in TensorBoard; 0 disables them.
            input_format: "BGR" or "RGB", for visualizations.
            max_detections: number of decoded peaks per image.
            score_threshold: detections with a lower or equal score are dropped.
            test_resolution, fixed_size: see :class:`Preprocessor`.
            nms: "", "class" or "agnostic", see :func:`centernet_d2.modeling.nms.suppress`.
            nms_threshold: IoU threshold of NMS.
            channels_last: use the channels-last memory format, which changes the speed but not the results; "auto": if
                `precision` is a half precision. A config enables it with SOLVER.AMP.ENABLED, too.
            compiled: compile the network (and the losses in training) with ``torch.compile`` at the first batch of
                each size.
            precision: precision of inference: "float32", or "bfloat16" or "float16" with autocast; "auto" is float32,
                unless :class:`centernet_d2.Predictor` builds the model. Maps are always float32.

        Raises:
            ValueError: if an argument is invalid or incompatible with another one.
        """
        super().__init__()
        named = _with_names(heads)
        check_heads(named)
        check_choice("nms", nms, NMS_MODES)
        if nms and not any("boxes" in head.provides for _, head in named):
            raise ArgumentError("nms", f"is '{nms}', but NMS needs boxes: add BoxHead to the heads")
        check_choice("gaussian_radius", gaussian_radius, RADIUS_POLICIES)
        check_choice("input_format", input_format, INPUT_FORMATS)
        check_choice("precision", precision, PRECISIONS)
        check_choice("channels_last", channels_last, ("auto", True, False))
        self.backbone = backbone
        # nn.ModuleDict has no type parameter for its values.
        self.heads = cast(Mapping[str, PointHead], nn.ModuleDict(dict(named)))
        self.stride = backbone.output_shape()["stack_0"].stride
        self.preprocessor = Preprocessor(
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            size_divisibility=backbone.size_divisibility,
            stride=self.stride,
            properties=self.properties,
            test_resolution=test_resolution,
            fixed_size=fixed_size,
        )
        self.gaussian_radius = gaussian_radius
        self.radius_round_up = radius_round_up
        self.vis_period = vis_period
        self.input_format = input_format
        self.max_detections = max_detections
        self.score_threshold = score_threshold
        self.nms = nms
        self.nms_threshold = nms_threshold
        self.compiled = compiled
        self.precision = "float32" if precision == "auto" else precision
        if channels_last == "auto":
            channels_last = self.precision != "float32"
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        check_keys(cfg)
        warn_about_unread_keys(cfg)
        build_backbone = lookup(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
        backbone = build_backbone(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
        freeze_stages(backbone, cfg.MODEL.TRUNK_FROZEN_STAGES)
        stacks = backbone.output_shape()
        heads = build_point_heads(cfg, stacks["stack_0"], len(stacks))
        arguments = read_keys(cfg, cls.keys)
        if cfg.SOLVER.AMP.ENABLED and arguments["channels_last"] == "auto":
            arguments["channels_last"] = True
        return {**arguments, "backbone": backbone, "heads": heads}

    @property
    def pixel_mean(self) -> Tensor:
        return self.preprocessor.pixel_mean

    @property
    def pixel_std(self) -> Tensor:
        return self.preprocessor.pixel_std

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def properties(self) -> list[Property]:
        """Properties of the heads, in the same order."""
        return [head.prop for head in self.heads.values()]

    @property
    def input_keys(self) -> list[str]:
        """Input keys of all properties."""
        return [key for prop in self.properties for key in prop.input_keys]

    @property
    def num_classes(self) -> int:
        return next(head.maps["heatmap"] for head in self.heads.values() if "heatmap" in head.maps)

    def forward(self, batched_inputs: Sequence[DatasetDict]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Compute losses in training, or detect objects at inference.

        Args:
            batched_inputs: Detectron2's format: ``image`` (C, H, W) in 0..255 and, in training, ``instances`` with
                ``gt_boxes``, ``gt_classes`` and the fields of the heads; ``unlabeled`` and ``labeled_classes`` for
                partially labeled datasets, see :class:`Points`; ``color``, a pending (C, C + 1) color transform. At
                inference, ``height`` and ``width`` are the size of the original image if ``image`` was resized.
                Properties may have additional inputs, see :attr:`input_keys`.

        Returns:
            Weighted losses in training; ``[{"instances": Instances}]`` in pixels of the original images at inference.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocessor.training_batch(batched_inputs).tensor
        height, width = images.shape[-2:]
        targets = self.targets(*self.ground_truth(batched_inputs, (height // self.stride, width // self.stride)))
        maps, losses = self._graph(CenterNet.compute_losses)(self, images, targets)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            visualize_training(self, batched_inputs[0], maps[-1])
        return losses

    def _graph(self, method: Callable) -> Callable:
        """Return a method of this class, compiled if `compiled` is set."""
        return _compiled(method) if self.compiled else method

    def compute_losses(self, images: Tensor, targets: Mapping[str, Targets]) -> tuple[list[Maps], dict[str, Tensor]]:
        """Compute the raw maps of all stacks, and the losses.

        Compiles to a single graph without breaks, because no control flow depends on values. Only with
        MODEL.HOURGLASS.CHECKPOINT, there are graph breaks at recomputed blocks.

        Args:
            images: normalized (B, C, H, W) images.
            targets: output of :meth:`targets`.
        """
        maps = self.compute_maps(images)
        return maps, self.losses(maps, targets)

    def compute_maps(self, images: Tensor) -> list[Maps]:
        """Compute the raw maps of all stacks from normalized (B, C, H, W) images."""
        features = self.backbone(images.contiguous(memory_format=self.memory_format))
        return [self._head_maps(feature, stack) for stack, feature in enumerate(features.values())]

    def compute_test_maps(self, images: Tensor) -> Maps:
        """Compute activated maps of the last stack from normalized images."""
        images = images.contiguous(memory_format=self.memory_format)
        if self.precision == "float32":
            return self.activate(self._head_maps(list(self.backbone(images).values())[-1], -1))
        with torch.autocast(images.device.type, dtype=getattr(torch, self.precision)):
            maps = self._head_maps(list(self.backbone(images).values())[-1], -1)
        return self.activate({name: tensor.float() for name, tensor in maps.items()})

    def _head_maps(self, feature: Tensor, stack: int) -> Maps:
        return {name: tensor for head in self.heads.values() for name, tensor in head(feature, stack).items()}

    def activate(self, maps: Maps) -> Maps:
        """Apply the activations of inference to raw maps."""
        return {name: tensor for head in self.heads.values() for name, tensor in head.activate(maps).items()}

    def build_points(self, gt: Sequence[Instances], map_size: Sequence[int], **labels: Any) -> Points:
        """Convert the annotated objects of a batch to points.

        See :func:`centernet_d2.modeling.points.build_points`, also for `labels`.
        """
        return build_points(
            gt, map_size, self.stride, radius_policy=self.gaussian_radius, round_up=self.radius_round_up, **labels
        )

    def ground_truth(
        self, batched_inputs: Sequence[DatasetDict], map_size: Sequence[int]
    ) -> tuple[list[Instances], Points]:
        """Return instances and points of a training batch, on the model's device.

        Raises:
            ValueError: if the class of an object is out of range.
        """
        for x in batched_inputs:
            check_classes(x, self.num_classes)
        gt = [x["instances"] for x in batched_inputs]
        classes = None
        if masks := [x["labeled_classes"] for x in batched_inputs if "labeled_classes" in x]:
            all_classes = torch.ones_like(masks[0])
            classes = torch.stack([x.get("labeled_classes", all_classes) for x in batched_inputs])
        unlabeled = [x.get("unlabeled", ()) for x in batched_inputs]
        # Computed on the device of the annotations, the CPU, so that object sizes are known without synchronization.
        points = self.build_points(gt, map_size, unlabeled=unlabeled, labeled_classes=classes)
        return [instances.to(self.device) for instances in gt], points.to(self.device)

    def targets(self, gt: Sequence[Instances], points: Points) -> dict[str, Targets]:
        """Build the targets of each head, by head name.

        Args:
            gt, points: output of :meth:`ground_truth`.
        """
        return {name: head.targets(gt, points) for name, head in self.heads.items()}

    def losses(self, maps: Sequence[Maps], targets: Mapping[str, Targets]) -> dict[str, Tensor]:
        """Compute losses of all heads, averaged over stacks (original.md: Total loss).

        Args:
            maps: raw maps of all stacks.
            targets: output of :meth:`targets`.

        Raises:
            ValueError: if two heads have a loss of the same name.
        """
        losses: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            per_stack = [head.losses(stack, targets[name]) for stack in maps]
            if duplicates := losses.keys() & per_stack[0].keys():
                raise ValueError(
                    f"losses of {name} are also losses of an earlier head: {', '.join(sorted(duplicates))}"
                )
            losses.update(
                {loss: torch.stack([stack[loss] for stack in per_stack]).mean(dim=0) for loss in per_stack[0]}
            )
        return losses

    def inference(self, batched_inputs: Sequence[DatasetDict], *, keep_heatmap: bool = False) -> list[dict[str, Any]]:
        """Detect objects.

        Images with the same canvas size are batched. Results do not depend on the other images.

        Args:
            batched_inputs: see :meth:`forward`.
            keep_heatmap: also return ``heatmap`` (1, h, w), the maximum over the classes of the center heatmap, and
                ``geometry``.
        """
        canvases, geometries = self.preprocessor.canvases(batched_inputs)
        results: list[dict[str, Any]] = [{} for _ in canvases]
        for members in group_by_shape(canvases):
            maps = self._graph(CenterNet.compute_test_maps)(
                self, self.preprocessor.batch([canvases[i] for i in members])
            )
            detections = self.detect(maps, [geometries[i] for i in members])
            for index, instances, heatmap in zip(members, detections, maps["heatmap"], strict=True):
                results[index]["instances"] = self.suppress(instances)
                if keep_heatmap:
                    results[index].update(heatmap=heatmap.amax(dim=0, keepdim=True), geometry=geometries[index])
        return results

    def suppress(self, instances: Instances) -> Instances:
        """Apply the configured NMS to the detections of one image."""
        return suppress(instances, self.nms, self.nms_threshold)

    def detect(self, maps: Maps, geometries: Sequence[Geometry]) -> list[Instances]:
        """Convert activated maps to detections in pixels of the original images.

        Raises:
            FloatingPointError: if a map contains NaN, or a detection has an infinite value.
        """
        fields = self.decode(maps)
        detected = fields["scores"] > self.score_threshold
        check_finite(maps, fields, detected)
        results = []
        for index, geometry in enumerate(geometries):
            rows = detected[index].nonzero()[:, 0]
            image_fields = {name: tensor[index][rows] for name, tensor in fields.items()}
            produced, valid = self.to_image(image_fields, geometry)
            results.append(self.to_instances(produced, geometry.image_size)[valid])
        return results

    def to_instances(self, produced: Fields, image_size: tuple[int, int]) -> Instances:
        """Convert (N, ...) tensors from :meth:`to_image` to the fields of ``Instances``."""
        converters = {field: one for head in self.heads.values() for field, one in head.converters.items()}
        instances = Instances(image_size)
        for field, value in produced.items():
            instances.set(field, converters[field](value) if field in converters else value)
        return instances

    def to_image(self, fields: Fields, geometry: Geometry) -> tuple[Fields, Tensor]:
        """Convert decoded (K, ...) fields to pixels of the original image.

        All operations can be exported.

        Returns:
            (K, ...) tensors under the names of their ``Instances`` fields, and (K,) bool, True for valid detections.
        """
        results: Fields = {}
        valid = torch.ones_like(fields["scores"], dtype=torch.bool)
        for name, head in self.heads.items():
            produced = head.to_image(fields, geometry)
            check_fields(name, head, produced)
            results.update(produced)
            if (own := head.valid(produced)) is not None:
                valid = valid & own
        return results, valid

    def decode(self, maps: Maps) -> Fields:
        """Decode activated maps at the K best peaks into (B, K, ...) fields.

        Fields are in map pixels. Shapes only depend on the shapes of the maps, so this can be exported.
        """
        peaks = Peaks(*top_peaks(maps["heatmap"], self.max_detections))
        fields: Fields = {}
        for head in self.heads.values():
            fields.update(head.decode(maps, peaks, fields))
        return fields


@cache
def _compiled(function: Callable) -> Callable:
    """Compile a function of a model and tensors.

    An unbound function, so that copies of a model use their own weights.
    """
    return torch.compile(function)


@torch.no_grad()
def visualize_training(model: CenterNet, record: DatasetDict, maps: Maps) -> None:
    """Visualize ground truth, predictions and heatmap in the event storage.

    Args:
        model: the model.
        record: dataset dict of the first image of the batch.
        maps: raw maps of the batch.
    """
    maps = model.activate({name: tensor[:1] for name, tensor in maps.items()})
    batch = model.preprocessor.training_batch([record])
    size = batch.image_sizes[0]
    # Includes the color transforms.
    image = (batch[0] * model.pixel_std + model.pixel_mean).round()
    to_image = torch.tensor([[model.stride, 0, 0], [0, model.stride, 0]], dtype=torch.float64)
    # Already validated by the mapper.
    inputs = {key: record[key] for key in model.input_keys if key in record}
    drawn = draw_training(
        image,
        model.input_format,
        record["instances"],
        model.detect(maps, [Geometry(size, size, to_image, inputs)])[0],
        maps["heatmap"][0],
        model.stride,
        properties=model.properties,
        inputs=inputs,
    )
    get_event_storage().put_image("ground truth, predictions, heatmap", drawn)


def unwrap(model: nn.Module) -> CenterNet:
    """Return the CenterNet inside DistributedDataParallel, or the model itself."""
    return cast(CenterNet, model.module if isinstance(model, DistributedDataParallel) else model)


def _with_names(heads: Sequence[PointHead] | Mapping[str, PointHead]) -> list[tuple[str, PointHead]]:
    """Return pairs of name and head; names are the keys of a mapping, or class names."""
    return list(heads.items()) if isinstance(heads, Mapping) else [(type(head).__name__, head) for head in heads]
