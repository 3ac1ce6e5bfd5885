"""Pictures: boxes on images, heatmaps over them, ground truth beside predictions. Needs no screen."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from torch import Tensor

__all__ = ["draw_heatmap", "draw_instances", "draw_training", "side_by_side"]


def draw_instances(
    image: np.ndarray,
    instances: Instances,
    class_names: Sequence[str] | None = None,
    threshold: float = 0.3,
    metadata: Metadata | None = None,
    joint_scores: bool = False,
) -> np.ndarray:
    """Draw detections (``pred_boxes``, ``scores``, ``pred_classes``) or ground truth (``gt_boxes``, ``gt_classes``).

    Keypoints, where there are any, are drawn where they score above 0.05, with the lines between them that the metadata
    names in ``keypoint_connection_rules``.

    Args:
        image: (H, W, 3) uint8 RGB.
        instances: in pixels of the image.
        class_names: one color and name per class; without them, numbers.
        threshold: detections below this score are not drawn.
        metadata: of the data set, for names and lines of keypoints.
        joint_scores: write its score beside every predicted keypoint.

    Returns:
        A new (H, W, 3) uint8 RGB picture.
    """
    instances = instances.to("cpu")
    prefix = "pred" if instances.has("scores") else "gt"
    if instances.has("scores"):
        instances = instances[instances.scores > threshold]
        boxes, classes, scores = instances.pred_boxes, instances.pred_classes, instances.scores.tolist()
    else:
        boxes, classes, scores = instances.gt_boxes, instances.gt_classes, [None] * len(instances)
    names = [class_names[i] if class_names else str(i) for i in classes.tolist()]
    labels = [name if score is None else f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]
    # An empty set of keypoints would make the Visualizer stumble.
    has_keypoints = len(instances) > 0 and instances.has(f"{prefix}_keypoints")
    keypoints = instances.get(f"{prefix}_keypoints") if has_keypoints else None
    drawer = Visualizer(image, metadata or Metadata(), scale=1.0)
    colors = [_class_color(i) for i in classes.tolist()]
    drawer.overlay_instances(boxes=boxes, labels=labels, keypoints=keypoints, assigned_colors=colors, alpha=0.3)
    if joint_scores and has_keypoints and prefix == "pred":
        for x, y, score in keypoints.flatten(0, 1).tolist():
            if score > drawer.keypoint_threshold:
                drawer.draw_text(f"{score:.2f}", (x + 2, y), font_size=7, horizontal_alignment="left")
    return drawer.output.get_image()


def _class_color(index: int) -> tuple[float, float, float]:
    """A bright RGB color in 0..1; hues by the golden ratio, so that neighbours differ."""
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
    """Pictures of one size in a row, enlarged to a readable width, each under its caption.

    Args:
        pictures: (H, W, 3) uint8 each.
        captions: one per picture, or none.
        min_width: smaller pictures are enlarged by a whole factor to at least this width.
    """
    factor = max(1, -(-min_width // pictures[0].shape[1]))
    enlarged = [np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1) for picture in pictures]
    if captions:
        enlarged = [np.concatenate([_caption(text, p.shape[1]), p]) for text, p in zip(captions, enlarged, strict=True)]
    gap = np.full((enlarged[0].shape[0], 6, 3), 255, dtype=np.uint8)
    row = [part for picture in enlarged for part in (picture, gap)]
    return np.concatenate(row[:-1], axis=1)


def _caption(text: str, width: int) -> np.ndarray:
    strip = np.full((24, width, 3), 255, dtype=np.uint8)
    return cv2.putText(strip, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)


def draw_training(
    image: Tensor, image_format: str, gt: Instances, detections: Instances, heatmap: Tensor, stride: int
) -> np.ndarray:
    """One training image three times: ground truth, predictions, center heatmap.

    Args:
        image: (3, H, W) as the network sees it, before normalisation.
        image_format: "BGR" or "RGB".
        gt, detections: in pixels of this image.
        heatmap: (C, h, w) probabilities.
        stride: image pixels per map pixel.

    Returns:
        (3, h, w) uint8 RGB, as the event storage wants it.
    """
    pixels = image.permute(1, 2, 0).cpu().numpy().clip(0, 255).astype(np.uint8)
    pixels = convert_image_to_rgb(pixels, image_format)
    to_image = torch.tensor([[stride, 0.0, 0.0], [0.0, stride, 0.0]])
    pictures = [
        draw_instances(pixels, gt),
        draw_instances(pixels, detections),
        draw_heatmap(pixels, heatmap, to_image),
    ]
    return side_by_side(pictures, ["ground truth", "predictions", "heatmap"]).transpose(2, 0, 1)
