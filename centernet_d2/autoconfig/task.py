"""What found data ask a model to learn, as config keys."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..readers.kitti import LAYOUT as KITTI
from ..readers.records import FoundData, Keypoints
from ..structures.calibration import read_camera

__all__ = ["Task", "task_of"]

# COCO's tolerances come with the evaluation for as many keypoints; others get this one.
_COCO_KEYPOINTS = 17
_SIGMA = 0.05

_BOX_NETWORKS = {
    "small": "Base-HG-small-boxes.yaml",
    "trunk": "BCCD-Detection/centernet_R_18_bccd.yaml",
    "large": "COCO-Detection/centernet_DLA_34_1x.yaml",
    "large on a CPU": "COCO-Detection/centernet_R_18_plain_1x.yaml",
}
_KEYPOINT_NETWORKS = {**_BOX_NETWORKS, "small": "Base-HG-small-keypoints.yaml"}
_SPACE_NETWORKS = {
    "small": "Shapes/centernet_3d_HG_boxes.yaml",
    "trunk": "KITTI-3D/centernet_3d_R_18.yaml",
    "large": "KITTI-3D/centernet_3d_R_18.yaml",
    "large on a CPU": "KITTI-3D/centernet_3d_R_18.yaml",
}


@dataclass(frozen=True)
class Task:
    """What is to be learned.

    Attributes:
        name: for people.
        networks: "small" (learns from scratch), "trunk" (starts from a classifier), "large" and "large on a CPU" -> a
            config to start from.
        keys: config keys of data sets, classes and heads.
        notes: what was decided, and why.
        focal: median focal length in pixels of the images, of tasks with cameras, else 0.
        by_width: whether networks see images by their width, else by their longer side.
    """

    name: str
    networks: Mapping[str, str]
    keys: Mapping[str, object]
    notes: tuple[str, ...] = field(default=())
    focal: float = 0.0
    by_width: bool = False

    def keys_for_width(self, shown: float) -> dict[str, object]:
        """Keys that depend on how wide the network sees an image, relative to its own width."""
        return {"MODEL.CENTERNET.BOX3D.REFERENCE_FOCAL": round(self.focal * shown, 1)} if self.focal else {}


def task_of(found: FoundData, files: Mapping[str, Path], name: str) -> Task:
    """The task of a data set.

    Args:
        found: the data.
        files: split -> file that ``write_coco`` made of it.
        name: that the names of its splits start with.
    """
    sets = {split: f"{name}_{split}" for split in found.splits}
    tests = [sets[split] for split in sets if split != "train"]
    keys: dict[str, object] = {
        "DATASETS.REGISTER": [],
        "DATASETS.REGISTER_KITTI": [],
        "DATASETS.TRAIN": (sets["train"],),
        "DATASETS.TEST": tuple(tests),
        "MODEL.CENTERNET.NUM_CLASSES": len(found.class_names),
        "MODEL.KEYPOINT_ON": False,
        "MODEL.CENTERNET.HEADS": ["CenterHead", "BoxHead"],
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
    }
    if found.layout == KITTI:
        return _boxes_in_space(found, files, sets, keys)
    keys["DATASETS.REGISTER"] = [
        [sets[split], os.path.abspath(files[split]), str(found.splits[split].root)] for split in sets
    ]
    if found.keypoints is None:
        return Task("boxes", _BOX_NETWORKS, keys)
    if not _has_keypoints(found):
        return Task("boxes", _BOX_NETWORKS, keys, ("no keypoint is labelled in train: none is learned",))
    more, notes = _keypoint_keys(found.keypoints)
    return Task("boxes and keypoints", _KEYPOINT_NETWORKS, {**keys, **more}, notes)


def _has_keypoints(found: FoundData) -> bool:
    return any(
        thing.keypoints is not None and any(thing.keypoints[2::3])
        for image in found.splits["train"].images
        for thing in image.objects
    )


def _keypoint_keys(keypoints: Keypoints) -> tuple[dict[str, object], tuple[str, ...]]:
    count = len(keypoints.names)
    keys: dict[str, object] = {
        "MODEL.KEYPOINT_ON": True,
        "MODEL.CENTERNET.HEADS": ["CenterHead", "BoxHead", "KeypointHead"],
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": count,
        "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": 0,
        "MODEL.CENTERNET.KEYPOINTS.NAMES": list(keypoints.names),
        "MODEL.CENTERNET.KEYPOINTS.FLIP_MAP": [list(pair) for pair in keypoints.flip_pairs],
        "MODEL.CENTERNET.KEYPOINTS.SKELETON": [list(line) for line in keypoints.skeleton],
        "MODEL.CENTERNET.QUIRKS.KEYPOINTS.NEEDS_JOINTS": False,
        "TEST.KEYPOINT_OKS_SIGMAS": [] if count == _COCO_KEYPOINTS else [_SIGMA] * count,
    }
    if keypoints.flip_pairs or count == 1:
        shown = [" and ".join(pair) for pair in keypoints.flip_pairs]
        more = f", and {len(shown) - 2} pairs more" if len(shown) > 2 else ""
        return keys, (f"a mirror swaps {', '.join(shown[:2])}{more}",) if shown else ()
    note = (
        "no names of keypoints are a left and a right, so images are not mirrored (INPUT.RANDOM_FLIP horizontal does)"
    )
    return {**keys, "INPUT.RANDOM_FLIP": "none"}, (note,)


def _boxes_in_space(
    found: FoundData, files: Mapping[str, Path], sets: Mapping[str, str], keys: dict[str, object]
) -> Task:
    # A list that is not in ImageSets is named by its path.
    lists = {
        name: split.kitti_list or os.path.abspath(files[name].with_suffix("")) for name, split in found.splits.items()
    }
    keys = {
        **keys,
        "DATASETS.REGISTER_KITTI": [[sets[name], str(found.splits[name].root), lists[name]] for name in sets],
        "MODEL.CENTERNET.HEADS": ["CenterHead", "BoxHead", "Box3DHead"],
    }
    calibrations = [
        image.path.parent.parent / "calib" / f"{image.path.stem}.txt" for image in found.splits["train"].images[:50]
    ]
    focal = statistics.median(read_camera(path)[0][0] for path in calibrations)
    return Task("boxes in space", _SPACE_NETWORKS, keys, focal=focal, by_width=True)
