"""Reads folders of labelled images in the layouts that people have, and writes COCO files from them."""

from .discover import find_data, find_lists
from .records import FoundData, Keypoints, LabeledImage, LabeledObject, Report, Split
from .write import coco_content, write_coco

__all__ = [
    "FoundData",
    "Keypoints",
    "LabeledImage",
    "LabeledObject",
    "Report",
    "Split",
    "coco_content",
    "find_data",
    "find_lists",
    "write_coco",
]
