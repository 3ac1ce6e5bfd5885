"""Visualization of detections, ground truth and heatmaps; no display is required."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from torch import Tensor

if TYPE_CHECKING:  # It imports matplotlib, which takes a second.
    from detectron2.utils.visualizer import Visualizer

__all__ = ["class_color", "draw_heatmap", "draw_instances", "draw_training", "side_by_side"]

# Class of all regions to ignore, independent of the class for which they are ignored.
_IGNORED = -1
_NO_INPUTS: Mapping[str, Any] = MappingProxyType({})


class Drawable(Protocol):
    """Property that can be drawn, see :class:`centernet_d2.modeling.heads.Property`."""

    def metadata(self) -> dict[str, Any]: ...

    def draw(self, visualizer: Visualizer, instances: Instances, inputs: Mapping[str, Any]) -> list[np.ndarray]: ...


def draw_instances(
    image: np.ndarray,
    instances: Instances,
    class_names: Sequence[str] | None = None,
    threshold: float = 0.3,
    properties: Sequence[Drawable] = (),
    inputs: Mapping[str, Any] = _NO_INPUTS,
    labels: bool = True,
) -> np.ndarray:
    """Draw detections or ground truth on an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        instances: detections (``pred_boxes``, ``scores``, ``pred_classes``) or ground truth (``gt_boxes``,
            ``gt_classes``) in image coordinates.
        class_names: names of the classes; by default, class indices are drawn.
        threshold: detections with at most this score are not drawn.
        properties: properties to draw in addition to boxes.
        inputs: additional inputs of the image (such as its camera), passed to the properties.
        labels: draw class names and scores.

    Returns:
        New (H, W', 3) uint8 RGB figure; it is wider than the image if properties draw panels next to it.
    """
    from detectron2.utils.visualizer import Visualizer

    instances = instances.to("cpu")
    if instances.has("scores"):
        instances = instances[instances.scores > threshold]
        boxes, classes, scores = instances.pred_boxes, instances.pred_classes, instances.scores.tolist()
    else:
        boxes, classes, scores = instances.gt_boxes, instances.gt_classes.clone(), [None] * len(instances)
        if instances.has("gt_ignore"):
            classes[instances.gt_ignore] = _IGNORED
    names = [_class_name(i, class_names) for i in classes.tolist()]
    texts = [name if score is None else f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]
    metadata = Metadata(**{key: value for prop in properties for key, value in prop.metadata().items()})
    visualizer = Visualizer(image, metadata, scale=1.0)
    if not labels:  # The size of labels determines the width of lines, which would cover small objects.
        visualizer._default_font_size *= 0.7
    colors = [class_color(i) for i in classes.tolist()]
    visualizer.overlay_instances(boxes=boxes, labels=texts if labels else None, assigned_colors=colors, alpha=0.3)
    panels = [panel for prop in properties for panel in prop.draw(visualizer, instances, inputs)]
    return _concatenate([visualizer.output.get_image(), *panels])


def _concatenate(figures: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate figures horizontally, padded with white at the bottom to the same height."""
    height = max(figure.shape[0] for figure in figures)
    padding = [((0, height - figure.shape[0]), (0, 0), (0, 0)) for figure in figures]
    padded = [np.pad(figure, pad, constant_values=255) for figure, pad in zip(figures, padding, strict=True)]
    return np.concatenate(padded, axis=1)


def _class_name(index: int, class_names: Sequence[str] | None) -> str:
    if index == _IGNORED:
        return "ignored"
    return class_names[index] if class_names else str(index)


def class_color(index: int) -> tuple[float, float, float]:
    """Return the RGB color of a class in 0..1; gray for regions to ignore.

    Hues are spaced by the golden ratio.
    """
    if index == _IGNORED:
        return (0.6, 0.6, 0.6)
    hue = np.array([[[int(180 * (index * 0.618 % 1)), 220, 255]]], dtype=np.uint8)
    return tuple(cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0] / 255)


def draw_heatmap(image: np.ndarray, heatmap: Tensor, to_image: Tensor) -> np.ndarray:
    """Overlay the maximum over the classes of a center heatmap on an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        heatmap: (C, h, w) probabilities.
        to_image: (2, 3) matrix from map to image coordinates.

    Returns:
        New (H, W, 3) uint8 RGB figure; the image is dimmed where the heatmap is 0, and bright yellow where it is 1.
    """
    height, width = image.shape[:2]
    strongest = heatmap.amax(dim=0).float().cpu().numpy()
    strength = cv2.warpAffine(strongest, to_image.double().cpu().numpy(), (width, height), flags=cv2.INTER_LINEAR)
    glow = cv2.applyColorMap((strength * 255).clip(0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.clip(image * 0.5 + glow * 0.8, 0, 255).astype(np.uint8)


def side_by_side(figures: Sequence[np.ndarray], captions: Sequence[str] = (), min_width: int = 320) -> np.ndarray:
    """Join figures in a row, enlarged to a readable width, with captions above them.

    Args:
        figures: (H, W, 3) uint8 arrays, which may have different sizes.
        captions: one per figure, or none.
        min_width: all figures are enlarged by the smallest integer factor that makes each at least this wide.
    """
    factor = max(1, -(-min_width // min(figure.shape[1] for figure in figures)))
    enlarged = [np.repeat(np.repeat(figure, factor, axis=0), factor, axis=1) for figure in figures]
    if captions:
        enlarged = [np.concatenate([_caption(text, p.shape[1]), p]) for text, p in zip(captions, enlarged, strict=True)]
    gap = np.full((max(figure.shape[0] for figure in enlarged), 6, 3), 255, dtype=np.uint8)
    row = [part for figure in enlarged for part in (figure, gap)]
    return _concatenate(row[:-1])


def _caption(text: str, width: int) -> np.ndarray:
    strip = np.full((24, width, 3), 255, dtype=np.uint8)
    return cv2.putText(strip, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)


def draw_training(
    image: Tensor,
    image_format: str,
    gt: Instances,
    detections: Instances,
    heatmap: Tensor,
    stride: int,
    *,
    threshold: float = 0.3,
    properties: Sequence[Drawable] = (),
    inputs: Mapping[str, Any] = _NO_INPUTS,
) -> np.ndarray:
    """Draw ground truth, predictions and center heatmap of one training image.

    Args:
        image: (3, H, W) network input before normalization.
        image_format: "BGR" or "RGB".
        gt, detections: instances in coordinates of this image.
        heatmap: (C, h, w) probabilities.
        stride: output stride, in image pixels per map pixel.
        threshold: detections with at most this score are not drawn.
        properties, inputs: see :func:`draw_instances`.

    Returns:
        (3, h, w) uint8 RGB, the format of ``EventStorage.put_image``.
    """
    pixels = image.permute(1, 2, 0).cpu().numpy().clip(0, 255).astype(np.uint8)
    pixels = convert_image_to_rgb(pixels, image_format)
    to_image = torch.tensor([[stride, 0.0, 0.0], [0.0, stride, 0.0]])
    figures = [
        draw_instances(pixels, gt, properties=properties, inputs=inputs),
        draw_instances(pixels, detections, threshold=threshold, properties=properties, inputs=inputs),
        draw_heatmap(pixels, heatmap, to_image),
    ]
    return side_by_side(figures, ["ground truth", "predictions", "heatmap"]).transpose(2, 0, 1)
