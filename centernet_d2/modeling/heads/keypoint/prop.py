"""Keypoints outside the network: annotations on their way to training, errors, pictures, JSON."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import Transform
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from torch import Tensor

from ....imaging.transforms import is_mirrored
from ....structures.points import HALF_PIXEL
from ....structures.types import DatasetDict
from ....utils.validation import LARGEST_COORDINATE, number_table
from ..point_head import Property
from .schema import KeypointSchema, keypoint_schema

__all__ = ["KeypointProperty"]


class KeypointProperty(Property):
    """Keypoints of an object, as COCO has them: x, y and visibility (0 not labelled, 1 hidden, 2 visible) of each."""

    name = "keypoint"
    node = "KEYPOINTS"
    keys = {"needs_joints": "MODEL.CENTERNET.QUIRKS.KEYPOINTS.NEEDS_JOINTS"}
    annotation_keys = ("keypoints",)
    fields = ("pred_keypoints",)
    arguments = {
        "--joint-scores": {"action": "store_true", "help": "write its score beside every keypoint"},
    }

    @configurable
    def __init__(self, *, schema: KeypointSchema, needs_joints: bool = True) -> None:
        """
        Args:
            schema: number, names and mirror images of the keypoints.
            needs_joints: objects whose keypoints are all unlabelled stay objects, but nothing is learned at their
                centers, not even their boxes (original.md: People without joints). Objects without any keypoints keep
                theirs.
        """
        self.schema = schema
        self.needs_joints = needs_joints
        self._draws_scores = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), "schema": keypoint_schema(cfg)}

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        # Names of the keypoints, in order, and pairs that a mirror swaps; data sets registered in Python have them in
        # their metadata. Their number is MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS.
        node.NAMES = []
        node.FLIP_MAP = []
        # Pairs of names between which pictures have lines.
        node.SKELETON = []
        # Heatmaps of the joints, to whose peaks the regressed joints snap, and the sub-cell offset of those peaks.
        node.REFINE = True
        node.OFFSET = True

    @classmethod
    def add_quirks(cls, node: CfgNode) -> None:
        # Objects whose keypoints are all unlabeled: False learns their boxes, True nothing at their centers
        # (original.md: People without joints).
        node.NEEDS_JOINTS = True
        # False gives every joint its own score, True gives it 1 (original.md: Pose decoding).
        node.CONSTANT_SCORE = False

    def metadata(self) -> dict[str, Any]:
        return self.schema.metadata()

    def use_metadata(self, metadata: Mapping[str, object]) -> None:
        if not self.schema.names:
            self.schema = KeypointSchema.from_metadata(metadata, len(self.schema)) or self.schema

    def check(self, dicts: Sequence[DatasetDict]) -> None:
        """See :meth:`Property.check`.

        Raises:
            ValueError: the wrong number of keypoints, a visibility that is not 0, 1 or 2, or a coordinate that is not
                finite or absurd; names the image.
        """
        found = [
            (image["file_name"], index, annotation["keypoints"])
            for image in dicts
            for index, annotation in enumerate(image.get("annotations", ()))
            if _has_keypoints(annotation)
        ]
        if _are_keypoints([keypoints for _, _, keypoints in found], len(self.schema)):
            return
        for file_name, index, keypoints in found:
            if not _are_keypoints([keypoints], len(self.schema)):
                raise ValueError(
                    f"{file_name}, annotation {index} of this image: {_what_is_wrong(keypoints, self.schema)}"
                )

    def annotate(self, record: DatasetDict, transforms: Sequence[Transform], size: tuple[int, int]) -> dict[str, Any]:
        """Keypoints under the transforms of an image; mirrored an odd number of times, left and right swap.

        Returns:
            ``gt_keypoints`` (N, K, 3) in index coordinates of the network input, zeros for annotations without any, and
            ``gt_weight`` (N,).

        Raises:
            ValueError: a list of keypoints has the wrong length.
        """
        annotations, count = record["annotations"], len(self.schema)
        keypoints = np.zeros((len(annotations), count, 3))
        weight = np.ones(len(annotations), dtype=np.float32)
        for index, annotation in enumerate(annotations):
            if _has_keypoints(annotation):
                keypoints[index] = self.schema.as_array(annotation["keypoints"])
                weight[index] = not self.needs_joints or (keypoints[index, :, 2] > 0).any()
        positions = keypoints[..., :2].reshape(-1, 2) - HALF_PIXEL
        for transform in transforms:
            positions = transform.apply_coords(positions)
        keypoints[..., :2] = positions.reshape(len(annotations), count, 2)
        if is_mirrored(transforms):
            keypoints = keypoints[:, self.schema.mirror]
        return {"gt_keypoints": torch.from_numpy(keypoints).float(), "gt_weight": torch.from_numpy(weight)}

    def labelled(self, truth: Instances) -> Tensor:
        """Objects with at least one keypoint."""
        return (truth.gt_keypoints[..., 2] > 0).any(dim=1)

    def errors(self, found: Instances, truth: Instances) -> dict[str, float]:
        """The mean distance in pixels by keypoint, and ``mean`` over the objects."""
        places = found.pred_keypoints[..., :2].double() - HALF_PIXEL
        distances = (places - truth.gt_keypoints[..., :2].double()).norm(dim=2)
        distances[truth.gt_keypoints[..., 2] == 0] = float("nan")
        names = self.schema.names or tuple(map(str, range(len(self.schema))))
        by_keypoint = dict(zip(names, distances.nanmean(dim=0).tolist(), strict=True))
        return {**by_keypoint, "mean": float(distances.nanmean(dim=1).mean())}

    def draw(self, picture: Visualizer, instances: Instances, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """Keypoints above the threshold of the picture, with the lines of the skeleton between them."""
        found = instances.has("scores")
        keypoints = instances.pred_keypoints if found else instances.gt_keypoints
        for one in keypoints.tolist():
            picture.draw_and_connect_keypoints(one)
        if found and self._draws_scores:
            for x, y, score in keypoints.flatten(0, 1).tolist():
                if score > picture.keypoint_threshold:
                    picture.draw_text(f"{score:.2f}", (x + 2, y), font_size=7, horizontal_alignment="left")
        return []

    def to_json(self, instances: Instances) -> list[dict[str, Any]]:
        """``keypoints`` as COCO has them: x, y and score, one keypoint after the other."""
        keypoints = instances.pred_keypoints.clone()
        keypoints[..., :2] -= HALF_PIXEL
        return [{"keypoints": row} for row in keypoints.flatten(1).tolist()]

    def use_arguments(self, args: argparse.Namespace) -> None:
        self._draws_scores = args.joint_scores


def _has_keypoints(annotation: dict) -> bool:
    """Whether an annotation lists keypoints; ``None`` and an empty list are none."""
    keypoints = annotation.get("keypoints")
    return keypoints is not None and not (isinstance(keypoints, (list, tuple)) and len(keypoints) == 0)


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
