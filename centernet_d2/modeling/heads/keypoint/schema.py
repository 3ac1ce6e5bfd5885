"""Keypoint names, left-right pairs and skeleton of a dataset."""

from __future__ import annotations

import colorsys
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.utils.logger import log_first_n

__all__ = ["KeypointSchema", "keypoint_schema"]


@dataclass(frozen=True)
class KeypointSchema:
    """Ordered keypoints with their names, left-right pairs and skeleton.

    Attributes:
        mirror: for each keypoint, the index of its counterpart in a horizontally flipped image.
        names: names of the keypoints; empty if unknown.
        lines: pairs of names that are connected by a line in visualizations.
    """

    mirror: tuple[int, ...]
    names: tuple[str, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_names(
        cls, names: Sequence[str], flip_map: Sequence[Sequence[str]], lines: Sequence[Sequence[str]] = ()
    ) -> KeypointSchema:
        """Build a schema from keypoint names.

        Args:
            names: names of the keypoints, in order.
            flip_map: pairs of names that are swapped by horizontal flipping.
            lines: pairs of names that are connected by a line in visualizations.

        Raises:
            ValueError: if names are not unique, a pair contains an unknown name, or pairs of the flip map overlap.
        """
        if len(set(names)) != len(names):
            raise ValueError(f"keypoint names are not unique: {', '.join(names)}")
        if unknown := sorted({name for pair in flip_map for name in pair} - set(names)):
            raise ValueError(
                f"the keypoint flip map contains {', '.join(unknown)}, but the keypoints are {', '.join(names)}"
            )
        paired = [name for pair in flip_map for name in pair]
        if any(len(pair) != 2 for pair in flip_map) or len(set(paired)) != len(paired):
            raise ValueError(f"the keypoint flip map must consist of disjoint pairs of names, but is {list(flip_map)}")
        counterpart = {a: b for pair in flip_map for a, b in (tuple(pair), tuple(pair)[::-1])}
        for pair in lines:
            if len(pair) != 2 or not set(pair) <= set(names):
                raise ValueError(
                    f"the skeleton contains {list(pair)}, which is not a pair of keypoint names ({', '.join(names)})"
                )
        mirror = tuple(names.index(counterpart.get(name, name)) for name in names)
        return cls(mirror, tuple(names), tuple((a, b) for a, b in lines))

    def metadata(self) -> dict[str, Any]:
        """Return Detectron2's keypoint metadata, with a color per line of the skeleton."""
        if not self.names:
            return {}
        hues = (colorsys.hsv_to_rgb(index / len(self.lines), 0.9, 1.0) for index in range(len(self.lines)))
        colors = [tuple(round(255 * part) for part in hue) for hue in hues]
        pairs = [(name, self.names[other]) for name, other in zip(self.names, self.mirror, strict=True)]
        return {
            "keypoint_names": list(self.names),
            "keypoint_flip_map": [(a, b) for a, b in pairs if self.names.index(a) < self.names.index(b)],
            "keypoint_connection_rules": [(*line, color) for line, color in zip(self.lines, colors, strict=True)],
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], count: int) -> KeypointSchema | None:
        """Build a schema from the output of :meth:`metadata`.

        Return None if it does not describe `count` keypoints.
        """
        try:
            names = list(metadata["keypoint_names"])
            lines = [rule[:2] for rule in metadata.get("keypoint_connection_rules", ())]
            schema = cls.from_names(names, metadata.get("keypoint_flip_map", ()), lines)
        except (KeyError, TypeError, ValueError):
            return None
        return schema if len(schema) == count and all(isinstance(name, str) for name in names) else None

    def __len__(self) -> int:
        return len(self.mirror)

    def as_array(self, keypoints: Sequence[float]) -> np.ndarray:
        """Reshape flat x, y, visibility triples to (K, 3).

        Raises:
            ValueError: if the number of triples is not K.
        """
        if len(keypoints) != 3 * len(self):
            raise ValueError(
                f"an annotation has {len(keypoints) / 3:g} keypoints, but MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is "
                f"{len(self)}"
            )
        return np.asarray(keypoints, dtype=np.float64).reshape(-1, 3)


def keypoint_schema(cfg: CfgNode) -> KeypointSchema:
    """Return the keypoint schema of a config.

    Names are read from ``MODEL.CENTERNET.KEYPOINTS.NAMES`` or, if empty, from the metadata of the datasets. Without
    names, left and right are unknown and are not swapped by horizontal flipping; a warning is logged.

    Raises:
        ValueError: if the number of names is not MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, datasets have different
            keypoints, or the flip map is invalid.
    """
    count = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    node = cfg.MODEL.CENTERNET.KEYPOINTS
    names, flip_map, lines = node.NAMES, node.FLIP_MAP, node.SKELETON
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = MetadataCatalog.get(dataset) if dataset in DatasetCatalog.list() else Metadata()
        own = metadata.get("keypoint_names", ())
        if names and own and list(own) != list(names):
            raise ValueError(f"the keypoints of '{dataset}' are {', '.join(own)}, but expected {', '.join(names)}")
        if own and not names:
            names, flip_map = own, metadata.get("keypoint_flip_map", ())
            lines = [rule[:2] for rule in metadata.get("keypoint_connection_rules", ())]
    if not names:
        message = "KEYPOINTS.NAMES is not set: left and right keypoints are not swapped in flipped images"
        log_first_n(logging.WARNING, message)
        return KeypointSchema(tuple(range(count)))
    if len(names) != count:
        raise ValueError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {count}, but the dataset has {len(names)} keypoints: "
            f"{', '.join(names)}"
        )
    return KeypointSchema.from_names(names, flip_map, lines)
