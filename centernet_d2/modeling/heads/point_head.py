"""Base classes of properties of objects and of the heads that predict them."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import Transform
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor, nn

from ...config.arguments import name_keys, read_keys
from ...imaging.geometry import Geometry
from ...structures.plots import Plot
from ...structures.points import Peaks, Points
from ...structures.types import DatasetDict, Fields, Maps, Targets
from .branches import MapBranches

if TYPE_CHECKING:  # It imports matplotlib, which takes a second.
    from detectron2.utils.visualizer import Visualizer

__all__ = ["PointHead", "Property", "build_property", "unflip_vectors"]


class Property:
    """Property of an object, independent of the network.

    A property reads annotations, evaluates, draws and exports detections. The head that predicts it is a
    :class:`PointHead`. Properties must be picklable, because they are copied to data loader workers. The default
    methods are sufficient for properties that need no annotations other than boxes and classes.

    Attributes:
        name: short unique name.
        node: name of its config node under ``MODEL.CENTERNET``; "" for properties without config keys.
        keys: mapping from constructor arguments to config keys.
        annotation_keys: annotation keys that the property reads. A dataset in which no annotation has any of them does
            not label the property. Empty for properties that need no annotations of their own.
        input_keys: keys of the dataset dict that the property reads, in addition to the image.
        input_shapes: shapes of the inputs that exported files have, by input key; without other inputs, the head must
            have a default.
        fields: fields of ``Instances`` that its head predicts.
        json_keys: keys of fields in :meth:`to_json`, if they are not the name of the field without ``pred_``.
        arguments: options of demo.py for inputs of images and for drawing, as a mapping from flags to keyword arguments
            of ``ArgumentParser.add_argument``.
    """

    name: ClassVar[str] = ""
    node: ClassVar[str] = ""
    keys: ClassVar[Mapping[str, str]] = {}
    annotation_keys: ClassVar[tuple[str, ...]] = ()
    input_keys: ClassVar[tuple[str, ...]] = ()
    input_shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    fields: ClassVar[tuple[str, ...]] = ()
    json_keys: ClassVar[Mapping[str, str]] = {}
    arguments: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @configurable
    def __init__(self) -> None:
        """Initialize a property without arguments.

        Subclasses define their own arguments and map them to config keys in ``keys``.
        """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor arguments."""
        return read_keys(cfg, cls.keys)

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        """Add config keys of the property and its head, with defaults."""

    @classmethod
    def add_quirks(cls, node: CfgNode) -> None:
        """Add config keys for quirks of the reference implementation.

        Their node is under ``MODEL.CENTERNET.QUIRKS``.
        """

    @property
    def error_name(self) -> str:
        """Prefix of the result name ``NAME_error`` of :meth:`errors`."""
        return self.name

    def metadata(self) -> dict[str, Any]:
        """Return plain values for the metadata of datasets and checkpoints."""
        return {}

    def use_metadata(self, metadata: Mapping[str, object]) -> None:
        """Use metadata of a checkpoint as a fallback for the config and datasets.

        Args:
            metadata: metadata of all properties and of the classes. Not validated: entries may be missing or invalid.
        """

    def check(self, dicts: Sequence[DatasetDict]) -> None:
        """Validate the annotations of a dataset before training.

        Args:
            dicts: dataset dicts in Detectron2's format.

        Raises:
            ValueError: if an annotation is invalid; the message names the image.
        """

    def carry(self, inputs: dict[str, Any], transforms: Sequence[Transform]) -> dict[str, Any]:
        """Validate inputs of an image and apply the image transforms to them.

        Args:
            inputs: entries of the dataset dict for ``input_keys``, as far as present.
            transforms: transforms of the image, in order; empty at inference.

        Returns:
            The transformed inputs.

        Raises:
            ValueError: if an input is invalid.
        """
        return inputs

    def default_inputs(self) -> dict[str, Tensor | None]:
        """Return the default of each input in `input_shapes`; None if required."""
        return dict.fromkeys(self.input_shapes)

    def annotate(self, record: DatasetDict, transforms: Sequence[Transform], size: tuple[int, int]) -> dict[str, Any]:
        """Convert annotations to ``gt_*`` fields, with one entry per annotation.

        ``gt_weight`` (N,) is the loss weight of everything that is regressed at object centers; the weights of all
        properties are multiplied. ``gt_blind`` (N,) bool is True if the object centers of the image are unknown.

        Args:
            record: dataset dict in Detectron2's format, with ``annotations``, before the transforms.
            transforms: transforms of the image, in order; empty for ground truth in the original image.
            size: (height, width) of the transformed image.
        """
        return {}

    def labeled(self, truth: Instances) -> Tensor:
        """Return (N,) bool, True for objects that :meth:`errors` can evaluate."""
        return truth.gt_classes >= 0

    def errors(self, detections: Instances, truth: Instances) -> dict[str, float]:
        """Compute errors in physical units, by name.

        Called once per dataset with all matched pairs, if there are any.

        Args:
            detections: M detections, with the fields of all heads.
            truth: the M matched ground-truth objects, with the fields of :meth:`annotate` in the original images.
        """
        return {}

    def plots(self, found: Instances | None, truth: Instances) -> list[Plot]:
        """Return figures for reports.

        Args:
            found: M detections, with the fields of all heads; None for figures of the annotations of a dataset.
            truth: the M matched objects (or the objects of the dataset), with the fields of :meth:`annotate` in the
                original images. All are :meth:`labeled`.
        """
        return []

    def draw(self, visualizer: Visualizer, instances: Instances, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """Draw the property on an image on which boxes are already drawn.

        Args:
            visualizer: Detectron2's visualizer, in pixels of the original image.
            instances: detections or, without ``scores``, ground truth.
            inputs: inputs of the image, see ``input_keys``.

        Returns:
            Additional panels to place next to the image, (H, W, 3) uint8 RGB.
        """
        return []

    def to_json(self, instances: Instances) -> list[dict[str, Any]]:
        """Return a dict of plain values per detection.

        By default, it contains every tensor field ``pred_x`` as ``x``.
        """
        columns = {name.removeprefix("pred_"): instances.get(name).tolist() for name in self.fields}
        return [{name: column[row] for name, column in columns.items()} for row in range(len(instances))]

    def start_video(self) -> Callable[[Instances], Instances] | None:
        """Return a function for the frames of one video; None if not needed.

        The function receives the detections of each frame, in order, with the fields of all heads, and may keep state
        between frames. It returns the detections with additional fields, such as the numbers of tracks.
        """
        return None

    def use_arguments(self, args: argparse.Namespace) -> None:
        """Apply the parsed options of ``arguments``.

        Raises:
            ValueError, OSError: if an option is invalid.
        """

    def picture_inputs(self, name: str, size: tuple[int, int]) -> dict[str, Any]:
        """Return the inputs of an image of demo.py, according to the options.

        Args:
            name: file name of the image.
            size: height and width of the image.

        Raises:
            ValueError, OSError: if the inputs cannot be read.
        """
        return {}


class PointHead(nn.Module, ABC):
    """Base class of heads, which predict one property of objects at their centers.

    A subclass defines the maps, their targets and losses, the effect of horizontal flipping and the decoding at peaks.
    To add a property, write a subclass and its :class:`Property`, and append its name to ``MODEL.CENTERNET.HEADS``.

    Args:
        maps: number of channels of each map.
        prop: the property that the head predicts.
        in_channels, head_conv, init: see :class:`MapBranches`.
        stride: input pixels per map pixel.
        num_stacks: number of supervised stacks of the backbone; each has its own branches.
    """

    #: Mapping from constructor arguments to config keys: of the subclass, and of all heads.
    keys: ClassVar[Mapping[str, str]] = {}
    common_keys: ClassVar[Mapping[str, str]] = {
        "head_conv": "MODEL.CENTERNET.HEAD_CONV",
        "init": "MODEL.CENTERNET.HEAD_INIT",
    }
    #: Property that :meth:`common_config` builds from a config.
    property_type: ClassVar[type[Property]] = Property
    #: Names of the maps that are heatmaps.
    heatmaps: ClassVar[tuple[str, ...]] = ()
    #: Decoded fields that earlier heads must provide, and fields that this head provides.
    requires: ClassVar[tuple[str, ...]] = ()
    provides: ClassVar[tuple[str, ...]] = ()
    #: Output of :meth:`to_image` -> function from its tensor to the value in ``Instances``; by default, the tensor.
    converters: ClassVar[Mapping[str, Callable[[Tensor], Any]]] = {}
    #: Map -> its name in checkpoints of the reference implementation, for maps that exist there.
    original_names: ClassVar[Mapping[str, str]] = {}
    #: True if detections of several test scales can be merged, and if only the best merged ones are kept
    #: (original.md: Merging scales).
    multi_scale: ClassVar[bool] = True
    limit_merged: ClassVar[bool] = True

    def __init__(
        self,
        maps: Mapping[str, int],
        *,
        prop: Property | None = None,
        in_channels: int,
        head_conv: int = 64,
        init: str = "small_last",
        stride: int = 4,
        num_stacks: int = 1,
    ) -> None:
        super().__init__()
        self.maps = dict(maps)
        self.prop = prop or self.property_type()
        self.stride = stride
        self.stacks = nn.ModuleList(
            MapBranches(maps, in_channels=in_channels, head_conv=head_conv, heatmaps=self.heatmaps, init=init)
            for _ in range(num_stacks)
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec, num_stacks: int) -> dict[str, Any]:
        """Return the constructor arguments: those in ``keys``, and common ones."""
        return {**read_keys(cfg, cls.keys), **cls.common_config(cfg, input_shape, num_stacks)}

    @classmethod
    def common_config(cls, cfg: CfgNode, input_shape: ShapeSpec, num_stacks: int) -> dict[str, Any]:
        """Return the constructor arguments that are common to all heads."""
        return {
            **read_keys(cfg, cls.common_keys),
            "prop": build_property(cls.property_type, cfg),
            "in_channels": input_shape.channels,
            "stride": input_shape.stride,
            "num_stacks": num_stacks,
        }

    def forward(self, feature: Tensor, stack: int = -1) -> Maps:
        """Compute raw maps from the feature map of one stack."""
        return self.stacks[stack](feature)

    def activate(self, maps: Maps) -> Maps:
        """Apply the activations of inference to raw maps.

        Heatmaps become probabilities.
        """
        return {name: maps[name].float().sigmoid() if name in self.heatmaps else maps[name] for name in self.maps}

    @abstractmethod
    def targets(self, gt: Sequence[Instances], points: Points) -> Targets:
        """Build the target of each map, by map name."""

    @abstractmethod
    def losses(self, maps: Maps, targets: Targets) -> dict[str, Tensor]:
        """Compute weighted scalar losses of one stack.

        Losses must depend on the maps even in a batch without objects.

        Args:
            maps: raw maps of the stack.
            targets: output of :meth:`targets` of the same head.
        """

    @abstractmethod
    def unflip(self, maps: Maps) -> dict[str, Tensor | None]:
        """Invert a horizontal flip of activated maps.

        Maps that flip testing does not average are None.
        """

    @abstractmethod
    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """Decode activated maps at the peaks into (B, K, ...) tensors in map pixels.

        Args:
            maps: activated maps of all heads.
            peaks: K peaks per image, which may include background.
            fields: decoded fields of earlier heads.
        """

    @abstractmethod
    def to_image(self, fields: Fields, geometry: Geometry) -> Fields:
        """Convert decoded (K, ...) fields of one image to pixels of the original image.

        Exported files contain this function: use tensor operations, and no branches that depend on values.

        Returns:
            (K, ...) tensors under the names of their ``Instances`` fields.
        """

    def valid(self, produced: Fields) -> Tensor | None:
        """Return (K,) bool, False for detections to discard; None keeps all.

        Args:
            produced: output of :meth:`to_image`.
        """
        return None


def build_property(kind: type[Property], cfg: CfgNode) -> Property:
    """Build a property from a config.

    Errors about arguments name the config keys.
    """
    with name_keys(kind.keys):
        # @configurable is untyped: the constructor also takes a config.
        return kind(cfg)


def unflip_vectors(vectors: Tensor, shift: float) -> Tensor:
    """Invert a horizontal flip of maps of vectors.

    Args:
        vectors: (..., 2, H, W) vectors (x, y) from each cell of a flipped image, in cells.
        shift: x becomes ``shift - x``. Flipping maps pixels 0 ... s - 1 of a cell to s - 1 ... 0, so (s - 1) / s is
            exact for vectors from the corner of a cell.
    """
    x, y = vectors.flip(-1).unbind(-3)
    return torch.stack([shift - x, y], dim=-3)
