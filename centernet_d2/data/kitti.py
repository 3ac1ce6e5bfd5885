"""KITTI's 3-D benchmark as a Detectron2 data set, and its files (original.md: KITTI data, Regions to ignore).

Boxes are in pixels, XYXY; 3-D quantities in the coordinates of :mod:`centernet_d2.structures.boxes3d`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from tqdm import tqdm

from ..imaging.reading import read_header
from ..readers.kitti import CLASSES, KittiObject, read_objects
from ..structures.calibration import read_camera
from ..structures.types import DatasetDict
from ..utils.files import text_lines
from .checks import ALL_CLASSES, EXCLUDED

__all__ = [
    "ALL_CLASSES",
    "CLASSES",
    "EXCLUDED",
    "KITTI_TYPES",
    "format_result",
    "load_kitti_3d",
    "register_kitti_3d",
    "register_kitti_sets",
]

# Every type of KITTI's labels -> its class; types that are not a class themselves are near one, and ignored there.
KITTI_TYPES = {
    **{name: index for index, name in enumerate(CLASSES)},
    "Van": CLASSES.index("Car"),
    "Truck": CLASSES.index("Car"),
    "Person_sitting": CLASSES.index("Pedestrian"),
    "DontCare": ALL_CLASSES,
    "Tram": EXCLUDED,
    "Misc": EXCLUDED,
}
_IMAGE_SUFFIXES = (".png", ".jpg")


def format_result(kind: str, values: Sequence[float]) -> str:
    """Return one line of a result file as the original writes it (original.md: KITTI data).

    :func:`centernet_d2.readers.kitti.parse_object` is the inverse.

    Args:
        kind: name of the class.
        values: alpha, x1, y1, x2, y2, height, width, length, x, y, z, rotation_y, score.
    """
    return f"{kind} 0.0 0 " + " ".join(f"{value:.2f}" for value in values)


def load_kitti_3d(root: str | Path, split: str) -> list[DatasetDict]:
    """A split of KITTI as dicts in Detectron2's format, in the order of the split file.

    Beside the standard keys an image has ``camera`` ((3, 4) nested list); its ``image_id`` is the name of the frame. An
    annotation has ``kitti_type``, ``ignore``, ``alpha``, ``dimensions`` [h, w, l], ``location`` [x, y, z],
    ``rotation_y``, ``depth``, ``truncation`` and ``occlusion``. All objects of the label file are there, in its order;
    of a few that the camera stands beside, the depth is zero or negative.
    Those that are no object of CLASSES have ``ignore`` True, and their ``category_id`` is the class on whose heatmap
    they are ignored, ALL_CLASSES, or EXCLUDED for what must be left out; ``iscrowd`` says to Detectron2's own checks
    and statistics that they are no objects.

    Args:
        root: folder with ``training/{image_2,label_2,calib}`` and ``ImageSets``.
        split: name of a file in ``ImageSets``, without its suffix.

    Raises:
        FileNotFoundError: the split, or an image, label or calibration file that it asks for, does not exist.
        OSError: an image cannot be read, see :func:`centernet_d2.imaging.reading.read_header`.
        ValueError: a file is malformed; the message names it, and the line of a text file.
    """
    root = Path(root)
    split_file = root / "ImageSets" / f"{split}.txt"
    if not split_file.is_file():
        known = ", ".join(sorted(path.stem for path in split_file.parent.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"the split file {split_file} does not exist; splits in this folder: {known}")
    frames = text_lines(split_file)
    progress = tqdm(frames, desc=f"reading KITTI {split}", leave=False, disable=len(frames) < 500)
    return [_load_frame(root / "training", frame, where) for where, frame in progress]


def _load_frame(folder: Path, frame: str, where: str) -> DatasetDict:
    """One image; `where` says who asked for it."""
    if Path(frame).name != frame:
        raise ValueError(f"{where}: '{frame}' is no name of a frame, such as 000042")
    images = [folder / "image_2" / f"{frame}{suffix}" for suffix in _IMAGE_SUFFIXES]
    image = next((path for path in images if path.is_file()), None)
    label, calibration = folder / "label_2" / f"{frame}.txt", folder / "calib" / f"{frame}.txt"
    if image is None:
        raise FileNotFoundError(f"{where}: the image {images[0]} (or {images[1].name}) does not exist")
    for path, what in ((label, "label"), (calibration, "calibration")):
        if not path.is_file():
            raise FileNotFoundError(f"{where}: the {what} file {path} of the image {image} does not exist")
    width, height, _ = read_header(image)
    return {
        "file_name": str(image),
        "image_id": frame,
        "height": height,
        "width": width,
        "camera": read_camera(calibration),
        "annotations": [_annotation(thing) for thing in read_objects(label)],
    }


def _annotation(thing: KittiObject) -> dict:
    ignore = thing.kind not in CLASSES
    return {
        "bbox": list(thing.box),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": KITTI_TYPES[thing.kind],
        "iscrowd": int(ignore),
        "ignore": ignore,
        "kitti_type": thing.kind,
        "alpha": thing.alpha,
        "dimensions": list(thing.dimensions),
        "location": list(thing.location),
        "rotation_y": thing.rotation_y,
        "depth": thing.location[2],
        "truncation": thing.truncation,
        "occlusion": thing.occlusion,
    }


def register_kitti_3d(name: str, root: str | Path, split: str) -> None:
    """Register a split of KITTI; it is read when it is used first. See :func:`load_kitti_3d`.

    Args:
        name: of the data set.
        root: a relative path starts at $DETECTRON2_DATASETS.
        split: name of a file in ``ImageSets``, without its suffix.

    Raises:
        ValueError: the name stands for another data set already.
    """
    root = os.path.join(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")), root)
    metadata = MetadataCatalog.get(name)
    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, partial(load_kitti_3d, root, split))
        metadata.set(thing_classes=list(CLASSES), evaluator_type="kitti", root=root, split=split)
    elif (metadata.get("root"), metadata.get("split")) != (root, split):
        raise ValueError(f"the name '{name}' is taken by another data set")


def register_kitti_sets(entries: Sequence[Sequence[str]]) -> None:
    """Register the data sets of ``DATASETS.REGISTER_KITTI``; those already registered as they are, stay.

    Args:
        entries: (name, folder, split), see :func:`register_kitti_3d`.

    Raises:
        ValueError: an entry is malformed, or its name stands for another data set already.
    """
    for entry in entries:
        if len(entry) != 3 or not all(isinstance(part, str) for part in entry):
            raise ValueError(f"DATASETS.REGISTER_KITTI: {entry} is not [name, folder, split]")
        register_kitti_3d(*entry)
