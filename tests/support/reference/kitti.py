"""KITTI's official metrics: label and result files -> every figure and curve, through functions and evaluator."""

from itertools import product

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from centernet_d2.data.kitti import CLASSES, register_kitti_3d
from centernet_d2.evaluation.kitti import KITTIEvaluator
from centernet_d2.evaluation.kitti_metrics import (
    DIFFICULTIES,
    MIN_OVERLAPS,
    RECALL_POINTS,
    SAMPLES,
    Detections,
    GroundTruth,
    average,
    count_objects,
    kitti_curves,
)
from centernet_d2.readers.kitti import parse_object
from centernet_d2.structures.boxes3d import Boxes3D

from .comparison import checks

RULES = {"height < minimum is ignored": "original", "height <= minimum is ignored": "kit"}
# Recorded name of a metric -> ours, and the row of its smallest overlaps.
METRICS = {"2d": ("bbox2d", 0), "aos": ("aos", 0), "bev": ("bev", 1), "3d": ("box3d", 2)}
# The unmodified programs: averages they print -> their rule, and their set of overlaps.
PRINTED = {"r11": ("original", 0), "r40": ("kit", 1)}


@checks("eval/kitti_*")
def check_metrics(path, comparison, tmp_path):
    data = dict(np.load(path))
    labels, predictions = (read_frames(data, name) for name in ("label", "prediction"))
    compare_conditions(comparison, data, predictions)
    truth, detections = truth_of(labels), detections_of(predictions)
    evaluator = evaluator_of(f"recorded_{path.stem}", tmp_path / "kitti", data)
    rules = [RULES[rule] for rule in data["rules"].tolist()]
    by_functions = fill(data, [functions(truth, detections, rule) for rule in rules])
    by_evaluator = fill(data, [evaluator(predictions, rule) for rule in rules])
    counts = np.array([count_all(truth, data, rule) for rule in rules])
    comparison.equal("count", counts, data.get("count"))
    for name in ("ap_r11", "ap_r40", "curves", "thresholds"):
        for title, ours in (("functions", by_functions), ("evaluator", by_evaluator)):
            if name in ours:
                ours = as_program(ours[name], counts, data, nothing=np.nan if name == "thresholds" else 0)
                compare(comparison, f"{name} by {title}", ours, data.get(name), 1e-8 if ours.ndim == 6 else 1e-6)
    for name, (rule, overlaps) in PRINTED.items():
        if rule in rules and overlaps < len(data["overlaps"]):
            ours = as_program(by_functions[f"ap_{name}"], counts, data, nothing=0)[rules.index(rule), overlaps]
            compare(comparison, f"printed_{name}", ours, data.get(f"printed_{name}"), 6e-5)


def compare(comparison, name, ours, recorded, atol):
    """Numbers within the tolerance, and NaN in the same places."""
    if recorded is not None:
        comparison.equal(f"{name} (NaN)", np.isnan(ours), np.isnan(recorded))
        comparison.close(name, np.nan_to_num(ours), np.nan_to_num(recorded), atol=atol)


def compare_conditions(comparison, data, predictions):
    """What the difficulties mean, and which classes the program skips: those without predictions."""
    for name in ("min_height", "max_occlusion", "max_truncation"):
        comparison.equal(name, [getattr(level, name) for level in levels(data)], data.get(name))
    predicted = {one.kind for frame in predictions for one in frame}
    evaluated = [[kind in predicted for kind in data["classes"].tolist()]] * len(data["metrics"])
    comparison.equal("evaluated", evaluated, data.get("evaluated"))


def levels(data):
    by_name = {one.name: one for one in DIFFICULTIES}
    return [by_name[name] for name in data["difficulties"].tolist()]


def count_all(truth, data, rule):
    return [[count_objects(truth, kind, level, rule) for level in levels(data)] for kind in data["classes"].tolist()]


def functions(truth, detections, rule):
    """All results of one rule, by the names that :func:`fill` looks for."""
    results = {}
    for setting, curves in kitti_curves(truth, detections, rules=rule):
        thresholds = np.full(SAMPLES, np.nan)
        thresholds[: len(curves.thresholds)] = curves.thresholds
        by_metric = {setting.metric: curves.precision}
        if setting.metric == "bbox2d":
            by_metric["aos"] = curves.similarity
        for metric, curve in by_metric.items():
            key = metric, setting.kind, setting.difficulty.name, setting.min_overlap
            results[("curves", *key)], results[("thresholds", *key)] = curve, thresholds
            for points in RECALL_POINTS:
                results[(f"ap_r{points}", *key)] = average(curve, points)
    return results


def fill(data, results):
    """Results by rule and name -> arrays with the recorded axes."""
    axes = [data[name].tolist() for name in ("overlaps", "metrics", "classes", "difficulties")]
    shape = [len(results), *map(len, axes)]
    arrays = {}
    for name in dict.fromkeys(key[0] for key in results[0]):
        values = []
        for one, (o, metric, k, difficulty) in product(
            results, product(range(len(axes[0])), axes[1], range(len(axes[2])), axes[3])
        ):
            ours, row = METRICS[metric]
            values.append(one[name, ours, axes[2][k], difficulty, float(data["min_overlap"][o, row, k])])
        arrays[name] = np.array(values).reshape(*shape, *np.shape(values[0]))
    return arrays


def as_program(ours, counts, data, nothing):
    """Our results as the program gives them: NaN for a class that it skips, `nothing` where there are no objects."""
    curve = ours.ndim - 5
    found = (counts > 0).reshape(len(counts), 1, 1, *counts.shape[1:], *[1] * curve)
    evaluated = data["evaluated"].reshape(1, 1, *data["evaluated"].shape, 1, *[1] * curve)
    return np.where(evaluated, np.where(found, ours, nothing), np.nan)


def read_frames(data, name):
    """The objects of the label or of the result file of each frame."""
    return [
        [parse_object(line, f"{name}_{frame}", name == "prediction") for line in data[f"{name}_{frame}"].tolist()]
        for frame in data["frames"].tolist()
    ]


def columns_of(frames):
    flat = [(index, one) for index, frame in enumerate(frames) for one in frame]
    boxes3d = [[*one.location, *one.dimensions, one.rotation_y] for _, one in flat]
    return {
        "image": np.array([index for index, _ in flat], dtype=np.int64),
        "kind": np.array([one.kind for _, one in flat], dtype=np.str_),
        "boxes": np.array([one.box for _, one in flat], dtype=np.float64).reshape(-1, 4),
        "boxes3d": np.array(boxes3d, dtype=np.float64).reshape(-1, 7),
        "alpha": np.array([one.alpha for _, one in flat], dtype=np.float64),
    }


def truth_of(frames):
    occlusion, truncation = (
        np.array([getattr(one, name) for frame in frames for one in frame]) for name in ("occlusion", "truncation")
    )
    return GroundTruth(**columns_of(frames), occlusion=occlusion, truncation=truncation)


def detections_of(frames):
    score = np.array([one.score for frame in frames for one in frame], dtype=np.float64)
    return Detections(**columns_of(frames), score=score)


def evaluator_of(name, root, data):
    """Write the labels as a data set; returns a function from predictions and rule to results by name."""
    frames = data["frames"].tolist()
    for folder in ("training/image_2", "training/label_2", "training/calib", "ImageSets"):
        (root / folder).mkdir(parents=True)
    pixel = cv2.imencode(".png", np.zeros((1, 1, 3), dtype=np.uint8))[1].tobytes()
    for frame in frames:
        (root / f"training/image_2/{frame}.png").write_bytes(pixel)
        (root / f"training/label_2/{frame}.txt").write_text("\n".join(data[f"label_{frame}"].tolist()))
        (root / f"training/calib/{frame}.txt").write_text("P2: 700 0 600 0 0 700 180 0 0 0 1 0")
    (root / "ImageSets/all.txt").write_text("\n".join(frames))
    register_kitti_3d(name, root, "all")

    def evaluate(predictions, rule):
        evaluator = KITTIEvaluator(name, distributed=False, rules=rule)
        outputs = [{"instances": instances_of(frame)} for frame in predictions]
        evaluator.process([{"image_id": frame} for frame in frames], outputs)
        results = {}
        for metric, values in evaluator.evaluate().items():
            for title, value in values.items():
                kind, difficulty, points = title.rsplit("_", 2)
                points, _, overlap = points.partition("@")
                # The limits in the image are not in the names: there is one for each class.
                overlap = float(overlap) if overlap else MIN_OVERLAPS["bbox2d"][kind][0]
                results[f"ap_{points.lower()}", metric, kind, difficulty, overlap] = value
        return results

    return evaluate


def instances_of(frame):
    """What a model would say of one frame."""
    result = Instances((1, 1))
    result.pred_boxes = Boxes(torch.tensor([one.box for one in frame]).reshape(-1, 4))
    result.pred_boxes3d = Boxes3D([[*one.location, *one.dimensions, one.rotation_y] for one in frame])
    result.pred_alpha = torch.tensor([one.alpha for one in frame])
    result.pred_classes = torch.tensor([CLASSES.index(one.kind) for one in frame], dtype=torch.long)
    result.scores = torch.tensor([one.score for one in frame])
    return result
