"""The meta-architecture: backbone, point heads and the way between images and maps. Nothing in it knows a task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config.keys import check_keys
from ..config.loading import read_choice
from ..config.registry import lookup
from ..config.unread import warn_of_unread_keys
from ..imaging.geometry import Geometry, fixed_canvas, keep_canvas
from ..imaging.visualization import draw_training
from ..structures.points import Peaks, Points
from ..structures.types import DatasetDict, Fields, Maps, Targets
from ..utils.validation import check_choice
from .heads.build import build_point_heads
from .heads.point_head import PointHead, Property
from .heatmap import RADIUS_POLICIES, top_peaks
from .nms import NMS_MODES, suppress
from .points import build_points

__all__ = ["CenterNet", "group_by_shape", "unwrap"]

INPUT_FORMATS = ("BGR", "RGB")
TEST_RESOLUTIONS = ("keep", "fixed", "fixed_width")
PRECISIONS = ("float32", "bfloat16", "float16")

# Nothing of an image is as large, and on the way to its pixels it would overflow.
_INFINITE = 1e30


@META_ARCH_REGISTRY.register()
class CenterNet(nn.Module):
    """Objects as points (arXiv 1904.07850): one feature map, a heatmap of centers, properties read at its peaks."""

    pixel_mean: Tensor
    pixel_std: Tensor

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
        channels_last: bool = False,
        compiled: bool = False,
        precision: str = "float32",
    ) -> None:
        """
        Args:
            backbone: gives one feature map per supervised stack, ``{"stack_0": ..., "stack_1": ...}``, all of the same
                shape; the last one is used at inference.
            heads: point heads in the order in which they decode; in state dicts they have the names of their classes,
                or those of a mapping.
            pixel_mean, pixel_std: per channel, in 0..255.
            gaussian_radius: "original" or "corrected", see :func:`centernet_d2.modeling.heatmap.gaussian_radius`.
            radius_round_up: see :func:`centernet_d2.modeling.points.build_points`.
            vis_period: iterations between two pictures of training for TensorBoard; 0 draws none.
            input_format: "BGR" or "RGB", for those pictures.
            max_detections: number of peaks that are decoded.
            score_threshold: detections must score above this.
            test_resolution: "keep", "fixed" or "fixed_width" (original.md: Test resolution).
            fixed_size: height and width of the canvas unless "keep".
            nms: "", "class" or "agnostic", see :func:`centernet_d2.modeling.nms.suppress`.
            nms_threshold: intersection over union for it.
            channels_last: keep weights and maps with the channels of a cell side by side; same results, other speed.
            compiled: let torch compile the network with its losses, and the network alone at inference. The first batch
                waits for that, and the first of another size once more.
            precision: of the network at inference: "float32" computes as it is told to, "bfloat16" and "float16" in
                autocast. Maps are float32 either way.

        Raises:
            ValueError: a parameter is unknown or does not fit another.
        """
        super().__init__()
        named = _named(heads)
        _check_parts(backbone, named, nms, fixed_size)
        check_choice("gaussian_radius", gaussian_radius, RADIUS_POLICIES)
        check_choice("test_resolution", test_resolution, TEST_RESOLUTIONS)
        check_choice("input_format", input_format, INPUT_FORMATS)
        check_choice("precision", precision, PRECISIONS)
        self.backbone = backbone
        # A ModuleDict does not say what it holds.
        self.heads = cast(Mapping[str, PointHead], nn.ModuleDict(dict(named)))
        self.stride = backbone.output_shape()["stack_0"].stride
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.gaussian_radius = gaussian_radius
        self.radius_round_up = radius_round_up
        self.vis_period = vis_period
        self.input_format = input_format
        self.max_detections = max_detections
        self.score_threshold = score_threshold
        self.test_resolution = test_resolution
        self.fixed_size = (fixed_size[0], fixed_size[1])
        self.nms = nms
        self.nms_threshold = nms_threshold
        self.compiled = compiled
        self.precision = precision
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        check_keys(cfg)
        warn_of_unread_keys(cfg)
        build_backbone = lookup(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
        backbone = build_backbone(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
        stacks = backbone.output_shape()
        heads = build_point_heads(cfg, stacks["stack_0"], len(stacks))
        keys = ("MODEL.CENTERNET.HEADS", "TEST.NMS", "INPUT.AFFINE.SIZE")
        _check_parts(backbone, _named(heads), cfg.TEST.NMS, cfg.INPUT.AFFINE.SIZE, keys)
        return {
            "backbone": backbone,
            "heads": heads,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "gaussian_radius": read_choice(cfg, "MODEL.CENTERNET.GAUSSIAN_RADIUS", RADIUS_POLICIES),
            "radius_round_up": cfg.MODEL.CENTERNET.RADIUS_ROUND_UP,
            "vis_period": cfg.VIS_PERIOD,
            "input_format": read_choice(cfg, "INPUT.FORMAT", INPUT_FORMATS),
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "score_threshold": cfg.MODEL.CENTERNET.SCORE_THRESH_TEST,
            "test_resolution": read_choice(cfg, "MODEL.CENTERNET.TEST_RESOLUTION", TEST_RESOLUTIONS),
            "fixed_size": cfg.INPUT.AFFINE.SIZE,
            "nms": cfg.TEST.NMS,
            "nms_threshold": cfg.TEST.NMS_THRESH,
            "channels_last": cfg.MODEL.CENTERNET.CHANNELS_LAST,
            "compiled": cfg.MODEL.CENTERNET.COMPILE,
            "precision": read_choice(cfg, "TEST.PRECISION", PRECISIONS),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def properties(self) -> list[Property]:
        """What the heads predict, outside the network; in their order."""
        return [head.prop for head in self.heads.values()]

    @property
    def input_keys(self) -> list[str]:
        """What images may have for the properties beside their pixels."""
        return [key for prop in self.properties for key in prop.input_keys]

    @property
    def num_classes(self) -> int:
        return next(head.maps["heatmap"] for head in self.heads.values() if "heatmap" in head.maps)

    def forward(self, batched_inputs: Sequence[DatasetDict]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: Detectron2's format: ``image`` (C, H, W) in 0..255 and, in training, ``instances`` with
                ``gt_boxes``, ``gt_classes`` and whatever the heads need; ``unlabelled`` and ``labelled_classes`` say
                what its data set does not label, see :class:`Points`; ``color``, (C, C + 1), is a change of colours
                that the image waits for. At inference ``height`` and ``width`` may name the size of the original image,
                if ``image`` is not it. Properties may have further inputs.

        Returns:
            In training the weighted losses; at inference ``[{"instances": Instances}]`` in original pixels.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_training(batched_inputs).tensor
        height, width = images.shape[-2:]
        targets = self.targets(*self.ground_truth(batched_inputs, (height // self.stride, width // self.stride)))
        maps, losses = self._graph(CenterNet.compute_losses)(self, images, targets)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, maps[-1])
        return losses

    def _graph(self, method: Callable) -> Callable:
        """A method of this class, which torch has compiled if the model is to be."""
        return _compiled(method) if self.compiled else method

    def compute_losses(self, images: Tensor, targets: Mapping[str, Targets]) -> tuple[list[Maps], dict[str, Tensor]]:
        """Normalised (B, C, H, W) images and :meth:`targets` -> the raw maps of every stack, and :meth:`losses`.

        One graph without a break: nothing in it depends on values, and the number of objects is only a length. (With
        MODEL.HOURGLASS.CHECKPOINT, there are breaks where rows are recomputed.)
        """
        maps = self.compute_maps(images)
        return maps, self.losses(maps, targets)

    def compute_maps(self, images: Tensor) -> list[Maps]:
        """Normalised (B, C, H, W) images -> the raw maps of every stack."""
        features = self.backbone(images.contiguous(memory_format=self.memory_format))
        return [self._head_maps(feature, stack) for stack, feature in enumerate(features.values())]

    def compute_test_maps(self, images: Tensor) -> Maps:
        """Normalised (B, C, H, W) images -> the activated maps of the last stack."""
        images = images.contiguous(memory_format=self.memory_format)
        if self.precision == "float32":
            return self.activate(self._head_maps(list(self.backbone(images).values())[-1], -1))
        with torch.autocast(images.device.type, dtype=getattr(torch, self.precision)):
            maps = self._head_maps(list(self.backbone(images).values())[-1], -1)
        return self.activate({name: tensor.float() for name, tensor in maps.items()})

    def _head_maps(self, feature: Tensor, stack: int) -> Maps:
        return {name: tensor for head in self.heads.values() for name, tensor in head(feature, stack).items()}

    def activate(self, maps: Maps) -> Maps:
        """Raw maps -> maps as they are read at test time."""
        return {name: tensor for head in self.heads.values() for name, tensor in head.activate(maps).items()}

    def build_points(self, gt: Sequence[Instances], map_size: Sequence[int], **labels: Any) -> Points:
        """The annotated objects of a batch on maps of the given height and width; `labels` as for build_points."""
        return build_points(
            gt, map_size, self.stride, radius_policy=self.gaussian_radius, round_up=self.radius_round_up, **labels
        )

    def ground_truth(
        self, batched_inputs: Sequence[DatasetDict], map_size: Sequence[int]
    ) -> tuple[list[Instances], Points]:
        """What a batch of training says, on the model's device.

        Raises:
            ValueError: an object has a class that the model does not know.
        """
        for x in batched_inputs:
            check_classes(x, self.num_classes)
        gt = [x["instances"] for x in batched_inputs]
        classes = None
        if given := [x["labelled_classes"] for x in batched_inputs if "labelled_classes" in x]:
            everything = torch.ones_like(given[0])
            classes = torch.stack([x.get("labelled_classes", everything) for x in batched_inputs])
        unlabelled = [x.get("unlabelled", ()) for x in batched_inputs]
        # Where the annotations are, which is the CPU: it then knows how large the objects are, without waiting.
        points = self.build_points(gt, map_size, unlabelled=unlabelled, labelled_classes=classes)
        return [instances.to(self.device) for instances in gt], points.to(self.device)

    def targets(self, gt: Sequence[Instances], points: Points) -> dict[str, Targets]:
        """What the maps of each head, by its name, should be; from what :meth:`ground_truth` says."""
        return {name: head.targets(gt, points) for name, head in self.heads.items()}

    def losses(self, maps: Sequence[Maps], targets: Mapping[str, Targets]) -> dict[str, Tensor]:
        """Losses of all heads, averaged over the stacks (original.md: Total loss).

        Args:
            maps: raw maps of every stack.
            targets: from :meth:`targets`.

        Raises:
            ValueError: two heads call a loss the same.
        """
        losses: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            per_stack = [head.losses(stack, targets[name]) for stack in maps]
            if twice := losses.keys() & per_stack[0].keys():
                raise ValueError(f"{name} has a loss that an earlier head has too: {', '.join(sorted(twice))}")
            losses.update({loss: torch.stack([own[loss] for own in per_stack]).mean(dim=0) for loss in per_stack[0]})
        return losses

    def inference(self, batched_inputs: Sequence[DatasetDict], *, keep_heatmap: bool = False) -> list[dict[str, Any]]:
        """Detect. Images whose canvases have the same size run together; the others never influence a result.

        Args:
            batched_inputs: see :meth:`forward`.
            keep_heatmap: add ``heatmap``, the strongest class of the center heatmap (1, h, w), and ``geometry``.
        """
        canvases, geometries = self.preprocess_image(batched_inputs)
        results: list[dict[str, Any]] = [{} for _ in canvases]
        for members in group_by_shape(canvases):
            maps = self._graph(CenterNet.compute_test_maps)(self, self.batch([canvases[i] for i in members]))
            detections = self.detect(maps, [geometries[i] for i in members])
            for index, instances, heatmap in zip(members, detections, maps["heatmap"], strict=True):
                results[index]["instances"] = self.suppress(instances)
                if keep_heatmap:
                    results[index].update(heatmap=heatmap.amax(dim=0, keepdim=True), geometry=geometries[index])
        return results

    def suppress(self, instances: Instances) -> Instances:
        """The optional non-maximum suppression of one image's detections."""
        return suppress(instances, self.nms, self.nms_threshold)

    def detect(self, maps: Maps, geometries: Sequence[Geometry]) -> list[Instances]:
        """Activated maps of a batch -> detections in original pixels.

        Raises:
            FloatingPointError: a map has NaN, or something infinite is said of a detection.
        """
        fields = self.decode(maps)
        found = fields["scores"] > self.score_threshold
        _check_finite(maps, fields, found)
        results = []
        for index, geometry in enumerate(geometries):
            rows = found[index].nonzero()[:, 0]
            own = {name: tensor[index][rows] for name, tensor in fields.items()}
            instances = Instances(geometry.image_size)
            for name, head in self.heads.items():
                made = head.to_image(own, geometry)
                if undeclared := made.keys() - set(head.prop.fields):
                    raise ValueError(f"{name} makes {', '.join(sorted(undeclared))}, which its property does not name")
                if forgotten := set(head.prop.fields) - made.keys():
                    raise ValueError(f"{name} does not make {', '.join(sorted(forgotten))}, which its property names")
                for field, value in made.items():
                    instances.set(field, value)
            results.append(instances)
        return results

    def decode(self, maps: Maps) -> Fields:
        """Activated maps -> (B, K, ...) fields of the K best peaks, in map pixels. Shapes are fixed: exportable."""
        peaks = Peaks(*top_peaks(maps["heatmap"], self.max_detections))
        fields: Fields = {}
        for head in self.heads.values():
            fields.update(head.decode(maps, peaks, fields))
        return fields

    def normalize(self, images: Tensor) -> Tensor:
        """(..., C, H, W) in 0..255 -> network input."""
        return (images - self.pixel_mean) / self.pixel_std

    def batch(self, canvases: Sequence[Tensor]) -> Tensor:
        """(C, H, W) canvases of one size -> network input, on the model's device; they go there as bytes."""
        return self.normalize(torch.stack(list(canvases)).to(self.device, non_blocking=True))

    def preprocess_training(self, batched_inputs: Sequence[DatasetDict]) -> ImageList:
        """Normalised batch; smaller images are padded with black at the right and at the bottom."""
        # They become one batch where they are and go to the device once, as bytes.
        images = ImageList.from_tensors([x["image"] for x in batched_inputs], self.backbone.size_divisibility)
        pixels = images.tensor.to(self.device, non_blocking=True)
        if any("color" in x for x in batched_inputs):
            return ImageList(self.normalize_colors(pixels, images.image_sizes, batched_inputs), images.image_sizes)
        return ImageList(self.normalize(pixels.to(torch.float32)), images.image_sizes)

    def normalize_colors(
        self, pixels: Tensor, sizes: Sequence[tuple[int, int]], batched_inputs: Sequence[DatasetDict]
    ) -> Tensor:
        """(B, C, H, W) in 0..255 -> network input, in one step with the change of colours that an image waits for.

        Args:
            pixels: images of the given sizes (height, width), padded with black, which stays black.
            sizes: of the images.
            batched_inputs: ``color`` may have the (C, C + 1) matrix of an image, for its colours and 1.
        """
        same = torch.eye(len(self.pixel_mean), len(self.pixel_mean) + 1)
        color = torch.stack([x.get("color", same) for x in batched_inputs]).to(self.device, non_blocking=True)
        matrix = color[:, :, :-1, None, None] / self.pixel_std[:, None]
        # By hand, since a product of matrices would be rounded under autocast or with TF32.
        result = self.normalize(color[:, :, -1, None, None]).repeat(1, 1, *pixels.shape[-2:])
        for channel, plane in enumerate(pixels.unbind(dim=1)):
            result.addcmul_(matrix[:, :, channel], plane[:, None].to(torch.float32))
        for image, (height, width) in zip(result, sizes, strict=True):
            if (height, width) != tuple(image.shape[-2:]):
                black = self.normalize(torch.zeros_like(self.pixel_mean))
                image[:, height:] = black
                image[:, :, width:] = black
        return result

    def preprocess_image(
        self, batched_inputs: Sequence[DatasetDict], scale: float = 1.0
    ) -> tuple[list[Tensor], list[Geometry]]:
        """The uint8 canvas of each image, made where the image is, and its way back to the original image.

        Args:
            batched_inputs: see :meth:`forward`.
            scale: test scale; the images are resized by it (original.md: Test resolution).
        """
        canvases, geometries = [], []
        for x in batched_inputs:
            # DefaultPredictor hands over the same whole numbers as floats.
            image = as_bytes(x["image"])
            if self.test_resolution == "keep":
                canvas, matrix = keep_canvas(image, self.backbone.size_divisibility, scale)
            else:
                canvas, matrix = fixed_canvas(image, self.fixed_size, scale, self.test_resolution == "fixed_width")
            image_size = (x.get("height", image.shape[1]), x.get("width", image.shape[2]))
            # The image may have been resized before it came here.
            zoom = np.array([image_size[1] / image.shape[2], image_size[0] / image.shape[1]])
            to_image = matrix * zoom[:, None] * [self.stride, self.stride, 1]
            canvases.append(canvas)
            inputs = self.read_inputs(x)
            canvas_size = (canvas.shape[-2], canvas.shape[-1])
            geometries.append(Geometry(image_size, canvas_size, torch.from_numpy(to_image), inputs))
        return canvases, geometries

    def read_inputs(self, record: DatasetDict) -> dict[str, Any]:
        """What the properties want to know of an image beside its pixels, where it is there.

        Raises:
            ValueError: an input is not what it should be.
        """
        return {
            key: value
            for prop in self.properties
            for key, value in prop.carry({key: record[key] for key in prop.input_keys if key in record}, ()).items()
        }

    @torch.no_grad()
    def visualize_training(self, batched_inputs: Sequence[DatasetDict], maps: Maps) -> None:
        """Put the first image of the batch into the event storage: ground truth, predictions, center heatmap."""
        storage = get_event_storage()
        maps = self.activate({name: tensor[:1] for name, tensor in maps.items()})
        normalised = self.preprocess_training(batched_inputs[:1])
        size = normalised.image_sizes[0]
        # With its changes of colours.
        image = (normalised[0] * self.pixel_std + self.pixel_mean).round()
        to_image = torch.tensor([[self.stride, 0, 0], [0, self.stride, 0]], dtype=torch.float64)
        # They come from the mapper, so they need no look.
        inputs = {key: batched_inputs[0][key] for key in self.input_keys if key in batched_inputs[0]}
        detections = self.detect(maps, [Geometry(size, size, to_image, inputs)])[0]
        picture = draw_training(
            image,
            self.input_format,
            batched_inputs[0]["instances"],
            detections,
            maps["heatmap"][0],
            self.stride,
            properties=self.properties,
            inputs=inputs,
        )
        storage.put_image("ground truth, predictions, heatmap", picture)


@cache
def _compiled(function: Callable) -> Callable:
    """A function of a model and tensors, which torch compiles when it is first called.

    Of a function and not of a model's method, so that copies of a model run their own weights.
    """
    return torch.compile(function)


def group_by_shape(canvases: Sequence[Tensor], limit: int | None = None) -> Iterator[list[int]]:
    """Indices of canvases that can be stacked: groups of one shape, of `limit` members at most."""
    groups = defaultdict(list)
    for index, canvas in enumerate(canvases):
        groups[canvas.shape].append(index)
    for members in groups.values():
        step = limit or len(members)
        yield from (members[start : start + step] for start in range(0, len(members), step))


def unwrap(model: nn.Module) -> CenterNet:
    """A CenterNet itself, if it is wrapped in DistributedDataParallel."""
    return cast(CenterNet, model.module if isinstance(model, DistributedDataParallel) else model)


def check_classes(record: DatasetDict, num_classes: int) -> None:
    """Look at the classes of a training image, as long as they are on the CPU: a GPU would have to be waited for.

    Raises:
        ValueError: an object has none of the model's; names the image.
    """
    instances = record["instances"]
    classes = instances.gt_classes
    if classes.device.type != "cpu" or not len(classes):
        return
    # What is ignored for all classes has -1.
    lowest = -instances.gt_ignore.to(classes) if instances.has("gt_ignore") else 0
    unknown = classes[(classes < lowest) | (classes >= num_classes)]
    if len(unknown):
        raise ValueError(
            f"{record.get('file_name', 'an image')} has an object of class {int(unknown[0])}, but the model knows "
            f"0..{num_classes - 1}: set MODEL.CENTERNET.NUM_CLASSES to the number of classes of the data set"
        )


def as_bytes(image: Tensor) -> Tensor:
    """An image of any type as uint8, rounded."""
    return image if image.dtype == torch.uint8 else image.float().round().clamp(0, 255).to(torch.uint8)


def _check_finite(maps: Maps, fields: Fields, found: Tensor) -> None:
    """Raise a FloatingPointError for NaN in a map, or an infinite (B, K, ...) field where `found` (B, K)."""
    # No score that is NaN is above a threshold: without this, there would be no detections, and no word about it.
    broken = [tensor.isnan().any() for tensor in maps.values()]
    for tensor in fields.values():
        sound = (tensor.float().abs() < _INFINITE)[..., None].flatten(2).all(dim=2)
        broken.append((found & ~sound).any())
    wrong = torch.stack(broken)
    if wrong.any():
        # A field may have the name of its map.
        names = dict.fromkeys(name for name, bad in zip([*maps, *fields], wrong.tolist(), strict=True) if bad)
        raise FloatingPointError(
            f"the network says NaN or infinite values ({', '.join(names)}), so its detections mean nothing: take other "
            "weights, and with autocast or half precision try float32"
        )


def _named(heads: Sequence[PointHead] | Mapping[str, PointHead]) -> list[tuple[str, PointHead]]:
    """Heads with their names, which are those of their classes unless a mapping has others."""
    return list(heads.items()) if isinstance(heads, Mapping) else [(type(head).__name__, head) for head in heads]


def _check_parts(
    backbone: Backbone,
    heads: Sequence[tuple[str, PointHead]],
    nms: str,
    fixed_size: Sequence[int],
    names: Sequence[str] = ("heads", "nms", "fixed_size"),
) -> None:
    """Raise a ValueError about what does not fit together; `names` are those of arguments or config keys."""
    _check_heads(names[0], heads)
    check_choice(names[1], nms, NMS_MODES)
    if nms and not any("boxes" in head.provides for _, head in heads):
        raise ValueError(f"{names[1]} is '{nms}', which needs boxes: add BoxHead to {names[0]}")
    divisibility = backbone.size_divisibility
    if len(fixed_size) != 2 or any(size <= 0 or size % divisibility for size in fixed_size):
        raise ValueError(
            f"{names[2]} is {list(fixed_size)} (height, width), but this backbone needs positive multiples of "
            f"{divisibility}"
        )


def _check_heads(where: str, heads: Sequence[tuple[str, PointHead]]) -> None:
    """Every head must find what it builds on, and no two may make the same thing."""
    made: dict[str, set[str]] = {"maps": set(), "decoded fields": set(), "fields": set(), "property": set()}
    for name, head in heads:
        if missing := set(head.requires) - made["decoded fields"]:
            raise ValueError(f"{where}: {name} needs {', '.join(sorted(missing))} from a head listed before it")
        own = {
            "maps": set(head.maps),
            "decoded fields": set(head.provides),
            "fields": set(head.prop.fields),
            "property": {head.prop.name, head.prop.node} - {""},
        }
        for kind, names in own.items():
            if twice := made[kind] & names:
                raise ValueError(
                    f"{where}: an earlier head has the {kind} {', '.join(sorted(twice))} of {name} already"
                )
            made[kind] |= names
    if "heatmap" not in made["maps"]:
        raise ValueError(f"{where}: none predicts the heatmap of the centers; CenterHead does")
