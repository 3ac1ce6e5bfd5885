"""KITTI 3-D object benchmark as a Detectron2 dataset.

Boxes are in pixels, XYXY. 3-D quantities are in the coordinates of :mod:`centernet_d2.structures.boxes3d`
(original.md: KITTI data, Regions to ignore).
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

# KITTI type -> class. Types that are similar to a class are ignored for this class.
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
    """Format one line of a result file (original.md: KITTI data).

    :func:`centernet_d2.readers.kitti.parse_object` is the inverse.

    Args:
        kind: class name.
        values: alpha, x1, y1, x2, y2, height, width, length, x, y, z, rotation_y, score.
    """
    return f"{kind} 0.0 0 " + " ".join(f"{value:.2f}" for value in values)


def load_kitti_3d(root: str | Path, split: str) -> list[DatasetDict]:
    """Load a split of KITTI in Detectron2's format, in the order of the split file.

    In addition to the standard keys, an image has ``camera``, a (3, 4) nested list; its ``image_id`` is the frame name.
    An annotation has ``kitti_type``, ``ignore``, ``alpha``, ``dimensions`` [h, w, l], ``location`` [x, y, z],
    ``rotation_y``, ``depth``, ``truncation`` and ``occlusion``. Annotations contain all objects of the label file, in
    order; the depth of a few objects next to the camera is zero or negative.

    Objects of types outside CLASSES have ``ignore`` set to True. Their ``category_id`` is the class whose heatmap
    ignores them, ALL_CLASSES, or EXCLUDED. Their ``iscrowd`` is 1, so that checks and statistics of Detectron2 do not
    count them as objects.

    Args:
        root: folder with ``training/{image_2,label_2,calib}`` and ``ImageSets``.
        split: name of a file in ``ImageSets``, without its suffix.

    Raises:
        FileNotFoundError: the split file, or an image, label or calibration file of the split, does not exist.
        OSError: an image cannot be read, see :func:`centernet_d2.imaging.reading.read_header`.
        ValueError: a file is malformed; the message contains the file and, for text files, the line.
    """
    root = Path(root)
    split_file = root / "ImageSets" / f"{split}.txt"
    if not split_file.is_file():
        known = ", ".join(sorted(path.stem for path in split_file.parent.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"the split file {split_file} does not exist; available splits: {known}")
    frames = text_lines(split_file)
    progress = tqdm(frames, desc=f"reading KITTI {split}", leave=False, disable=len(frames) < 500)
    return [_load_frame(root / "training", frame, where) for where, frame in progress]


def _load_frame(folder: Path, frame: str, where: str) -> DatasetDict:
    """Load one frame; `where` is its file and line in the split file, for error messages."""
    if Path(frame).name != frame:
        raise ValueError(f"{where}: '{frame}' is not a frame name, such as 000042")
    images = [folder / "image_2" / f"{frame}{suffix}" for suffix in _IMAGE_SUFFIXES]
    image = next((path for path in images if path.is_file()), None)
    label, calibration = folder / "label_2" / f"{frame}.txt", folder / "calib" / f"{frame}.txt"
    if image is None:
        raise FileNotFoundError(f"{where}: the image {images[0]} (or {images[1].name}) does not exist")
    for path, kind in ((label, "label"), (calibration, "calibration")):
        if not path.is_file():
            raise FileNotFoundError(f"{where}: the {kind} file {path} of the image {image} does not exist")
    width, height, _ = read_header(image)
    return {
        "file_name": str(image),
        "image_id": frame,
        "height": height,
        "width": width,
        "camera": read_camera(calibration),
        "annotations": [_annotation(obj) for obj in read_objects(label)],
    }


def _annotation(obj: KittiObject) -> dict:
    ignore = obj.kind not in CLASSES
    return {
        "bbox": list(obj.box),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": KITTI_TYPES[obj.kind],
        "iscrowd": int(ignore),
        "ignore": ignore,
        "kitti_type": obj.kind,
        "alpha": obj.alpha,
        "dimensions": list(obj.dimensions),
        "location": list(obj.location),
        "rotation_y": obj.rotation_y,
        "depth": obj.location[2],
        "truncation": obj.truncation,
        "occlusion": obj.occlusion,
    }


def register_kitti_3d(name: str, root: str | Path, split: str) -> None:
    """Register a split of KITTI, which :func:`load_kitti_3d` loads on first use.

    Args:
        name: name of the dataset.
        root: dataset folder; a relative path starts at $DETECTRON2_DATASETS.
        split: name of a file in ``ImageSets``, without its suffix.

    Raises:
        ValueError: the name is registered with another root or split.
    """
    root = os.path.join(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")), root)
    metadata = MetadataCatalog.get(name)
    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, partial(load_kitti_3d, root, split))
        metadata.set(thing_classes=list(CLASSES), evaluator_type="kitti", root=root, split=split)
    elif (metadata.get("root"), metadata.get("split")) != (root, split):
        raise ValueError(f"the dataset '{name}' is already registered with another folder or split; use another name")


def register_kitti_sets(entries: Sequence[Sequence[str]]) -> None:
    """Register the datasets of ``DATASETS.REGISTER_KITTI``.

    Existing registrations with the same folder and split are kept.

    Args:
        entries: (name, folder, split), see :func:`register_kitti_3d`.

    Raises:
        ValueError: an entry is malformed, or its name is registered with another folder or split.
    """
    for entry in entries:
        if len(entry) != 3 or not all(isinstance(part, str) for part in entry):
            raise ValueError(f"DATASETS.REGISTER_KITTI: {entry} must be [name, folder, split]")
        register_kitti_3d(*entry)
