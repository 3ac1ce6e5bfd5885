"""Readers of labeled image folders in common layouts, and a writer of COCO files."""

from .discover import discover_dataset, discover_voc_lists
from .records import DiscoveredDataset, Keypoints, LabeledImage, LabeledObject, Report, Split
from .write import coco_content, write_coco

__all__ = [
    "DiscoveredDataset",
    "Keypoints",
    "LabeledImage",
    "LabeledObject",
    "Report",
    "Split",
    "coco_content",
    "discover_dataset",
    "discover_voc_lists",
    "write_coco",
]
