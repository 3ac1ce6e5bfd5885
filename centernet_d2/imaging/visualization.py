"""Pictures: boxes on images, heatmaps over them, ground truth beside predictions. Needs no screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from torch import Tensor

__all__ = ["draw_heatmap", "draw_instances", "draw_training", "side_by_side"]

# The class of regions to ignore, whatever class they are ignored for.
_IGNORED = -1
_NO_INPUTS: Mapping[str, Any] = MappingProxyType({})


class Drawn(Protocol):
    """What can be drawn beside boxes: see :class:`centernet_d2.modeling.heads.Property`."""

    def metadata(self) -> dict[str, Any]: ...

    def draw(self, visualizer: Visualizer, instances: Instances, inputs: Mapping[str, Any]) -> list[np.ndarray]: ...


def draw_instances(
    image: np.ndarray,
    instances: Instances,
    class_names: Sequence[str] | None = None,
    threshold: float = 0.3,
    properties: Sequence[Drawn] = (),
    inputs: Mapping[str, Any] = _NO_INPUTS,
) -> np.ndarray:
    """Draw detections (``pred_boxes``, ``scores``, ``pred_classes``) or ground truth (``gt_boxes``, ``gt_classes``).

    Args:
        image: (H, W, 3) uint8 RGB.
        instances: in pixels of the image.
        class_names: one color and name per class; without them, numbers.
        threshold: detections below this score are not drawn.
        properties: of the points; they draw what belongs to them.
        inputs: what these know of the image beside its pixels.

    Returns:
        A new (H, W', 3) uint8 RGB picture; wider than the image if a property has more to show.
    """
    instances = instances.to("cpu")
    if instances.has("scores"):
        instances = instances[instances.scores > threshold]
        boxes, classes, scores = instances.pred_boxes, instances.pred_classes, instances.scores.tolist()
    else:
        boxes, classes, scores = instances.gt_boxes, instances.gt_classes.clone(), [None] * len(instances)
        if instances.has("gt_ignore"):
            classes[instances.gt_ignore] = _IGNORED
    names = [_class_name(i, class_names) for i in classes.tolist()]
    labels = [name if score is None else f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]
    metadata = Metadata(**{key: value for prop in properties for key, value in prop.metadata().items()})
    drawer = Visualizer(image, metadata, scale=1.0)
    colors = [_class_color(i) for i in classes.tolist()]
    drawer.overlay_instances(boxes=boxes, labels=labels, assigned_colors=colors, alpha=0.3)
    panels = [panel for prop in properties for panel in prop.draw(drawer, instances, inputs)]
    return _beside([drawer.output.get_image(), *panels])


def _beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures in a row; lower ones are padded with white at the bottom."""
    height = max(picture.shape[0] for picture in pictures)
    padding = [((0, height - picture.shape[0]), (0, 0), (0, 0)) for picture in pictures]
    padded = [np.pad(picture, pad, constant_values=255) for picture, pad in zip(pictures, padding, strict=True)]
    return np.concatenate(padded, axis=1)


def _class_name(index: int, class_names: Sequence[str] | None) -> str:
    if index == _IGNORED:
        return "ignored"
    return class_names[index] if class_names else str(index)


def _class_color(index: int) -> tuple[float, float, float]:
    """A bright RGB color in 0..1; hues by the golden ratio, so that neighbours differ. Grey for what is ignored."""
    if index == _IGNORED:
        return (0.6, 0.6, 0.6)
    hue = np.array([[[int(180 * (index * 0.618 % 1)), 220, 255]]], dtype=np.uint8)
    return tuple(cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0] / 255)


def draw_heatmap(image: np.ndarray, heatmap: Tensor, to_image: Tensor) -> np.ndarray:
    """Lay the strongest class of a center heatmap over an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        heatmap: (C, h, w) probabilities.
        to_image: (2, 3) matrix from map to image pixels.

    Returns:
        A new (H, W, 3) uint8 RGB picture; 0 leaves the image dimmed, 1 is bright yellow.
    """
    height, width = image.shape[:2]
    strongest = heatmap.amax(dim=0).float().cpu().numpy()
    strength = cv2.warpAffine(strongest, to_image.double().cpu().numpy(), (width, height), flags=cv2.INTER_LINEAR)
    glow = cv2.applyColorMap((strength * 255).clip(0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.clip(image * 0.5 + glow * 0.8, 0, 255).astype(np.uint8)


def side_by_side(pictures: Sequence[np.ndarray], captions: Sequence[str] = (), min_width: int = 320) -> np.ndarray:
    """Pictures in a row, enlarged by one factor to a readable width, each under its caption.

    Args:
        pictures: (H, W, 3) uint8 each; their sizes may differ.
        captions: one per picture, or none.
        min_width: smaller pictures are enlarged by a whole factor to at least this width.
    """
    factor = max(1, -(-min_width // min(picture.shape[1] for picture in pictures)))
    enlarged = [np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1) for picture in pictures]
    if captions:
        enlarged = [np.concatenate([_caption(text, p.shape[1]), p]) for text, p in zip(captions, enlarged, strict=True)]
    gap = np.full((max(picture.shape[0] for picture in enlarged), 6, 3), 255, dtype=np.uint8)
    row = [part for picture in enlarged for part in (picture, gap)]
    return _beside(row[:-1])


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
    properties: Sequence[Drawn] = (),
    inputs: Mapping[str, Any] = _NO_INPUTS,
) -> np.ndarray:
    """One training image three times: ground truth, predictions, center heatmap.

    Args:
        image: (3, H, W) as the network sees it, before normalisation.
        image_format: "BGR" or "RGB".
        gt, detections: in pixels of this image.
        heatmap: (C, h, w) probabilities.
        stride: image pixels per map pixel.
        threshold: detections below this score are not drawn.
        properties, inputs: see :func:`draw_instances`.

    Returns:
        (3, h, w) uint8 RGB, as the event storage wants it.
    """
    pixels = image.permute(1, 2, 0).cpu().numpy().clip(0, 255).astype(np.uint8)
    pixels = convert_image_to_rgb(pixels, image_format)
    to_image = torch.tensor([[stride, 0.0, 0.0], [0.0, stride, 0.0]])
    pictures = [
        draw_instances(pixels, gt, properties=properties, inputs=inputs),
        draw_instances(pixels, detections, threshold=threshold, properties=properties, inputs=inputs),
        draw_heatmap(pixels, heatmap, to_image),
    ]
    return side_by_side(pictures, ["ground truth", "predictions", "heatmap"]).transpose(2, 0, 1)
