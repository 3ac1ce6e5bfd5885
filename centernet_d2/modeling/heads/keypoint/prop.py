"""Keypoint property: annotations, error metrics, visualization, JSON."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import Transform
from detectron2.structures import Instances
from torch import Tensor

from ....imaging.transforms import is_mirrored
from ....structures.plots import Plot
from ....structures.points import HALF_PIXEL
from ....structures.types import DatasetDict
from ....utils.validation import LARGEST_COORDINATE, number_table
from ..point_head import Property
from .plots import error_plots, label_plots
from .schema import KeypointSchema, keypoint_schema

if TYPE_CHECKING:  # It imports matplotlib, which takes a second.
    from detectron2.utils.visualizer import Visualizer

__all__ = ["KeypointProperty"]


class KeypointProperty(Property):
    """Keypoints of an object in COCO format.

    Each keypoint is x, y, visibility (0 not labeled, 1 labeled but not visible, 2 visible).
    """

    name = "keypoint"
    node = "KEYPOINTS"
    keys = {"needs_joints": "MODEL.CENTERNET.QUIRKS.KEYPOINTS.NEEDS_JOINTS"}
    annotation_keys = ("keypoints",)
    fields = ("pred_keypoints",)
    arguments = {
        "--joint-scores": {"action": "store_true", "help": "draw the score next to each keypoint"},
    }

    @configurable
    def __init__(self, *, schema: KeypointSchema, needs_joints: bool = True) -> None:
        """
        Args:
            schema: keypoint schema.
            needs_joints: do not supervise anything at the centers of objects whose keypoints are all unlabeled, not
                even their boxes; they remain objects in the heatmap (original.md: People without joints). Objects
                without ``keypoints`` are supervised.
        """
        self.schema = schema
        self.needs_joints = needs_joints
        self._draws_scores = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), "schema": keypoint_schema(cfg)}

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        # Names of the keypoints, in order, and pairs that are swapped by horizontal flipping. Datasets registered in
        # Python specify them in their metadata. Their number is MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS.
        node.NAMES = []
        node.FLIP_MAP = []
        # Pairs of names that are connected by a line in visualizations.
        node.SKELETON = []
        # Predict joint heatmaps, to whose peaks regressed joints snap, and sub-cell offsets of these peaks.
        node.REFINE = True
        node.OFFSET = True

    @classmethod
    def add_quirks(cls, node: CfgNode) -> None:
        # Objects whose keypoints are all unlabeled: False supervises their boxes, True nothing at their centers
        # (original.md: People without joints).
        node.NEEDS_JOINTS = True
        # Joint scores: False predicts them, True sets them to 1 (original.md: Pose decoding).
        node.CONSTANT_SCORE = False

    def metadata(self) -> dict[str, Any]:
        return self.schema.metadata()

    def use_metadata(self, metadata: Mapping[str, object]) -> None:
        if not self.schema.names:
            self.schema = KeypointSchema.from_metadata(metadata, len(self.schema)) or self.schema

    def check(self, dicts: Sequence[DatasetDict]) -> None:
        """Validate keypoint annotations, see :meth:`Property.check`.

        Raises:
            ValueError: if the number of keypoints is wrong, a visibility is not 0, 1 or 2, or a coordinate is not
                finite or too large; the message names the image.
        """
        annotated = [
            (image["file_name"], index, annotation["keypoints"])
            for image in dicts
            for index, annotation in enumerate(image.get("annotations", ()))
            if _has_keypoints(annotation)
        ]
        if _are_valid([keypoints for _, _, keypoints in annotated], len(self.schema)):
            return
        for file_name, index, keypoints in annotated:
            if not _are_valid([keypoints], len(self.schema)):
                raise ValueError(
                    f"{file_name}, annotation {index} of this image: {_describe_problem(keypoints, self.schema)}"
                )

    def annotate(self, record: DatasetDict, transforms: Sequence[Transform], size: tuple[int, int]) -> dict[str, Any]:
        """Transform keypoints with the image.

        Left and right keypoints are swapped in horizontally flipped images.

        Returns:
            ``gt_keypoints`` (N, K, 3) in index coordinates of the network input, zeros for annotations without
            keypoints, and ``gt_weight`` (N,).

        Raises:
            ValueError: if the number of keypoints is wrong.
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

    def labeled(self, truth: Instances) -> Tensor:
        """Return True for objects with at least one labeled keypoint."""
        return (truth.gt_keypoints[..., 2] > 0).any(dim=1)

    def errors(self, detections: Instances, truth: Instances) -> dict[str, float]:
        """Compute the mean distance in pixels per keypoint, and ``mean`` over objects."""
        positions = detections.pred_keypoints[..., :2].double() - HALF_PIXEL
        distances = (positions - truth.gt_keypoints[..., :2].double()).norm(dim=2)
        distances[truth.gt_keypoints[..., 2] == 0] = float("nan")
        names = self.schema.names or tuple(map(str, range(len(self.schema))))
        by_keypoint = dict(zip(names, distances.nanmean(dim=0).tolist(), strict=True))
        return {**by_keypoint, "mean": float(distances.nanmean(dim=1).mean())}

    def plots(self, found: Instances | None, truth: Instances) -> list[Plot]:
        """Return labeled shares, or errors and swaps of detections (:mod:`.plots`)."""
        names = self.schema.names or tuple(map(str, range(len(self.schema))))
        labels = truth.gt_keypoints.double().numpy()
        if found is None:
            return label_plots(labels, names, self.schema.mirror)
        positions = found.pred_keypoints[..., :2].double().numpy() - HALF_PIXEL
        return error_plots(positions, labels, truth.gt_boxes.area().double().numpy(), names, self.schema.mirror)

    def draw(self, visualizer: Visualizer, instances: Instances, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """Draw keypoints above the visualizer's threshold, and their skeleton."""
        predicted = instances.has("scores")
        keypoints = instances.pred_keypoints if predicted else instances.gt_keypoints
        for row in keypoints.tolist():
            visualizer.draw_and_connect_keypoints(row)
        if predicted and self._draws_scores:
            for x, y, score in keypoints.flatten(0, 1).tolist():
                if score > visualizer.keypoint_threshold:
                    visualizer.draw_text(f"{score:.2f}", (x + 2, y), font_size=7, horizontal_alignment="left")
        return []

    def to_json(self, instances: Instances) -> list[dict[str, Any]]:
        """Return ``keypoints`` in COCO format: flat x, y, score triples."""
        keypoints = instances.pred_keypoints.clone()
        keypoints[..., :2] -= HALF_PIXEL
        return [{"keypoints": row} for row in keypoints.flatten(1).tolist()]

    def use_arguments(self, args: argparse.Namespace) -> None:
        self._draws_scores = args.joint_scores


def _has_keypoints(annotation: dict) -> bool:
    """Return True if an annotation has keypoints that are not None or empty."""
    keypoints = annotation.get("keypoints")
    return keypoints is not None and not (isinstance(keypoints, (list, tuple)) and len(keypoints) == 0)


def _are_valid(rows: Sequence[Sequence[float]], count: int) -> bool:
    table = number_table(rows, 3 * count)
    return table is not None and bool(np.isin(table[:, 2::3], (0, 1, 2)).all())


def _describe_problem(keypoints: Sequence[float], schema: KeypointSchema) -> str:
    try:
        visibility = schema.as_array(keypoints)[:, 2].tolist()
    except (TypeError, ValueError) as error:
        return str(error)
    if not np.isin(visibility, (0, 1, 2)).all():
        return f"visibilities must be 0, 1 or 2, but are {visibility}"
    return (
        f"coordinates of the keypoints {list(keypoints)} must be finite and at most {LARGEST_COORDINATE} pixels; "
        "use 0, 0, 0 for unlabeled keypoints"
    )
