"""What a property of a point is: outside the network (:class:`Property`) and inside it (:class:`PointHead`)."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import Transform
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from torch import Tensor, nn

from ...config.arguments import name_keys, read_keys
from ...imaging.geometry import Geometry
from ...structures.points import Peaks, Points
from ...structures.types import DatasetDict, Fields, Maps, Targets
from .branches import MapBranches

__all__ = ["PointHead", "Property", "build_property", "unflip_vectors"]


class Property:
    """What data say of a property of a point, and what people get of it.

    Plain and picklable: loader workers carry it, and no network with it. Every method has a default that suits a
    property of which the data say nothing more than boxes and classes.

    Attributes:
        name: short and unique.
        node: name of its own keys under ``MODEL.CENTERNET``; "" has none.
        keys: argument of the constructor -> config key that supplies it.
        annotation_keys: keys of an annotation that it reads. A data set in which no annotation has any of them does not
            label the property; one without any keys needs no labels of its own.
        input_keys: keys of an image, beside its pixels, that it reads.
        fields: fields of the detections that its head makes.
        arguments: options of demo.py with which people give inputs of pictures or say what is drawn: flag -> what
            ``ArgumentParser.add_argument`` wants to know.
    """

    name: ClassVar[str] = ""
    node: ClassVar[str] = ""
    keys: ClassVar[Mapping[str, str]] = {}
    annotation_keys: ClassVar[tuple[str, ...]] = ()
    input_keys: ClassVar[tuple[str, ...]] = ()
    fields: ClassVar[tuple[str, ...]] = ()
    arguments: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @configurable
    def __init__(self) -> None:
        """Take no arguments; subclasses define their own, and list in ``keys`` the config keys that supply them."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return read_keys(cfg, cls.keys)

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        """Add its own config keys, and those of its head, with their defaults."""

    @classmethod
    def add_quirks(cls, node: CfgNode) -> None:
        """Add keys that only keep or repair a behavior of a reference, under ``MODEL.CENTERNET.QUIRKS``."""

    @property
    def error_name(self) -> str:
        """What :meth:`errors` is about; ``_error`` behind it makes the name of the results."""
        return self.name

    def metadata(self) -> dict[str, Any]:
        """What the metadata of data sets that a config registers, and checkpoints, should say of it; plain values."""
        return {}

    def use_metadata(self, metadata: Mapping[str, object]) -> None:
        """Take what a checkpoint has kept of :meth:`metadata` where the config and its data sets say nothing.

        Args:
            metadata: of all properties and classes; a file of somebody else may have anything in it, or nothing.
        """

    def check(self, dicts: Sequence[DatasetDict]) -> None:
        """Look at a data set before hours are spent on it.

        Args:
            dicts: its images in Detectron2's format.

        Raises:
            ValueError: something is not what it should be; names the image.
        """

    def carry(self, inputs: dict[str, Any], transforms: Sequence[Transform]) -> dict[str, Any]:
        """Its inputs of an image (those of ``input_keys`` that are there) after what the image went through.

        At test time there are no transforms: the place to look at what users hand in.

        Raises:
            ValueError: an input is not what it should be.
        """
        return inputs

    def annotate(self, record: DatasetDict, transforms: Sequence[Transform], size: tuple[int, int]) -> dict[str, Any]:
        """What the annotations of an image say, as ``gt_*`` fields with one entry per annotation.

        ``gt_weight`` (N,), the supervision of everything that is read at an object's center, is multiplied over all
        properties. ``gt_blind`` (N,) bool says that the centers of the image are not known.

        Args:
            record: the image in Detectron2's format as it came, with ``annotations``.
            transforms: what the image went through, in order. Without any: the truth in the original image.
            size: (height, width) of the image after that.
        """
        return {}

    def labelled(self, truth: Instances) -> Tensor:
        """(N,) bool: the objects of which the truth says something that :meth:`errors` can use."""
        return truth.gt_classes >= 0

    def errors(self, found: Instances, truth: Instances) -> dict[str, float]:
        """By how much it is off, by name and in its own units; called once with all pairs of a data set, if any.

        Args:
            found: M detections, with the fields of all heads.
            truth: the M objects that they found, with the fields of :meth:`annotate` in the original images.
        """
        return {}

    def draw(self, picture: Visualizer, instances: Instances, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """Draw it on a picture that has the boxes already.

        Args:
            picture: Detectron2's, in pixels of the original image.
            instances: detections or, without ``scores``, ground truth.
            inputs: of the image.

        Returns:
            Further pictures to be put beside it, (H, W, 3) uint8 RGB.
        """
        return []

    def to_json(self, instances: Instances) -> list[dict[str, Any]]:
        """A dict of plain values per detection; by default every tensor ``pred_x`` of its fields as ``x``."""
        columns = {name.removeprefix("pred_"): instances.get(name).tolist() for name in self.fields}
        return [{name: column[row] for name, column in columns.items()} for row in range(len(instances))]

    def use_arguments(self, args: argparse.Namespace) -> None:
        """Take what the options of ``arguments`` say.

        Raises:
            ValueError, OSError: an option is not what it should be.
        """

    def picture_inputs(self, name: str, size: tuple[int, int]) -> dict[str, Any]:
        """The inputs of a picture of demo.py by these options.

        Args:
            name: file name of the picture.
            size: its height and width.

        Raises:
            ValueError, OSError: they cannot be found.
        """
        return {}


class PointHead(nn.Module, ABC):
    """Everything the network knows about one property of a point.

    A subclass says which maps it predicts, what they should be, how wrong they are, what a mirror does to them and
    what they say at the peaks. A new property is one such class with its :class:`Property`, and one name in
    ``MODEL.CENTERNET.HEADS``.

    Args:
        maps: channels of each map.
        prop: the property outside the network.
        in_channels, head_conv, init: see :class:`MapBranches`.
        stride: input pixels per map pixel.
        num_stacks: supervised stacks of the backbone; each has its own branches.
    """

    #: Argument of the constructor -> config key that supplies it: of the subclass, and of all heads.
    keys: ClassVar[Mapping[str, str]] = {}
    common_keys: ClassVar[Mapping[str, str]] = {
        "head_conv": "MODEL.CENTERNET.HEAD_CONV",
        "init": "MODEL.CENTERNET.HEAD_INIT",
    }
    #: Property that :meth:`common_config` builds from a config.
    property_type: ClassVar[type[Property]] = Property
    #: Names of the maps that are heatmaps.
    heatmaps: ClassVar[tuple[str, ...]] = ()
    #: Decoded fields that earlier heads must provide, and those that this head provides.
    requires: ClassVar[tuple[str, ...]] = ()
    provides: ClassVar[tuple[str, ...]] = ()
    #: Map -> what it is called in the files of the original's authors, for maps that are there.
    original_names: ClassVar[Mapping[str, str]] = {}
    #: Whether detections of several test scales can be merged, and whether only the best of them are kept
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
        """Return the arguments of the constructor: those in ``keys``, and those of all heads."""
        return {**read_keys(cfg, cls.keys), **cls.common_config(cfg, input_shape, num_stacks)}

    @classmethod
    def common_config(cls, cfg: CfgNode, input_shape: ShapeSpec, num_stacks: int) -> dict[str, Any]:
        """Return the arguments of the constructor that all heads share."""
        return {
            **read_keys(cfg, cls.common_keys),
            "prop": build_property(cls.property_type, cfg),
            "in_channels": input_shape.channels,
            "stride": input_shape.stride,
            "num_stacks": num_stacks,
        }

    def forward(self, feature: Tensor, stack: int = -1) -> Maps:
        """Feature map of one stack -> raw maps."""
        return self.stacks[stack](feature)

    def activate(self, maps: Maps) -> Maps:
        """Raw maps -> maps as they are read at test time; heatmaps become probabilities."""
        return {name: maps[name].float().sigmoid() if name in self.heatmaps else maps[name] for name in self.maps}

    @abstractmethod
    def targets(self, gt: Sequence[Instances], points: Points) -> Targets:
        """What each of its maps should be, under the names of the maps."""

    @abstractmethod
    def losses(self, maps: Maps, targets: Targets) -> dict[str, Tensor]:
        """Weighted scalar losses of one stack; connected to the maps even without objects.

        Args:
            maps: raw maps of the stack.
            targets: those of :meth:`targets` of the same head.
        """

    @abstractmethod
    def unflip(self, maps: Maps) -> dict[str, Tensor | None]:
        """Activated maps of the mirrored image, turned back; None for maps that flip testing does not average."""

    @abstractmethod
    def decode(self, maps: Maps, peaks: Peaks, fields: Fields) -> Fields:
        """What activated maps say at the peaks: (B, K, ...) tensors in map pixels, for any number of real objects.

        Args:
            maps: activated maps of all heads.
            peaks: the points.
            fields: what earlier heads decoded.
        """

    @abstractmethod
    def to_image(self, fields: Fields, geometry: Geometry) -> dict[str, Any]:
        """Decoded fields of one image, (K, ...) -> fields of its Instances, in pixels of the original image."""


def build_property(kind: type[Property], cfg: CfgNode) -> Property:
    """Build a property from a config; errors about its arguments name the config keys."""
    with name_keys(kind.keys):
        # @configurable is untyped: the constructor also takes a config.
        return kind(cfg)


def unflip_vectors(vectors: Tensor, shift: float) -> Tensor:
    """(..., 2, H, W) vectors (x, y) from the cells of a mirrored image -> those from the cells of the upright image.

    Args:
        vectors: in cells.
        shift: x becomes ``shift - x``. A mirror takes the s pixels of a cell from 0 ... s - 1 to s - 1 ... 0, so
            (s - 1) / s is exact for vectors from the corner of a cell.
    """
    x, y = vectors.flip(-1).unbind(-3)
    return torch.stack([shift - x, y], dim=-3)
