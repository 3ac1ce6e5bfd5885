"""KITTI's metrics: 2-D AP, orientation similarity (AOS), bird's-eye and 3-D AP, as the official tool computes them.

All images are handled at once: objects are flat arrays, and the greedy matching advances in all images and at all score
thresholds together, one ground truth per image and step (original.md: KITTI evaluation).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from ..data.kitti import CLASSES
from ..structures.boxes3d import paired_iou
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
    """Which objects count; others are ignored.

    Attributes:
        name: for results.
        min_height: of the 2-D box, in pixels; what it means for a labelled box of just this height, RULES say.
        max_occlusion: the largest level.
        max_truncation: the largest share outside the image.
    """

    name: str
    min_height: float
    max_occlusion: int
    max_truncation: float


DIFFICULTIES = (Difficulty("easy", 40, 0, 0.15), Difficulty("moderate", 25, 1, 0.3), Difficulty("hard", 25, 2, 0.5))
NEIGHBOURS = {"Car": "Van", "Pedestrian": "Person_sitting"}
# Who counts a labelled box of exactly the minimum height: the original's own tool does, KITTI's kit does not.
RULES = ("kit", "original")
# Metric -> class -> overlaps that detections must exceed; in space those of the original's tool, and the official ones.
MIN_OVERLAPS: dict[str, dict[str, tuple[float, ...]]] = {
    "bbox2d": {"Pedestrian": (0.5,), "Car": (0.7,), "Cyclist": (0.5,)},
    "bev": {"Pedestrian": (0.25, 0.5), "Car": (0.5, 0.7), "Cyclist": (0.25, 0.5)},
    "box3d": {"Pedestrian": (0.25, 0.5), "Car": (0.5, 0.7), "Cyclist": (0.25, 0.5)},
}
_VALID, _IGNORED, _OUT = 0, 1, -1


@dataclass
class Detections:
    """All detections of a dataset, those of an image together, images in ascending order.

    Attributes:
        image: (N,) index of the image.
        kind: (N,) names of classes.
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
    """All labelled objects of a dataset, those of an image together and in its order, images in ascending order.

    Attributes:
        image: (N,) index of the image.
        kind: (N,) names of KITTI's types.
        boxes: (N, 4) XYXY in pixels.
        boxes3d: (N, 7) as in :class:`centernet_d2.structures.Boxes3D`.
        alpha: (N,) radians.
        occlusion: (N,) level.
        truncation: (N,) share.
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
    """Precision over recall.

    Attributes:
        thresholds: (T,) scores at which samples of recall are reached, T <= 41.
        precision: (41,) share of true positives, raised to the best at its recall or more; 0 where it is not reached.
        similarity: (41,) the same of orientation similarity.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class Setting:
    """What one AP is about; see MIN_OVERLAPS."""

    metric: str
    kind: str
    difficulty: Difficulty
    min_overlap: float

    def label(self, points: int) -> str:
        overlap = f"@{self.min_overlap}" if self.metric != "bbox2d" else ""
        return f"{self.kind}_{self.difficulty.name}_R{points}{overlap}"


@dataclass
class _Pairs:
    """(K,) pairs of a ground truth and a detection of the same image, and (K,) overlaps by metric."""

    truth: np.ndarray
    detection: np.ndarray
    overlap: dict[str, np.ndarray]


@dataclass
class _Matching:
    """The part that objects play in one setting, and who may be matched with whom.

    Attributes:
        truth_state: (G,) _VALID: to be found; _IGNORED: may be found; _OUT.
        detection_state: (D,) _VALID: a true or a false positive; _IGNORED: neither, but may find something; _OUT.
        rows, columns: (K,) pairs of a ground truth and a detection.
        overlap: (K,) of the pairs.
    """

    truth_state: np.ndarray
    detection_state: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    overlap: np.ndarray


def evaluate_kitti(
    truth: GroundTruth, detections: Detections, classes: Sequence[str] = CLASSES, *, rules: str = "kit"
) -> OrderedDict[str, dict[str, float]]:
    """All metrics of all classes.

    Args:
        truth, detections: of the same images; see :func:`kitti_curves`.
        classes: among CLASSES.
        rules: one of RULES.

    Returns:
        Percentages, NaN where there is nothing to find: bbox2d and aos with names such as "Car_moderate_R40", bev and
        box3d with names such as "Car_moderate_R40@0.7", where 0.7 is the overlap that detections must exceed.
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
    """The curves of all classes, difficulties and overlaps; those of "bbox2d" hold the orientation similarity.

    A detection that :func:`is_broken` finds nothing: it is a false positive of its class wherever its score counts, and
    at every threshold if its score is no finite number.

    Args:
        truth, detections: of the same images.
        classes: among CLASSES.
        rules: one of RULES.

    Yields:
        Curves are NaN, without thresholds, where there is nothing to find.
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
    for setting in tqdm(settings, desc="matching", leave=False):
        yield setting, _curves(truth, detections, pairs, stuff, setting, rules)


def is_broken(detections: Detections) -> np.ndarray:
    """(N,) whether a detection has a number that is not finite."""
    columns = [detections.boxes, detections.boxes3d, detections.alpha[:, None], detections.score[:, None]]
    return ~np.isfinite(np.concatenate(columns, axis=1)).all(axis=1)


def count_objects(truth: GroundTruth, kind: str, difficulty: Difficulty, rules: str = "kit") -> int:
    """How many objects of a class there are to be found, by one of RULES."""
    return int((_truth_state(truth, kind, difficulty, rules) == _VALID).sum())


def average(curve: np.ndarray, points: int) -> float:
    """Mean of (41,) samples in percent: over every fourth (11 points), or over all but the first (40 points)."""
    chosen = curve[::4] if points == 11 else curve[1:]
    return float(chosen.sum() / points * 100)


def recall_thresholds(scores: np.ndarray, count: int) -> list[float]:
    """The scores at which recall comes closest to 0, 1/40, 2/40, ... (official tool).

    There is one per score at most, so with fewer than 41 objects the last samples are never reached.

    Args:
        scores: (N,) of the objects that were found.
        count: number of objects to find.
    """
    thresholds, recall = [], 0.0
    ordered = np.sort(scores)[::-1].tolist()
    # One by one, with the tool's own operations: rounding decides which of two equally good scores is taken.
    for index, score in enumerate(ordered):
        left, right = (index + 1) / count, (index + 2) / count
        if index + 1 < len(ordered) and right - recall < recall - left:
            continue
        thresholds.append(score)
        recall += 1 / (SAMPLES - 1)
    return thresholds


def _without_broken(detections: Detections) -> Detections:
    """The same detections, of which the broken ones have no box at all: it overlaps nothing, and is not small."""
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
    """The curves of one setting; NaN if there is nothing to find. `stuff`: :func:`_stuff_overlap`."""
    matching = _candidates(truth, detections, pairs, setting, rules)
    count = int((matching.truth_state == _VALID).sum())
    if count == 0:
        return Curves(np.empty(0), np.full(SAMPLES, np.nan), np.full(SAMPLES, np.nan))
    thresholds = np.array(recall_thresholds(_found_scores(matching, truth, detections), count))
    hit, turned, free = _match_at(matching, truth, detections, thresholds)
    # DontCare has no place in space: the official tool excuses false positives in the image only.
    counted = stuff <= setting.min_overlap if setting.metric == "bbox2d" else slice(None)
    true = hit.sum(axis=0)
    claimed = true + free[counted].sum(axis=0)
    similarity = (hit * (1 + np.cos(turned)) / 2).sum(axis=0)
    return Curves(thresholds, _sample(true, claimed), _sample(similarity, claimed))


def _candidates(truth: GroundTruth, detections: Detections, pairs: _Pairs, setting: Setting, rules: str) -> _Matching:
    truth_state = _truth_state(truth, setting.kind, setting.difficulty, rules)
    detection_state = _detection_state(detections, setting.kind, setting.difficulty)
    overlap = pairs.overlap[setting.metric]
    chosen = (overlap > setting.min_overlap) & (truth_state[pairs.truth] != _OUT)
    chosen &= detection_state[pairs.detection] != _OUT
    return _Matching(truth_state, detection_state, pairs.truth[chosen], pairs.detection[chosen], overlap[chosen])


def _found_scores(matching: _Matching, truth: GroundTruth, detections: Detections) -> np.ndarray:
    """Scores of the true positives when every ground truth takes the detection with the highest score."""
    order = np.lexsort((matching.columns, -detections.score[matching.columns], matching.rows))
    usable = (matching.detection_state != _OUT)[:, None]
    found, picked, _ = _match(matching.rows[order], matching.columns[order], truth.image, usable)
    picked = picked[:, 0]
    hit = (picked >= 0) & (matching.truth_state[found] == _VALID) & (matching.detection_state[picked] == _VALID)
    return detections.score[picked[hit]]


def _match_at(
    matching: _Matching, truth: GroundTruth, detections: Detections, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match at T thresholds; every ground truth takes the detection with the largest overlap.

    Ignored detections are left out here: the tool gives them to what finds nothing else, which changes no precision.

    Returns:
        (G', T) whether a ground truth is a true positive, (G', T) angle from its alpha to that of what it took, and
        (D, T) whether a detection reaches the threshold and was not taken.
    """
    order = np.lexsort((matching.columns, -matching.overlap, matching.rows))
    usable = (matching.detection_state == _VALID)[:, None] & (detections.score[:, None] >= thresholds)
    found, picked, free = _match(matching.rows[order], matching.columns[order], truth.image, usable)
    hit = (picked >= 0) & (matching.truth_state[found] == _VALID)[:, None]
    return hit, detections.alpha[picked] - truth.alpha[found][:, None], free


def _sample(counted: np.ndarray, claimed: np.ndarray) -> np.ndarray:
    """(41,) shares of (T,) counts, T <= 41, each raised to the best at its recall or more.

    Where nothing is claimed the share is 0; the official tool leaves it undefined. It happens because thresholds come
    from matching by score, and counts from matching by overlap, in which an ignored object may take the only detection.
    """
    shares = np.zeros(SAMPLES)
    shares[: len(counted)] = counted / np.maximum(claimed, 1)
    return np.maximum.accumulate(shares[::-1])[::-1]


def _truth_state(truth: GroundTruth, kind: str, difficulty: Difficulty, rules: str) -> np.ndarray:
    """(G,) states; ignored is what is too hard, or of the neighbouring class."""
    own = truth.kind == kind
    clear = (truth.occlusion <= difficulty.max_occlusion) & (truth.truncation <= difficulty.max_truncation)
    height = truth.boxes[:, 3] - truth.boxes[:, 1]
    clear &= height >= difficulty.min_height if rules == "original" else height > difficulty.min_height
    state = np.where(own & clear, _VALID, _IGNORED)
    state[~own & (truth.kind != NEIGHBOURS.get(kind, ""))] = _OUT
    return state


def _detection_state(detections: Detections, kind: str, difficulty: Difficulty) -> np.ndarray:
    """(D,) states; small detections of all classes are ignored, not out, so all can be matched: so says the tool."""
    height = np.abs(detections.boxes[:, 3] - detections.boxes[:, 1])
    state = np.where(detections.kind == kind, _VALID, _OUT)
    state[height < difficulty.min_height] = _IGNORED
    return state


def _match(
    rows: np.ndarray, columns: np.ndarray, image: np.ndarray, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let each ground truth, in the order of its image, take the detection that it prefers among those left.

    Args:
        rows: (K,) ground truths in ascending order, and
        columns: (K,) detections that they may take, the preferred ones first.
        image: image of every ground truth, ascending.
        usable: (D, T) detections that may be taken at each of T thresholds.

    Returns:
        (G,) ground truths that have anything to choose from, (G, T) what they took or -1, (D, T) what is left.
    """
    # One more detection, never usable, fills up lists of candidates.
    free = np.concatenate([usable, np.zeros_like(usable[:1])])
    found, start, count = np.unique(rows, return_index=True, return_counts=True)
    picked = np.full((len(found), usable.shape[1]), -1)
    images, first = np.unique(image[found], return_index=True)
    rank = np.arange(len(found)) - first[np.searchsorted(images, image[found])]
    # Ground truths of the same rank are in different images, so they never want the same detection.
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
    return found, picked, free[:-1]


def _groups(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of equal labels, labels ascending."""
    order = np.argsort(labels, kind="stable")
    return iter(np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(labels) else [])


def _pairs_in_images(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of indices with the same image, given the (N,) and (M,) images of two lists, the second ascending."""
    start = np.searchsorted(second, first, side="left")
    count = np.searchsorted(second, first, side="right") - start
    rows = np.repeat(np.arange(len(first)), count)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    return rows, start[rows] + within


def _overlapping(truth: GroundTruth, detections: Detections) -> _Pairs:
    """All pairs that overlap by any metric."""
    wanted = np.flatnonzero(np.isin(truth.kind, [*CLASSES, *NEIGHBOURS.values()]))
    rows, columns = _pairs_in_images(truth.image[wanted], detections.image)
    rows = wanted[rows]
    shared, sizes, others = _image_overlap(truth.boxes[rows], detections.boxes[columns])
    bev, volume = paired_iou(truth.boxes3d, detections.boxes3d, rows, columns)
    overlap = {"bbox2d": shared / np.maximum(sizes + others - shared, 1e-12), "bev": bev, "box3d": volume}
    used = np.flatnonzero((shared > 0) | (bev > 0))
    return _Pairs(rows[used], columns[used], {name: values[used] for name, values in overlap.items()})


def _stuff_overlap(truth: GroundTruth, detections: Detections) -> np.ndarray:
    """(N,) the largest share of each detection's 2-D box in one DontCare region."""
    stuff = np.flatnonzero(truth.kind == "DontCare")
    rows, columns = _pairs_in_images(truth.image[stuff], detections.image)
    shared, _, own = _image_overlap(truth.boxes[stuff[rows]], detections.boxes[columns])
    largest = np.zeros(len(detections.image))
    # What is NaN, the share of a broken box, counts for nothing.
    np.fmax.at(largest, columns, shared / np.maximum(own, 1e-12))
    return largest


def _image_overlap(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K,) shared area, and the areas, of (K, 4) boxes; no pixel is added to any side."""
    corner = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    areas = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second))
    return np.prod(corner.clip(min=0), axis=1), *areas
