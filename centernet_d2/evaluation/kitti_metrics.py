"""KITTI metrics: 2-D AP, orientation similarity (AOS), bird's-eye and 3-D AP.

The metrics equal the results of the official tool. All images are processed at once: objects are flat arrays, and each
step of the greedy matching processes one ground truth per image at all thresholds (original.md: KITTI evaluation).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..data.kitti import CLASSES
from ..structures.boxes3d import paired_iou
from ..utils.screen import track
from ..utils.validation import check_choice

__all__ = [
    "DIFFICULTIES",
    "MIN_OVERLAPS",
    "RULES",
    "SAMPLES",
    "Detections",
    "GroundTruth",
    "average",
    "count_objects",
    "evaluate_kitti",
    "is_broken",
    "kitti_curves",
    "recall_thresholds",
]

SAMPLES = 41
RECALL_POINTS = (11, 40)


@dataclass(frozen=True)
class Difficulty:
    """Difficulty level; objects that exceed its limits are ignored.

    Attributes:
        name: name in the results.
        min_height: minimum height of the 2-D box in pixels; RULES define if a labeled box of this height counts.
        max_occlusion: maximum occlusion level.
        max_truncation: maximum fraction outside the image.
    """

    name: str
    min_height: float
    max_occlusion: int
    max_truncation: float


DIFFICULTIES = (Difficulty("easy", 40, 0, 0.15), Difficulty("moderate", 25, 1, 0.3), Difficulty("hard", 25, 2, 0.5))
NEIGHBORS = {"Car": "Van", "Pedestrian": "Person_sitting"}
# Rules for labeled boxes of exactly the minimum height: KITTI's development kit ("kit") ignores them, the tool of the
# reference implementation ("original") counts them.
RULES = ("kit", "original")
# Metric -> class -> overlaps that detections must exceed. For bev and box3d, the first value is from the tool of the
# reference implementation, the second from the official tool.
MIN_OVERLAPS: dict[str, dict[str, tuple[float, ...]]] = {
    "bbox2d": {"Pedestrian": (0.5,), "Car": (0.7,), "Cyclist": (0.5,)},
    "bev": {"Pedestrian": (0.25, 0.5), "Car": (0.5, 0.7), "Cyclist": (0.25, 0.5)},
    "box3d": {"Pedestrian": (0.25, 0.5), "Car": (0.5, 0.7), "Cyclist": (0.25, 0.5)},
}
_VALID, _IGNORED, _OUT = 0, 1, -1


@dataclass
class Detections:
    """All detections of a dataset, sorted by image.

    Attributes:
        image: (N,) index of the image.
        kind: (N,) class names.
        boxes: (N, 4) XYXY in pixels.
        boxes3d: (N, 7) as in :class:`centernet_d2.structures.Boxes3D`.
        alpha: (N,) radians.
        score: (N,).
    """

    image: np.ndarray
    kind: np.ndarray
    boxes: np.ndarray
    boxes3d: np.ndarray
    alpha: np.ndarray
    score: np.ndarray


@dataclass
class GroundTruth:
    """All labeled objects of a dataset, sorted by image, in annotation order.

    Attributes:
        image: (N,) index of the image.
        kind: (N,) names of KITTI types.
        boxes: (N, 4) XYXY in pixels.
        boxes3d: (N, 7) as in :class:`centernet_d2.structures.Boxes3D`.
        alpha: (N,) radians.
        occlusion: (N,) occlusion level.
        truncation: (N,) fraction outside the image.
    """

    image: np.ndarray
    kind: np.ndarray
    boxes: np.ndarray
    boxes3d: np.ndarray
    alpha: np.ndarray
    occlusion: np.ndarray
    truncation: np.ndarray


@dataclass
class Curves:
    """Precision and orientation similarity at 41 recall positions.

    Attributes:
        thresholds: (T,) scores that reach the recall positions, T <= 41.
        precision: (41,) interpolated precision: the maximum at this or higher recall; 0 at unreached positions.
        similarity: (41,) interpolated orientation similarity.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class Setting:
    """Parameters of one AP; see MIN_OVERLAPS."""

    metric: str
    kind: str
    difficulty: Difficulty
    min_overlap: float

    def label(self, points: int) -> str:
        overlap = f"@{self.min_overlap}" if self.metric != "bbox2d" else ""
        return f"{self.kind}_{self.difficulty.name}_R{points}{overlap}"


@dataclass
class _Pairs:
    """K pairs of a ground truth and a detection in the same image, and their (K,) overlaps by metric."""

    truth: np.ndarray
    detection: np.ndarray
    overlap: dict[str, np.ndarray]


@dataclass
class _Matching:
    """States of all objects in one setting, and pairs that may be matched.

    Attributes:
        truth_state: (G,) _VALID: must be detected; _IGNORED: may be detected; _OUT: not matched.
        detection_state: (D,) _VALID: true or false positive; _IGNORED: neither, but may be matched; _OUT: not matched.
        rows, columns: (K,) indices of the ground truth and of the detection of each pair.
        overlap: (K,) overlaps of the pairs.
    """

    truth_state: np.ndarray
    detection_state: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    overlap: np.ndarray


def evaluate_kitti(
    truth: GroundTruth, detections: Detections, classes: Sequence[str] = CLASSES, *, rules: str = "kit"
) -> OrderedDict[str, dict[str, float]]:
    """Compute all metrics of all classes.

    Args:
        truth, detections: objects of the same images; see :func:`kitti_curves`.
        classes: a subset of CLASSES.
        rules: one of RULES.

    Returns:
        Percentages, or NaN without objects. bbox2d and aos have names such as "Car_moderate_R40"; bev and box3d have
        names such as "Car_moderate_R40@0.7", where 0.7 is the overlap that detections must exceed.
    """
    results: OrderedDict[str, dict[str, float]] = OrderedDict((name, {}) for name in ("bbox2d", "aos", "bev", "box3d"))
    for setting, curves in kitti_curves(truth, detections, classes, rules=rules):
        for points in RECALL_POINTS:
            name = setting.label(points)
            results[setting.metric][name] = average(curves.precision, points)
            if setting.metric == "bbox2d":
                results["aos"][name] = average(curves.similarity, points)
    return results


def kitti_curves(
    truth: GroundTruth, detections: Detections, classes: Sequence[str] = CLASSES, *, rules: str = "kit"
) -> Iterator[tuple[Setting, Curves]]:
    """Compute the curves of all classes, difficulties and overlaps.

    Only the curves of "bbox2d" contain a meaningful orientation similarity. Detections that are :func:`is_broken` are
    false positives at all thresholds up to their score, or at all thresholds if their score is not finite.

    Args:
        truth, detections: objects of the same images.
        classes: a subset of CLASSES.
        rules: one of RULES.

    Yields:
        Settings and their curves. Curves without objects are NaN and have no thresholds.
    """
    check_choice("rules", rules, RULES)
    detections = _without_broken(detections)
    pairs = _overlapping(truth, detections)
    stuff = _stuff_overlap(truth, detections)
    settings = [
        Setting(metric, kind, difficulty, overlap)
        for metric, kind in itertools.product(MIN_OVERLAPS, classes)
        for overlap, difficulty in itertools.product(MIN_OVERLAPS[metric][kind], DIFFICULTIES)
    ]
    for setting in track(settings, "matching", len(settings), "settings"):
        yield setting, _curves(truth, detections, pairs, stuff, setting, rules)


def is_broken(detections: Detections) -> np.ndarray:
    """Return an (N,) mask of the detections that contain NaN or Inf."""
    columns = [detections.boxes, detections.boxes3d, detections.alpha[:, None], detections.score[:, None]]
    return ~np.isfinite(np.concatenate(columns, axis=1)).all(axis=1)


def count_objects(truth: GroundTruth, kind: str, difficulty: Difficulty, rules: str = "kit") -> int:
    """Count the objects of a class that must be detected, by one of RULES."""
    return int((_truth_state(truth, kind, difficulty, rules) == _VALID).sum())


def average(curve: np.ndarray, points: int) -> float:
    """Average a (41,) curve in percent.

    The mean is taken over every fourth sample (11 points), or over all samples except the first (40 points).
    """
    chosen = curve[::4] if points == 11 else curve[1:]
    return float(chosen.sum() / points * 100)


def recall_thresholds(scores: np.ndarray, count: int) -> list[float]:
    """Return the scores at which recall is closest to 0, 1/40, 2/40, ...

    Like in the official tool, every score is used once, so the last positions are unreachable with fewer than 41
    objects.

    Args:
        scores: (N,) scores of the true positives.
        count: number of objects that must be detected.
    """
    thresholds, recall = [], 0.0
    ordered = np.sort(scores)[::-1].tolist()
    # The same operations as in the official tool: rounding decides which of two equally close scores is selected.
    for index, score in enumerate(ordered):
        left, right = (index + 1) / count, (index + 2) / count
        if index + 1 < len(ordered) and right - recall < recall - left:
            continue
        thresholds.append(score)
        recall += 1 / (SAMPLES - 1)
    return thresholds


def _without_broken(detections: Detections) -> Detections:
    """Replace the boxes of broken detections by NaN: they overlap nothing and are not ignored as too small."""
    broken = is_broken(detections)
    return replace(
        detections,
        boxes=np.where(broken[:, None], np.nan, detections.boxes),
        boxes3d=np.where(broken[:, None], np.nan, detections.boxes3d),
        alpha=np.where(broken, 0, detections.alpha),
        score=np.where(np.isfinite(detections.score), detections.score, np.inf),
    )


def _curves(
    truth: GroundTruth, detections: Detections, pairs: _Pairs, stuff: np.ndarray, setting: Setting, rules: str
) -> Curves:
    """Compute the curves of one setting, NaN without objects; `stuff` is the output of :func:`_stuff_overlap`."""
    matching = _candidates(truth, detections, pairs, setting, rules)
    count = int((matching.truth_state == _VALID).sum())
    if count == 0:
        return Curves(np.empty(0), np.full(SAMPLES, np.nan), np.full(SAMPLES, np.nan))
    thresholds = np.array(recall_thresholds(_true_positive_scores(matching, truth, detections), count))
    hit, angle, free = _match_at(matching, truth, detections, thresholds)
    # DontCare regions have no 3-D box, so the official tool uses them for the 2-D metric only.
    counted = stuff <= setting.min_overlap if setting.metric == "bbox2d" else slice(None)
    positives = hit.sum(axis=0)
    detected = positives + free[counted].sum(axis=0)
    similarity = (hit * (1 + np.cos(angle)) / 2).sum(axis=0)
    return Curves(thresholds, _interpolate(positives, detected), _interpolate(similarity, detected))


def _candidates(truth: GroundTruth, detections: Detections, pairs: _Pairs, setting: Setting, rules: str) -> _Matching:
    truth_state = _truth_state(truth, setting.kind, setting.difficulty, rules)
    detection_state = _detection_state(detections, setting.kind, setting.difficulty)
    overlap = pairs.overlap[setting.metric]
    chosen = (overlap > setting.min_overlap) & (truth_state[pairs.truth] != _OUT)
    chosen &= detection_state[pairs.detection] != _OUT
    return _Matching(truth_state, detection_state, pairs.truth[chosen], pairs.detection[chosen], overlap[chosen])


def _true_positive_scores(matching: _Matching, truth: GroundTruth, detections: Detections) -> np.ndarray:
    """Return the scores of true positives if every ground truth is matched with the highest score."""
    order = np.lexsort((matching.columns, -detections.score[matching.columns], matching.rows))
    usable = (matching.detection_state != _OUT)[:, None]
    objects, picked, _ = _match(matching.rows[order], matching.columns[order], truth.image, usable)
    picked = picked[:, 0]
    hit = (picked >= 0) & (matching.truth_state[objects] == _VALID) & (matching.detection_state[picked] == _VALID)
    return detections.score[picked[hit]]


def _match_at(
    matching: _Matching, truth: GroundTruth, detections: Detections, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match every ground truth with the detection of the largest overlap, at T thresholds.

    Ignored detections are excluded. The official tool matches them with objects without other candidates, which does
    not change the precision.

    Returns:
        (G', T) mask of detected ground truths, (G', T) difference of alpha between their detection and them, and (D, T)
        mask of unmatched detections that reach the threshold.
    """
    order = np.lexsort((matching.columns, -matching.overlap, matching.rows))
    usable = (matching.detection_state == _VALID)[:, None] & (detections.score[:, None] >= thresholds)
    objects, picked, free = _match(matching.rows[order], matching.columns[order], truth.image, usable)
    hit = (picked >= 0) & (matching.truth_state[objects] == _VALID)[:, None]
    return hit, detections.alpha[picked] - truth.alpha[objects][:, None], free


def _interpolate(counted: np.ndarray, detected: np.ndarray) -> np.ndarray:
    """Divide (T,) counts by numbers of detections, T <= 41, and interpolate to a (41,) curve.

    Every value is the maximum at this or higher recall. The ratio is 0 without detections, which the official tool
    leaves undefined. This happens because thresholds are determined by matching by score, but counts by matching by
    overlap, which may match an ignored object with the only detection.
    """
    ratios = np.zeros(SAMPLES)
    ratios[: len(counted)] = counted / np.maximum(detected, 1)
    return np.maximum.accumulate(ratios[::-1])[::-1]


def _truth_state(truth: GroundTruth, kind: str, difficulty: Difficulty, rules: str) -> np.ndarray:
    """Return (G,) states; too difficult objects and objects of the neighbor class are ignored."""
    same_class = truth.kind == kind
    clear = (truth.occlusion <= difficulty.max_occlusion) & (truth.truncation <= difficulty.max_truncation)
    height = truth.boxes[:, 3] - truth.boxes[:, 1]
    clear &= height >= difficulty.min_height if rules == "original" else height > difficulty.min_height
    state = np.where(same_class & clear, _VALID, _IGNORED)
    state[~same_class & (truth.kind != NEIGHBORS.get(kind, ""))] = _OUT
    return state


def _detection_state(detections: Detections, kind: str, difficulty: Difficulty) -> np.ndarray:
    """Return (D,) states; like in the official tool, small detections of all classes are ignored, not _OUT."""
    height = np.abs(detections.boxes[:, 3] - detections.boxes[:, 1])
    state = np.where(detections.kind == kind, _VALID, _OUT)
    state[height < difficulty.min_height] = _IGNORED
    return state


def _match(
    rows: np.ndarray, columns: np.ndarray, image: np.ndarray, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match each ground truth, in the order of its image, with its first unmatched candidate.

    Args:
        rows: (K,) indices of ground truths, ascending.
        columns: (K,) indices of their candidate detections, in order of preference.
        image: (G,) image of every ground truth, ascending.
        usable: (D, T) mask of the detections that may be matched at each of T thresholds.

    Returns:
        (G',) ground truths with candidates, (G', T) their detections or -1, and (D, T) mask of unmatched usable
        detections.
    """
    # An additional detection, which is never usable, pads the lists of candidates.
    free = np.concatenate([usable, np.zeros_like(usable[:1])])
    objects, start, count = np.unique(rows, return_index=True, return_counts=True)
    picked = np.full((len(objects), usable.shape[1]), -1)
    images, first = np.unique(image[objects], return_index=True)
    rank = np.arange(len(objects)) - first[np.searchsorted(images, image[objects])]
    # Ground truths of the same rank are in different images, so they have no common candidates.
    for members in _groups(rank):
        slot = np.arange(count[members].max())
        filled = slot < count[members, None]
        candidates = np.full(filled.shape, len(usable))
        candidates[filled] = columns[(start[members, None] + slot)[filled]]
        open_slots = free[candidates]
        choice = np.take_along_axis(candidates, open_slots.argmax(axis=1), axis=1)
        taken, threshold = np.nonzero(open_slots.any(axis=1))
        picked[members[taken], threshold] = choice[taken, threshold]
        free[choice[taken, threshold], threshold] = False
    return objects, picked, free[:-1]


def _groups(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Return the indices of each label, in ascending order of labels."""
    order = np.argsort(labels, kind="stable")
    return iter(np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(labels) else [])


def _pairs_in_images(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs of indices with the same image.

    Args:
        first: (N,) images.
        second: (M,) images, ascending.
    """
    start = np.searchsorted(second, first, side="left")
    count = np.searchsorted(second, first, side="right") - start
    rows = np.repeat(np.arange(len(first)), count)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    return rows, start[rows] + within


def _overlapping(truth: GroundTruth, detections: Detections) -> _Pairs:
    """Return all pairs with a positive overlap in the image or in bird's-eye view."""
    relevant = np.flatnonzero(np.isin(truth.kind, [*CLASSES, *NEIGHBORS.values()]))
    rows, columns = _pairs_in_images(truth.image[relevant], detections.image)
    rows = relevant[rows]
    shared, sizes, others = _image_overlap(truth.boxes[rows], detections.boxes[columns])
    bev, volume = paired_iou(truth.boxes3d, detections.boxes3d, rows, columns)
    overlap = {"bbox2d": shared / np.maximum(sizes + others - shared, 1e-12), "bev": bev, "box3d": volume}
    used = np.flatnonzero((shared > 0) | (bev > 0))
    return _Pairs(rows[used], columns[used], {name: values[used] for name, values in overlap.items()})


def _stuff_overlap(truth: GroundTruth, detections: Detections) -> np.ndarray:
    """Return the (D,) largest fraction of each detection's 2-D box inside one DontCare region."""
    stuff = np.flatnonzero(truth.kind == "DontCare")
    rows, columns = _pairs_in_images(truth.image[stuff], detections.image)
    shared, _, own = _image_overlap(truth.boxes[stuff[rows]], detections.boxes[columns])
    largest = np.zeros(len(detections.image))
    # fmax ignores NaN, the fraction of broken boxes.
    np.fmax.at(largest, columns, shared / np.maximum(own, 1e-12))
    return largest


def _image_overlap(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the (K,) intersections and both (K,) areas of (K, 4) boxes; sides are x2 - x1, without adding 1."""
    corner = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    areas = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second))
    return np.prod(corner.clip(min=0), axis=1), *areas
