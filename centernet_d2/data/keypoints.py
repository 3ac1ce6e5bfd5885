"""What the keypoints of a data set are called, and which of them a mirror swaps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.utils.logger import log_first_n

from .numbers import LARGEST_COORDINATE, number_table

__all__ = ["HALF_PIXEL", "KeypointSchema", "check_keypoints", "has_keypoints", "keypoint_schema"]

COCO_KEYPOINTS = 17
# Detectron2 moves keypoints by half a pixel when it reads and writes them; ours have pixel centers at integers.
HALF_PIXEL = 0.5


def has_keypoints(annotation: dict) -> bool:
    """Whether an annotation lists keypoints; ``None`` and an empty list are none."""
    keypoints = annotation.get("keypoints")
    return keypoints is not None and not (isinstance(keypoints, (list, tuple)) and len(keypoints) == 0)


@dataclass(frozen=True)
class KeypointSchema:
    """Keypoints in order.

    Attributes:
        mirror: for every keypoint the index of the one that takes its place in a mirrored image.
    """

    mirror: tuple[int, ...]

    @classmethod
    def from_names(cls, names: Sequence[str], flip_map: Sequence[tuple[str, str]]) -> KeypointSchema:
        """
        Args:
            names: of the keypoints, in order.
            flip_map: pairs of names that a mirror swaps.

        Raises:
            ValueError: a name is there twice, or a pair names a keypoint that is not there or in another pair already.
        """
        if len(set(names)) != len(names):
            raise ValueError(f"keypoints share a name: {', '.join(names)}")
        if unknown := sorted({name for pair in flip_map for name in pair} - set(names)):
            raise ValueError(
                f"the keypoint flip map names {', '.join(unknown)}, but the keypoints are {', '.join(names)}"
            )
        paired = [name for pair in flip_map for name in pair]
        if any(len(pair) != 2 for pair in flip_map) or len(set(paired)) != len(paired):
            raise ValueError(f"the keypoint flip map is not made of pairs that share no name: {list(flip_map)}")
        other = {a: b for pair in flip_map for a, b in (tuple(pair), tuple(pair)[::-1])}
        return cls(tuple(names.index(other.get(name, name)) for name in names))

    def __len__(self) -> int:
        return len(self.mirror)

    def as_array(self, keypoints: Sequence[float]) -> np.ndarray:
        """Flat x, y, visibility triples -> (K, 3).

        Raises:
            ValueError: there are not K triples.
        """
        if len(keypoints) != 3 * len(self):
            raise ValueError(
                f"an annotation has {len(keypoints) / 3:g} keypoints, but MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is "
                f"{len(self)}"
            )
        return np.asarray(keypoints, dtype=np.float64).reshape(-1, 3)


def keypoint_schema(cfg: CfgNode) -> KeypointSchema:
    """The keypoints of a config: of ``DATASETS.KEYPOINT_NAMES``, else of the metadata of its data sets.

    Without names, left and right are not known, and mirrors swap nothing; a log line says so.

    Raises:
        ValueError: their number is not MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, data sets have different ones, or the
            flip map names others.
    """
    count = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    names, flip_map = cfg.DATASETS.KEYPOINT_NAMES, cfg.DATASETS.KEYPOINT_FLIP_MAP
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = MetadataCatalog.get(dataset) if dataset in DatasetCatalog.list() else Metadata()
        own = metadata.get("keypoint_names", ())
        if names and own and list(own) != list(names):
            raise ValueError(f"the keypoints of '{dataset}' are {', '.join(own)}, but others are {', '.join(names)}")
        if own and not names:
            names, flip_map = own, metadata.get("keypoint_flip_map", ())
    if not names:
        message = "keypoints have no names, so mirrored images do not swap left and right: DATASETS.KEYPOINT_NAMES"
        log_first_n(logging.WARNING, message)
        return KeypointSchema(tuple(range(count)))
    if len(names) != count:
        raise ValueError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {count}, but the data set has {len(names)} keypoints: "
            f"{', '.join(names)}"
        )
    return KeypointSchema.from_names(names, flip_map)


def check_keypoints(cfg: CfgNode, dicts: Sequence[dict]) -> None:
    """Check the keypoints of a data set, and the config that is to evaluate them, before hours are spent on them.

    Raises:
        ValueError: the wrong number of keypoints or sigmas, a visibility that is not 0, 1 or 2, or a coordinate that is
            not finite or absurd; names the image.
    """
    schema = keypoint_schema(cfg)
    if len(sigmas := cfg.TEST.KEYPOINT_OKS_SIGMAS) not in (0, len(schema)):
        raise ValueError(f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} values for {len(schema)} keypoints")
    if not sigmas and len(schema) != COCO_KEYPOINTS:
        raise ValueError(
            f"TEST.KEYPOINT_OKS_SIGMAS is empty, which stands for COCO's {COCO_KEYPOINTS} keypoints, but there are "
            f"{len(schema)}; 0.05 for each is a sensible start"
        )
    found = [
        (image["file_name"], index, annotation["keypoints"])
        for image in dicts
        for index, annotation in enumerate(image.get("annotations", ()))
        if has_keypoints(annotation)
    ]
    if _are_keypoints([keypoints for _, _, keypoints in found], len(schema)):
        return
    for file_name, index, keypoints in found:
        if not _are_keypoints([keypoints], len(schema)):
            raise ValueError(f"{file_name}, annotation {index} of this image: {_what_is_wrong(keypoints, schema)}")


def _are_keypoints(rows: Sequence[Sequence[float]], count: int) -> bool:
    table = number_table(rows, 3 * count)
    return table is not None and bool(np.isin(table[:, 2::3], (0, 1, 2)).all())


def _what_is_wrong(keypoints: Sequence[float], schema: KeypointSchema) -> str:
    try:
        visibility = schema.as_array(keypoints)[:, 2].tolist()
    except (TypeError, ValueError) as error:
        return str(error)
    if not np.isin(visibility, (0, 1, 2)).all():
        return f"a visibility is not 0, 1 or 2: {visibility}"
    return (
        f"a coordinate of the keypoints {list(keypoints)} is not a finite number of at most {LARGEST_COORDINATE} "
        "pixels; keypoints that are not labelled are 0, 0, 0"
    )
