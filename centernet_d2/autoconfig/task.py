"""Task of a discovered dataset and its config keys."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..readers.keypoints import are_coco_person_names
from ..readers.kitti import LAYOUT as KITTI
from ..readers.records import DiscoveredDataset, Keypoints
from ..structures.calibration import read_camera

__all__ = ["Task", "task_of"]

# OKS sigma of keypoints other than COCO's, for which the evaluation has sigmas.
_SIGMA = 0.05

_BOX_NETWORKS = {
    "small": "Base-HG-small-boxes.yaml",
    "trunk": "BCCD-Detection/centernet_R_18_bccd.yaml",
    "large": "COCO-Detection/centernet_DLA_34_1x.yaml",
    "large on a CPU": "COCO-Detection/centernet_R_18_plain_1x.yaml",
}
_KEYPOINT_NETWORKS = {**_BOX_NETWORKS, "small": "Base-HG-small-keypoints.yaml"}
_BOX3D_NETWORKS = {
    "small": "Shapes/centernet_3d_HG_boxes.yaml",
    "trunk": "KITTI-3D/centernet_3d_R_18.yaml",
    "large": "KITTI-3D/centernet_3d_R_18.yaml",
    "large on a CPU": "KITTI-3D/centernet_3d_R_18.yaml",
}


@dataclass(frozen=True)
class Task:
    """Training task with its config keys.

    Attributes:
        name: name in the summary.
        networks: base config of each kind of network: "small" (trained from scratch), "trunk" (initialized from a
            classifier), "large" and "large on a CPU".
        keys: config keys of datasets, classes and heads.
        notes: decisions with their reasons.
        focal: median focal length of the images in pixels, for tasks with cameras; otherwise 0.
        by_width: see :func:`choices.input_size`.
    """

    name: str
    networks: Mapping[str, str]
    keys: Mapping[str, object]
    notes: tuple[str, ...] = field(default=())
    focal: float = 0.0
    by_width: bool = False

    def keys_for_width(self, scale: float) -> dict[str, object]:
        """Return the keys that depend on the input size.

        Args:
            scale: width of the network input divided by the width of the image.
        """
        return {"MODEL.CENTERNET.BOX3D.REFERENCE_FOCAL": round(self.focal * scale, 1)} if self.focal else {}


def task_of(data: DiscoveredDataset, files: Mapping[str, Path], name: str) -> Task:
    """Determine the task of a dataset.

    Args:
        data: dataset.
        files: split -> file written by ``write_coco``.
        name: prefix of the dataset names of its splits.
    """
    names = {split: f"{name}_{split}" for split in data.splits}
    tests = [names[split] for split in names if split != "train"]
    keys: dict[str, object] = {
        "DATASETS.REGISTER": [],
        "DATASETS.REGISTER_KITTI": [],
        "DATASETS.TRAIN": (names["train"],),
        "DATASETS.TEST": tuple(tests),
        "DATASETS.VAL": (names["val"],) if len(tests) > 1 else (),
        "MODEL.CENTERNET.NUM_CLASSES": len(data.class_names),
        "MODEL.CENTERNET.CLASS_NAMES": [],
        "MODEL.KEYPOINT_ON": False,
        "MODEL.CENTERNET.HEADS": ["CenterHead", "BoxHead"],
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
    }
    if data.layout == KITTI:
        return _boxes3d(data, files, names, keys)
    keys["DATASETS.REGISTER"] = [
        [names[split], os.path.abspath(files[split]), str(data.splits[split].root)] for split in names
    ]
    notes: tuple[str, ...] = ()
    if crowds := sum(obj.crowd for image in data.splits["train"].images for obj in image.objects):
        keys["MODEL.CENTERNET.QUIRKS.CROWD"] = "ignore"
        notes = (f"{crowds} crowd regions are not learned as objects (MODEL.CENTERNET.QUIRKS.CROWD)",)
    if data.keypoints is None:
        return Task("boxes", _BOX_NETWORKS, keys, notes)
    if not _has_keypoints(data):
        note = "train has no labeled keypoints: keypoints are not learned"
        return Task("boxes", _BOX_NETWORKS, keys, (*notes, note))
    more, own = _keypoint_keys(data.keypoints)
    return Task("boxes and keypoints", _KEYPOINT_NETWORKS, {**keys, **more}, (*notes, *own))


def _has_keypoints(data: DiscoveredDataset) -> bool:
    return any(
        obj.keypoints is not None and any(obj.keypoints[2::3])
        for image in data.splits["train"].images
        for obj in image.objects
    )


def _keypoint_keys(keypoints: Keypoints) -> tuple[dict[str, object], tuple[str, ...]]:
    count = len(keypoints.names)
    is_person = are_coco_person_names(keypoints.names)
    keys: dict[str, object] = {
        "MODEL.KEYPOINT_ON": True,
        "MODEL.CENTERNET.HEADS": ["CenterHead", "BoxHead", "KeypointHead"],
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": count,
        "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": 0,
        "MODEL.CENTERNET.KEYPOINTS.NAMES": list(keypoints.names),
        "MODEL.CENTERNET.KEYPOINTS.FLIP_MAP": [list(pair) for pair in keypoints.flip_pairs],
        "MODEL.CENTERNET.KEYPOINTS.SKELETON": [list(line) for line in keypoints.skeleton],
        "MODEL.CENTERNET.QUIRKS.KEYPOINTS.NEEDS_JOINTS": False,
        "TEST.KEYPOINT_OKS_SIGMAS": [] if is_person else [_SIGMA] * count,
    }
    sigmas = "COCO's" if is_person else f"{_SIGMA} each, because the names are not COCO's keypoints of a person"
    notes = (f"OKS sigmas: {sigmas} (TEST.KEYPOINT_OKS_SIGMAS)",)
    if keypoints.flip_pairs or count == 1:
        pairs = [" and ".join(pair) for pair in keypoints.flip_pairs]
        more = f" and {len(pairs) - 2} more pairs" if len(pairs) > 2 else ""
        flips = (f"horizontal flipping swaps {', '.join(pairs[:2])}{more}",) if pairs else ()
        return keys, (*flips, *notes)
    note = (
        "no keypoint names form a left and right pair: images are not flipped (INPUT.RANDOM_FLIP horizontal overrides)"
    )
    return {**keys, "INPUT.RANDOM_FLIP": "none"}, (note, *notes)


def _boxes3d(
    data: DiscoveredDataset, files: Mapping[str, Path], names: Mapping[str, str], keys: dict[str, object]
) -> Task:
    # Image lists outside of ImageSets are registered by their path.
    lists = {
        split: content.kitti_list or os.path.abspath(files[split].with_suffix(""))
        for split, content in data.splits.items()
    }
    keys = {
        **keys,
        "DATASETS.REGISTER_KITTI": [[names[split], str(data.splits[split].root), lists[split]] for split in names],
        "MODEL.CENTERNET.HEADS": ["CenterHead", "BoxHead", "Box3DHead"],
    }
    calibrations = [
        image.path.parent.parent / "calib" / f"{image.path.stem}.txt" for image in data.splits["train"].images[:50]
    ]
    focal = statistics.median(read_camera(path)[0][0] for path in calibrations)
    return Task("3-D boxes", _BOX3D_NETWORKS, keys, focal=focal, by_width=True)
