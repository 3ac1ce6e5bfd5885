"""Names of dataset formats that are not read, with their conversion."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FORMATS", "Format", "recognize"]

_HEAD = 1 << 16
_MOST_FILES = 20


@dataclass(frozen=True)
class Format:
    """Format that is recognized but not read.

    Attributes:
        name: name of the format.
        suffixes: suffixes of its files, in lower case.
        patterns: regular expressions that all occur in the first 64 KiB of a file; a pattern that starts with ``/`` is
            searched in the path instead.
        remedy: conversion to a supported layout.
    """

    name: str
    suffixes: tuple[str, ...]
    patterns: tuple[str, ...]
    remedy: str

    def matches(self, path: Path) -> bool:
        """Return True if a file has this format."""
        if path.suffix.lower() not in self.suffixes:
            return False
        in_path = [pattern for pattern in self.patterns if pattern.startswith("/")]
        in_text = [pattern for pattern in self.patterns if not pattern.startswith("/")]
        if not all(re.search(pattern, path.as_posix()) for pattern in in_path):
            return False
        text = _head(path) if in_text else ""
        return all(re.search(pattern, text, re.MULTILINE) for pattern in in_text)


_NUMBER = r"-?[\d.]+(?:e-?\d+)?"
_EXPORT = "export it as COCO, Pascal VOC or YOLO"

FORMATS = (
    Format("CVAT XML", (".xml",), (r"<annotations[\s>]", r"<(image|track|meta)[\s>]"), f"in CVAT, {_EXPORT}"),
    Format("dlib imglab XML", (".xml",), (r"<dataset[\s>]", r"<box\s[^>]*top="), "convert it to CSV, one row per box"),
    Format(
        "VIA JSON", (".json",), (r'"regions"\s*:', r'"shape_attributes"\s*:'), "in VIA 2, export annotations as COCO"
    ),
    Format("VIA CSV", (".csv",), ("region_shape_attributes",), "in VIA 2, export annotations as COCO"),
    Format(
        "CreateML",
        (".json",),
        (r'"annotations?"\s*:', r'"coordinates"\s*:', r'"(image|imagefilename)"\s*:'),
        "convert it with Roboflow to COCO",
    ),
    Format(
        "Label Studio",
        (".json",),
        (r'"(annotations|completions)"\s*:|"label"\s*:', r'"(rectanglelabels|original_width)"\s*:'),
        f"in Label Studio, {_EXPORT}",
    ),
    Format("Labelbox", (".json", ".ndjson"), (r'"(data_row|Labeled Data)"\s*:',), "export it with labelbox to COCO"),
    Format(
        "Supervisely",
        (".json",),
        (r'"objects"\s*:', r'"classTitle"\s*:'),
        "in Supervisely, run Export to COCO",
    ),
    Format(
        "Datumaro",
        (".json",),
        (r'"items"\s*:', r'"dm_format_version"|"categories"\s*:'),
        "convert it with datum convert -f coco",
    ),
    Format(
        "BDD100K or Scalabel",
        (".json",),
        (r'"labels"\s*:', r'"box2d"\s*:'),
        "convert it with python -m scalabel.label.to_coco",
    ),
    Format(
        "Cityscapes",
        (".json",),
        (r'"imgHeight"\s*:', r'"polygon"\s*:'),
        "convert it with datum convert -if cityscapes -f coco",
    ),
    Format(
        "COCO panoptic segmentation", (".json",), (r'"segments_info"\s*:',), "pass the instances file of the dataset"
    ),
    Format(
        "COCO captions", (".json",), (r'"caption"\s*:', r'"image_id"\s*:'), "pass the instances file of the dataset"
    ),
    Format(
        "COCO detection results",
        (".json",),
        (r"\A\s*\[", r'"image_id"\s*:', r'"score"\s*:'),
        "results are no labels; pass the annotation file",
    ),
    Format(
        "Hugging Face metadata", (".jsonl",), (r'"file_name"\s*:', r'"objects"\s*:'), "write a COCO file from the rows"
    ),
    Format("SageMaker manifest", (".manifest", ".jsonl"), (r'"source-ref"\s*:',), "write a COCO file from the rows"),
    Format(
        "KITTI tracking",
        (".txt",),
        (rf"\A\s*\d+ -?\d+ [A-Za-z_]+(\s+{_NUMBER}){{14,15}}\s*$",),
        "write one file per frame to label_2, without the first two columns",
    ),
    Format(
        "DOTA",
        (".txt",),
        (rf"^[ \t]*(?:{_NUMBER}[ \t,]+){{8}}[A-Za-z][\w-]*([ \t]+[012])?[ \t\r]*$",),
        "convert polygons to boxes with ultralytics.data.converter.convert_dota_to_yolo_obb",
    ),
    Format(
        "MOT Challenge",
        (".txt",),
        (rf"\A\s*\d+,\s*-?\d+(,\s*{_NUMBER}){{5,8}}\s*$", r"/(gt|det)/"),
        "convert it with datum convert -if mot_seq -f coco",
    ),
    Format(
        "WIDER FACE",
        (".txt",),
        (rf"\A\S.*\.jpe?g\s*\n\d+\s*\n{_NUMBER} {_NUMBER}",),
        "convert it with datum convert -if wider_face -f coco",
    ),
    Format(
        "image list with boxes (keras-yolo3)",
        (".txt",),
        (r"^\S.*\.(jpe?g|png|bmp)[ \t]+\d+,\d+,\d+,\d+,\d+",),
        "write a CSV with the header path,x1,y1,x2,y2,label",
    ),
    Format("CrowdHuman odgt", (".odgt",), (), "convert it to COCO with one annotation per gtbox"),
    Format(
        "TFRecord",
        (".tfrecord", ".tfrecords", ".record"),
        (),
        "convert it with datum convert -if tf_detection_api -f coco",
    ),
    Format("Parquet or Arrow", (".parquet", ".arrow"), (), "write the images to files and a COCO file"),
    Format("MATLAB", (".mat",), (), "write a CSV with the header path,x1,y1,x2,y2,label"),
    Format("LMDB or HDF5", (".mdb", ".h5", ".hdf5"), (), "write the images to files and a COCO file"),
)


def recognize(paths: Iterable[Path]) -> dict[Format, Path]:
    """Return the recognized formats with one file each.

    At most 20 files per suffix are inspected.
    """
    found: dict[Format, Path] = {}
    inspected: dict[str, int] = {}
    for path in paths:
        suffix = path.suffix.lower()
        inspected[suffix] = inspected.get(suffix, 0) + 1
        if inspected[suffix] <= _MOST_FILES:
            match = next((known for known in FORMATS if known.matches(path)), None)
            if match is not None:
                found.setdefault(match, path)
    return found


def _head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD).replace(b"\0", b"").decode("utf-8-sig", "replace")
    except OSError:
        return ""
