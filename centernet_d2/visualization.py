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

from .modeling.points import known_objects
from .structures.boxes3d import Boxes3D

__all__ = [
    "draw_birds_eye",
    "draw_boxes3d",
    "draw_heatmap",
    "draw_instances",
    "draw_scene3d",
    "draw_training",
    "side_by_side",
]

# The class of regions to ignore, whatever class they are ignored for.
_IGNORED = -1
# RGB of ground truth and predictions in pictures of space.
_TRUTH, _PREDICTION = (60, 220, 60), (255, 140, 0)


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
        boxes, classes, scores = instances.gt_boxes, instances.gt_classes.clone(), [None] * len(instances)
        if instances.has("gt_ignore"):
            classes[instances.gt_ignore] = _IGNORED
    names = [_class_name(i, class_names) for i in classes.tolist()]
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


def draw_boxes3d(image: np.ndarray, boxes: Boxes3D, camera: Tensor, color: tuple[int, int, int]) -> np.ndarray:
    """Draw the edges of 3-D boxes into an image, with a cross on the face that looks ahead.

    Args:
        image: (H, W, 3) uint8.
        boxes: in camera coordinates.
        camera: (3, 4) projection matrix of the image.
        color: of the lines.

    Returns:
        A new (H, W, 3) uint8 picture.
    """
    picture = np.ascontiguousarray(image).copy()
    edges, seen = (tensor.cpu() for tensor in boxes.projected_edges(camera))
    for lines, visible in zip(edges, seen, strict=True):
        # Edges 0 and 4 are the bottom and the top of the front; from the end of one to the start of the other.
        front = torch.stack([torch.stack([lines[0, i], lines[4, 1 - i]]) for i in (0, 1)])
        crossed = visible[[0, 4]].all().expand(2)
        for line in torch.cat([lines[visible], front[crossed]]).tolist():
            # Far outside the image, pixels are beyond what OpenCV can count.
            start, end = ([int(min(max(16 * value, -1e6), 1e6)) for value in point] for point in line)
            cv2.line(picture, start, end, color, 1, cv2.LINE_AA, 4)
    return picture


def draw_birds_eye(
    groups: Sequence[tuple[Boxes3D, tuple[int, int, int]]], size: tuple[int, int], depth: float = 60.0
) -> np.ndarray:
    """What stands on the ground, seen from above: the camera is at the middle of the bottom and looks up.

    Args:
        groups: boxes and the color of each list of them.
        size: height and width of the picture.
        depth: metres from the bottom to the top; sideways the scale is the same.

    Returns:
        (H, W, 3) uint8 picture, with a line every ten metres and a stroke from each box to where it is heading.
    """
    height, width = size
    picture = np.full((height, width, 3), 245, dtype=np.uint8)
    scale = height / depth

    def place(points: Tensor) -> np.ndarray:
        """(..., 2) metres (x, z) -> fixed-point pixels with four binary digits, within what OpenCV can count."""
        pixels = torch.stack([width / 2 + points[..., 0] * scale, height - points[..., 1] * scale], dim=-1)
        return (pixels * 16).nan_to_num(0).clamp(-1e6, 1e6).round().int().cpu().numpy()

    for distance in range(10, int(depth), 10):
        row = round(height - distance * scale)
        cv2.line(picture, (0, row), (width, row), (215, 215, 215), 1)
        cv2.putText(picture, f"{distance} m", (2, row - 2), cv2.FONT_HERSHEY_SIMPLEX, 0.3, (130, 130, 130), 1)
    for boxes, color in groups:
        cv2.polylines(picture, list(place(boxes.bev_polygons())), True, color, 1, cv2.LINE_AA, 4)
        for start, end in place(boxes.heading()[..., 0::2]):
            cv2.line(picture, start.tolist(), end.tolist(), color, 1, cv2.LINE_AA, 4)
    return picture


def draw_scene3d(
    image: np.ndarray, camera: Tensor, gt: Boxes3D | None = None, predictions: Boxes3D | None = None
) -> np.ndarray:
    """3-D boxes in the image and the bird's-eye view beside it; ground truth is green, predictions are orange.

    Args:
        image: (H, W, 3) uint8 RGB.
        camera: (3, 4) projection matrix of the image.
        gt, predictions: in camera coordinates.

    Returns:
        (H, W + max(H, 160), 3) uint8 RGB picture.
    """
    groups = [(boxes, color) for boxes, color in ((gt, _TRUTH), (predictions, _PREDICTION)) if boxes is not None]
    picture = image
    for boxes, color in groups:
        picture = draw_boxes3d(picture, boxes, camera, color)
    depth = max([10.0, *(float(boxes.location[:, 2].max()) for boxes, _ in groups if len(boxes))])
    # Up to the next ten metres; a network that has learned nothing may see things at any distance.
    depth = min(10.0 * (int(depth / 10) + 1), 80.0)
    size = (image.shape[0], max(image.shape[0], 160))
    return np.concatenate([picture, draw_birds_eye(groups, size, depth)], axis=1)


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
    image: Tensor,
    image_format: str,
    gt: Instances,
    detections: Instances,
    heatmap: Tensor,
    stride: int,
    *,
    camera: Tensor | None = None,
    threshold: float = 0.3,
) -> np.ndarray:
    """One training image three times: ground truth, predictions, center heatmap.

    Args:
        image: (3, H, W) as the network sees it, before normalisation.
        image_format: "BGR" or "RGB".
        gt, detections: in pixels of this image.
        heatmap: (C, h, w) probabilities.
        stride: image pixels per map pixel.
        camera: (3, 4) projection matrix of this image; with it and 3-D boxes there is a fourth picture, of space.
        threshold: detections below this score are not drawn.

    Returns:
        (3, h, w) uint8 RGB, as the event storage wants it.
    """
    pixels = image.permute(1, 2, 0).cpu().numpy().clip(0, 255).astype(np.uint8)
    pixels = convert_image_to_rgb(pixels, image_format)
    to_image = torch.tensor([[stride, 0.0, 0.0], [0.0, stride, 0.0]])
    pictures = [
        draw_instances(pixels, gt),
        draw_instances(pixels, detections, threshold=threshold),
        draw_heatmap(pixels, heatmap, to_image),
    ]
    captions = ["ground truth", "predictions", "heatmap"]
    if camera is not None and gt.has("gt_boxes3d") and detections.has("pred_boxes3d"):
        found = detections.pred_boxes3d[detections.scores > threshold]
        pictures.append(draw_scene3d(pixels, camera, known_objects(gt).gt_boxes3d, found.to("cpu")))
        captions.append("space: true green, found orange")
    return side_by_side(pictures, captions).transpose(2, 0, 1)
