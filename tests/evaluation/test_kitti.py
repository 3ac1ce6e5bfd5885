import logging
import math

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation.testing import flatten_results_dict, print_csv_format
from detectron2.structures import Boxes, Instances

from centernet_d2 import load_config, model_zoo
from centernet_d2.data.kitti import load_kitti_3d, register_kitti_3d
from centernet_d2.engine import Trainer
from centernet_d2.evaluation.kitti import KITTIEvaluator
from centernet_d2.evaluation.kitti_metrics import (
    DIFFICULTIES,
    MIN_OVERLAPS,
    Detections,
    GroundTruth,
    average,
    evaluate_kitti,
    kitti_curves,
    recall_thresholds,
)
from centernet_d2.readers.kitti import read_objects
from centernet_d2.structures.boxes3d import Boxes3D, paired_iou

NEIGHBORS = {"Car": "Van", "Pedestrian": "Person_sitting"}


def make_object(
    image, kind="Car", box=(100, 100, 200, 160), lateral=0.0, alpha=0.0, occlusion=0, truncation=0.0, score=1.0
):
    """Return a ground truth or detection; objects some meters apart laterally do not overlap in 3-D."""
    box3d = (lateral, 1.5, 20.0, 1.5, 1.6, 4.0, 0.0)
    return image, kind, box, box3d, alpha, occlusion, truncation, score


def columns(objects):
    image, kind, box, box3d, alpha, occlusion, truncation, score = zip(*objects, strict=True) if objects else [()] * 8
    return {
        "image": np.array(image, dtype=np.int64),
        "kind": np.array(kind, dtype=np.str_),
        "boxes": np.array(box, dtype=np.float64).reshape(-1, 4),
        "boxes3d": np.array(box3d, dtype=np.float64).reshape(-1, 7),
        "alpha": np.array(alpha, dtype=np.float64),
        "occlusion": np.array(occlusion),
        "truncation": np.array(truncation),
        "score": np.array(score, dtype=np.float64),
    }


def arrays(truth, detections):
    truth, detections = columns(truth), columns(detections)
    del truth["score"], detections["occlusion"], detections["truncation"]
    return GroundTruth(**truth), Detections(**detections)


def evaluate(truth, detections, **options):
    return evaluate_kitti(*arrays(truth, detections), **options)


def cars(count, **kwargs):
    """Return one car in each of `count` images, with decreasing scores."""
    return [make_object(image, score=1 - image / 1000, **kwargs) for image in range(count)]


def test_perfect_detections_give_100():
    boxes = {"Car": (100, 100, 200, 160), "Pedestrian": (300, 100, 330, 180), "Cyclist": (400, 100, 450, 180)}
    objects = [
        make_object(image, kind, box, lateral=10 * i, alpha=image)
        for image in range(41)
        for i, (kind, box) in enumerate(boxes.items())
    ]
    results = evaluate(objects, objects)
    assert [len(values) for values in results.values()] == [18, 18, 36, 36]
    for values in results.values():
        assert list(values.values()) == pytest.approx([100.0] * len(values))


def test_ten_objects_stay_below_100():
    # The number of recall samples is the number of detected objects: 0, 1/40, ... 9/40. The 11-point metric uses the
    # samples 0, 4 and 8, and the 40-point metric uses all except the first.
    results = evaluate(cars(10), cars(10))
    assert results["bbox2d"]["Car_easy_R11"] == pytest.approx(100 * 3 / 11)
    assert results["bbox2d"]["Car_easy_R40"] == pytest.approx(100 * 9 / 40)


def test_no_objects_give_nan_and_no_detections_give_zero():
    results = evaluate(cars(3), [])
    assert results["bbox2d"]["Car_easy_R11"] == results["box3d"]["Car_hard_R40@0.7"] == 0
    assert math.isnan(results["aos"]["Cyclist_easy_R11"])
    assert math.isnan(evaluate([], cars(3))["bev"]["Car_easy_R11@0.5"])


def test_duplicated_detections_halve_precision():
    truth = cars(50)
    # At each threshold, the precision is k / 2k.
    results = evaluate(truth, sorted(cars(50) * 2, key=lambda one: one[0]))
    for metric, suffix in (("bbox2d", ""), ("aos", ""), ("bev", "@0.7"), ("box3d", "@0.5")):
        assert results[metric][f"Car_moderate_R40{suffix}"] == pytest.approx(50)
    # Duplicates with the lowest scores are below all thresholds.
    later = [make_object(image, score=0.1) for image in range(50)]
    assert evaluate(truth, sorted(cars(50) + later, key=lambda one: one[0]))["bbox2d"]["Car_hard_R11"] == 100


def test_false_positives_with_highest_scores():
    # 50 false positives above 50 true positives: the precision is 50 / 100 at the last one, and interpolated before.
    wrong = [make_object(image, box=(500, 100, 600, 160), lateral=20, score=2) for image in range(50)]
    results = evaluate(cars(50), sorted(cars(50) + wrong, key=lambda one: one[0]))
    assert results["bbox2d"]["Car_easy_R11"] == pytest.approx(50)
    assert results["box3d"]["Car_easy_R40@0.7"] == pytest.approx(50)


def test_swapping_results_of_two_images_lowers_metrics():
    truth = [make_object(i, box=(100 + i, 100, 200 + 2 * i, 160 + i), lateral=i) for i in range(50)]
    found = list(truth)
    found[3], found[40] = (3, *truth[40][1:]), (40, *truth[3][1:])
    results = evaluate(truth, found)
    for metric, name in (("bbox2d", "Car_easy_R40"), ("bev", "Car_hard_R11@0.5"), ("box3d", "Car_easy_R40@0.7")):
        assert results[metric][name] < evaluate(truth, truth)[metric][name] == pytest.approx(100)


@pytest.mark.parametrize(("angle", "aos"), [(0, 100), (math.pi / 3, 75), (math.pi / 2, 50), (math.pi, 0)])
def test_orientation_similarity(angle, aos):
    results = evaluate(cars(50), cars(50, alpha=angle))
    assert results["aos"]["Car_easy_R11"] == pytest.approx(aos, abs=1e-9)
    assert results["bbox2d"]["Car_easy_R11"] == pytest.approx(100)


def test_overlap_must_exceed_the_limit():
    # 70 of 100 columns: exactly 0.7; 71 columns exceed it.
    for right, expected in ((170, 0), (171, 100)):
        results = evaluate(cars(50), cars(50, box=(100, 100, right, 160)))
        assert results["bbox2d"]["Car_easy_R40"] == pytest.approx(expected)
    # Shifted by 1 of 4 m: 3 / 5 in bird's-eye view.
    results = evaluate(cars(50), cars(50, lateral=1.0))
    assert results["bev"]["Car_easy_R40@0.5"] == pytest.approx(100)
    assert results["bev"]["Car_easy_R40@0.7"] == 0


def both(extra_truth=(), extra_found=()):
    """Return the 2-D AP and the bird's-eye AP of easy cars for 50 images with a detected car and more objects."""
    truth = [one for image in range(50) for one in (make_object(image), *(f(image) for f in extra_truth))]
    found = [one for image in range(50) for one in (make_object(image, score=0.9), *(f(image) for f in extra_found))]
    results = evaluate(truth, found)
    return results["bbox2d"]["Car_easy_R40"], results["bev"]["Car_easy_R40@0.5"]


def elsewhere(kind="Car", score=0.95, box=(500, 100, 600, 160), **kwargs):
    """Return a function that makes an object next to the car, with a higher score."""
    return lambda image: make_object(image, kind, box, lateral=30, score=score, **kwargs)


@pytest.mark.parametrize(
    ("extra_truth", "extra_found", "expected"),
    [
        ((), (elsewhere(),), (50, 50)),  # A false positive.
        ((), (elsewhere("Pedestrian"),), (100, 100)),  # Another class.
        ((elsewhere("Van"),), (elsewhere(),), (100, 100)),  # The neighbor class ...
        ((elsewhere("Van"),), (), (100, 100)),  # ... which does not have to be detected.
        ((elsewhere("Truck"),), (elsewhere(),), (50, 50)),  # Truck is not a neighbor class in the evaluation.
        ((elsewhere(occlusion=1),), (elsewhere(),), (100, 100)),  # Too difficult, detected or not.
        ((elsewhere(truncation=0.2),), (), (100, 100)),
        ((elsewhere(box=(500, 100, 600, 140)),), (), (100, 100)),  # Not taller than 40 pixels.
        ((), (elsewhere(box=(500, 100, 600, 139)),), (100, 100)),  # A detection of less than 40 pixels.
        ((elsewhere("DontCare"),), (elsewhere(),), (100, 50)),  # Ignored for the 2-D metric only.
        ((elsewhere("DontCare", box=(500, 100, 565, 160)),), (elsewhere(),), (50, 50)),  # Overlap of only 65 %.
        ((elsewhere("DontCare", box=(0, 0, 1000, 1000)),), (elsewhere(),), (100, 50)),  # Relative to the detection.
    ],
)
def test_ignored_objects_and_detections(extra_truth, extra_found, expected):
    truth = [one(0) for one in extra_truth if one(0)[1] == "DontCare"]
    if truth:  # Labels of DontCare have no lateral in space.
        lateral = (-1000.0, -1000.0, -1000.0, -1.0, -1.0, -1.0, -10.0)
        extra_truth = tuple(lambda image, f=f: (*f(image)[:3], lateral, *f(image)[4:]) for f in extra_truth)
    assert both(extra_truth, extra_found) == pytest.approx(expected)


def test_rules_define_boxes_of_exactly_the_minimum_height():
    # Half of the labels are 40 pixels high and not detected.
    truth = [one for i in range(50) for one in (make_object(i), make_object(i, box=(500, 100, 600, 140), lateral=30))]
    for rules, easy in (("kit", 100), ("original", 50)):
        results = evaluate(truth, cars(50), rules=rules)
        assert results["bbox2d"]["Car_easy_R40"] == pytest.approx(easy)
        assert results["box3d"]["Car_moderate_R40@0.7"] == pytest.approx(50)
    # A detection of this height is a false positive by both rules.
    found = [
        one
        for i in range(50)
        for one in (make_object(i), make_object(i, box=(500, 100, 600, 140), lateral=30, score=2))
    ]
    assert evaluate(cars(50), found)["bbox2d"]["Car_easy_R40"] == pytest.approx(50)
    assert evaluate(cars(50), found, rules="original")["bbox2d"]["Car_easy_R40"] == pytest.approx(50)
    with pytest.raises(ValueError, match="^rules is 'mine', known: kit, original"):
        evaluate(truth, truth, rules="mine")


def test_precision_is_0_without_counted_detections():
    # The van is matched with the small detection by score, but with the car's detection by overlap.
    boxes = {"van": (100, 100, 200, 140), "car": (100, 100, 200, 141), "small": (100, 100, 200, 139)}
    truth = [make_object(0, "Van", boxes["van"]), make_object(0, "Car", boxes["car"])]
    found = [make_object(0, "Car", boxes["small"], score=0.9), make_object(0, "Car", boxes["car"], score=0.5)]
    results = evaluate(truth, found)
    for metric in ("bbox2d", "aos"):
        assert results[metric]["Car_easy_R11"] == results[metric]["Car_easy_R40"] == 0
    # The small detection is large enough for moderate.
    assert results["bbox2d"]["Car_moderate_R11"] > 0


BROKEN = {
    "alpha": {"alpha": math.nan},
    "score": {"score": math.nan},
    "infinite score": {"score": math.inf},
    "box": {"box": (math.nan, 100, 200, 160)},
    "infinite box": {"box": (100, 100, math.inf, 160)},
    "lateral": {"lateral": math.nan},
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("stuff", [False, True])
def test_detection_with_nan_is_a_false_positive(name, stuff):
    # DontCare regions do not affect it.
    regions = [make_object(0, "DontCare", (0, 0, 1000, 1000))] if stuff else []
    found = cars(50)
    found[1] = make_object(1, **{"score": 0.999, **BROKEN[name]})
    results = evaluate(regions + cars(50), found)
    # The second object is missed, and its detection is a false positive from the first or second score on.
    without = evaluate(regions + cars(50), found[:1] + found[2:])
    for metric, values in results.items():
        for key, value in values.items():
            if key.startswith("Car"):
                assert 0 < value < without[metric][key], (metric, key)
    # A detection of another class does not change the metrics of cars.
    other = [*cars(50), make_object(49, "Pedestrian", **BROKEN[name])]
    assert evaluate(cars(50), other)["box3d"]["Car_easy_R11@0.7"] == pytest.approx(100)


def test_detection_with_nan_score_is_a_false_positive_at_all_thresholds():
    found = [*cars(50), *(make_object(49, score=score, lateral=50, alpha=math.nan) for score in (math.nan, 0.1))]
    curves = {setting.label(11): curves for setting, curves in kitti_curves(*arrays(cars(50), found))}
    # k of k + 1 detections are correct, and 50 of 51 at the end; the other false positive has the lowest score.
    np.testing.assert_allclose(curves["Car_easy_R11"].precision, 50 / 51)


def test_half_of_the_objects_missed():
    # 50 of 100 detected without false positives: precision 1 up to recall 0.5, which is samples 0 to 20.
    missed = elsewhere()
    results = both((missed,))
    assert results == pytest.approx((100 * 20 / 40, 100 * 20 / 40))


def test_thresholds_by_hand():
    # 80 objects: the first score is closest to recall 0, the second to 1/40 = 2/80, then every second score.
    assert recall_thresholds(np.arange(1, 81), 80) == [80, *range(79, 0, -2)]
    # Half of the objects detected: up to recall 40/80.
    assert recall_thresholds(np.arange(1, 41), 80) == [40, *range(39, 0, -2)]
    # The fourth score is closer to 2/40 than the third, which is skipped unless it is the last one.
    assert recall_thresholds(np.arange(1, 5), 80) == [4, 3, 1]
    assert recall_thresholds(np.arange(1, 4), 80) == [3, 2, 1]
    assert recall_thresholds(np.array([]), 5) == []


def test_averages_by_hand():
    curve = np.where(np.arange(41) <= 8, 1.0, 0.0)
    assert average(curve, 11) == pytest.approx(100 * 3 / 11)
    assert average(curve, 40) == pytest.approx(100 * 8 / 40)


# The official procedure with sequential loops over images and objects.


def slow_average_precision(truth, found, metric, kind, difficulty, min_overlap):
    """Return R11 and R40 of precision and of orientation similarity."""
    images = range(max([one[0] for one in truth + found]) + 1)
    scenes = [([t for t in truth if t[0] == i], [d for d in found if d[0] == i]) for i in images]
    scores, count = [], 0
    for objects, detections in scenes:
        outcome = slow_match(objects, detections, metric, kind, difficulty, min_overlap, None)
        scores += outcome["scores"]
        count += outcome["hits"] + outcome["misses"] + outcome["excused"]
    if count == 0:
        return [math.nan] * 4
    precision, similarity = [0.0] * 41, [0.0] * 41
    for index, threshold in enumerate(recall_thresholds(np.array(scores), count)):
        outcomes = [slow_match(*scene, metric, kind, difficulty, min_overlap, threshold) for scene in scenes]
        hits, false = (sum(o[name] for o in outcomes) for name in ("hits", "false"))
        precision[index] = hits / max(hits + false, 1)
        similarity[index] = sum(o["similarity"] for o in outcomes) / max(hits + false, 1)
    curves = [[max(curve[i:]) for i in range(41)] for curve in (precision, similarity)]
    return [100 * value for curve in curves for value in (sum(curve[::4]) / 11, sum(curve[1:]) / 40)]


def slow_match(objects, detections, metric, kind, difficulty, min_overlap, threshold):
    played = ["small" if abs(d[2][3] - d[2][1]) < difficulty.min_height else d[1] for d in detections]
    taken, out = set(), {"scores": [], "hits": 0, "misses": 0, "excused": 0, "false": 0, "similarity": 0.0}
    for t in objects:
        if t[1] not in (kind, NEIGHBORS.get(kind)):
            continue
        valid = t[1] == kind and t[5] <= difficulty.max_occlusion and t[6] <= difficulty.max_truncation
        valid = valid and t[2][3] - t[2][1] > difficulty.min_height
        best = None
        for j, d in enumerate(detections):
            overlap = slow_overlap(t, d, metric)
            below = threshold is not None and d[7] < threshold
            if played[j] not in (kind, "small") or j in taken or below or not overlap > min_overlap:
                continue
            # Without a threshold: the highest score. With a threshold: own class before small detections, then overlap.
            own = played[j] == kind
            value = (d[7],) if threshold is None else (own, overlap if own else 0)
            if best is None or value > best[0]:
                best = (value, j)
        if best is not None:
            taken.add(best[1])
        if not valid:
            continue
        if best is None:
            out["misses"] += 1
        elif played[best[1]] == "small":
            out["excused"] += 1
        else:
            out["hits"] += 1
            out["scores"].append(detections[best[1]][7])
            out["similarity"] += (1 + math.cos(t[4] - detections[best[1]][4])) / 2
    stuff = [t for t in objects if t[1] == "DontCare" and metric == "bbox2d"]
    for j, d in enumerate(detections):
        if j in taken or played[j] != kind or (threshold is not None and d[7] < threshold):
            continue
        out["false"] += not any(shared_area(t, d) / area(d) > min_overlap for t in stuff)
    return out


def area(one):
    return (one[2][2] - one[2][0]) * (one[2][3] - one[2][1])


def shared_area(first, second):
    width = min(first[2][2], second[2][2]) - max(first[2][0], second[2][0])
    height = min(first[2][3], second[2][3]) - max(first[2][1], second[2][1])
    return max(width, 0) * max(height, 0)


def slow_overlap(first, second, metric):
    if metric == "bbox2d":
        shared = shared_area(first, second)
        return shared / (area(first) + area(second) - shared)
    both = paired_iou(np.array([first[3]]), np.array([second[3]]), np.array([0]), np.array([0]))
    return both[metric == "box3d"][0]


def random_scenes(rng, images=8):
    """Generate crowded images with small and difficult objects, several detections per object, and equal scores."""
    truth, found = [], []

    def moved(box, box3d, amount):
        noise = amount * rng.normal(size=4) * np.array([box[2] - box[0], box[3] - box[1]] * 2)
        return tuple(np.array(box) + noise), tuple(np.array(box3d) + amount * rng.normal(size=7))

    kinds = ["Car", "Pedestrian", "Cyclist"]
    for image in range(images):
        anchors = [(rng.uniform(0, 300), rng.uniform(0, 80), rng.uniform(-4, 4), rng.uniform(10, 16)) for _ in range(2)]
        for _ in range(rng.integers(0, 9)):
            x, y, lateral, depth = anchors[rng.integers(2)]
            box = (x, y, x + rng.uniform(40, 60), y + rng.choice([24, 30, 42, 60]))
            box3d = (lateral, 1.5, depth, 1.5, 1.8, 4.0, rng.uniform(-3, 3))
            box, box3d = moved(box, box3d, 0.1)
            kind = rng.choice([*kinds, *kinds, *NEIGHBORS.values(), "Truck", "DontCare"])
            hard = {
                "occlusion": int(rng.choice([0, 0, 0, 1, 2, 3])),
                "truncation": rng.choice([0, 0, 0, 0.2, 0.4, 0.9]),
            }
            one = make_object(image, kind, box, alpha=rng.uniform(-3, 3), **hard)
            truth.append((*one[:3], box3d, *one[4:]))
            for _ in range(rng.integers(0, 4)):
                near, near3d = moved(box, box3d, 0.06)
                kind_found = kind if kind in kinds and rng.random() < 0.9 else rng.choice(kinds)
                one = make_object(image, kind_found, near, alpha=rng.uniform(-3, 3), score=rng.integers(1, 20) / 20)
                found.append((*one[:3], near3d, *one[4:]))
    return truth, found


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_the_sequential_procedure(seed):
    truth, found = random_scenes(np.random.default_rng(seed))
    results = evaluate(truth, found)
    compared = []
    for metric, overlaps in MIN_OVERLAPS.items():
        for kind in overlaps:
            for difficulty in DIFFICULTIES:
                for overlap in overlaps[kind]:
                    slow = slow_average_precision(truth, found, metric, kind, difficulty, overlap)
                    suffix = "" if metric == "bbox2d" else f"@{overlap}"
                    names = [f"{kind}_{difficulty.name}_R{points}{suffix}" for points in (11, 40)]
                    fast = [results[metric][name] for name in names]
                    if metric == "bbox2d":
                        fast += [results["aos"][name] for name in names]
                    assert fast == pytest.approx(slow[: len(fast)], nan_ok=True), (metric, names)
                    compared += fast
    assert np.nanstd(compared) > 3


# The evaluator.


@pytest.fixture
def kitti_dataset(tmp_path, request):
    """Registered dataset of 50 frames with one car each."""
    for name in ("training/image_2", "training/label_2", "training/calib", "ImageSets"):
        (tmp_path / name).mkdir(parents=True)
    frames = [f"{index:06d}" for index in range(50)]
    for index, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"training/image_2/{frame}.png"), np.zeros((4, 6, 3), dtype=np.uint8))
        (tmp_path / f"training/calib/{frame}.txt").write_text("P2: 700 0 600 45 0 700 180 -0.3 0 0 1 0.005\n")
        (tmp_path / f"training/label_2/{frame}.txt").write_text(
            f"Car 0 0 0.5 100 100 {200 + index} 160 1.5 1.6 4 1 1.5 20 0.55\n"
        )
    (tmp_path / "ImageSets/all.txt").write_text("\n".join(frames))
    name = request.node.name
    register_kitti_3d(name, tmp_path, "all")
    return name


def perfect(records):
    """Return inputs and outputs of a perfect model."""
    inputs = [{"image_id": record["image_id"]} for record in records]
    return inputs, [{"instances": as_instances(record)} for record in records]


def as_instances(record):
    objects = [one for one in record["annotations"] if not one["ignore"]]
    instances = Instances((record["height"], record["width"]))
    instances.pred_boxes = Boxes(torch.tensor([one["bbox"] for one in objects]).reshape(-1, 4))
    instances.pred_boxes3d = Boxes3D([[*one["location"], *one["dimensions"], one["rotation_y"]] for one in objects])
    instances.pred_alpha = torch.tensor([one["alpha"] for one in objects])
    instances.pred_classes = torch.tensor([one["category_id"] for one in objects], dtype=torch.long)
    instances.scores = torch.linspace(0.9, 0.5, len(objects))
    return instances


def test_evaluator_writes_official_result_files(kitti_dataset, tmp_path, caplog):
    evaluator = KITTIEvaluator(kitti_dataset, output_dir=str(tmp_path / "out"), distributed=False)
    evaluator.process(*perfect(DatasetCatalog.get(kitti_dataset)))
    with caplog.at_level(logging.INFO):
        results = evaluator.evaluate()
        print_csv_format(results)
    assert "Car R40@0.7" in caplog.text
    assert "fewer than 41" not in caplog.text
    assert {value for name, value in flatten_results_dict(results).items() if "/Car" in name} == {100.0}
    files = sorted((tmp_path / "out/data").iterdir())
    assert [path.name for path in files] == [f"{index:06d}.txt" for index in range(50)]
    line = "Car 0.0 0 0.50 100.00 100.00 203.00 160.00 1.50 1.60 4.00 1.00 1.50 20.00 0.55 0.90\n"
    assert files[3].read_text() == line
    assert read_objects(files[3], scored=True)[0].score == 0.9
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_evaluator_rounds_like_result_files(kitti_dataset):
    # A false positive with 0.896 is below all true positives with 0.904, but both are 0.90 in the result files.
    inputs, outputs = perfect(DatasetCatalog.get(kitti_dataset))
    for output in outputs:
        output["instances"] = Instances.cat([output["instances"]] * 2)
        output["instances"].scores = torch.tensor([0.904, 0.896])
        output["instances"].pred_boxes.tensor[1] += 300
        output["instances"].pred_boxes3d.tensor[1, 0] += 30
    for rounding, expected in ((True, 50), (False, 100)):
        evaluator = KITTIEvaluator(kitti_dataset, distributed=False, round_results=rounding)
        evaluator.process(inputs, outputs)
        results = evaluator.evaluate()
        assert results["bbox2d"]["Car_easy_R40"] == pytest.approx(expected)
        assert results["box3d"]["Car_easy_R40@0.7"] == pytest.approx(expected)


def test_detections_with_nan_are_counted_in_a_warning(kitti_dataset, tmp_path, caplog):
    inputs, outputs = perfect(DatasetCatalog.get(kitti_dataset))
    outputs[0]["instances"].pred_alpha[0] = math.nan
    outputs[1]["instances"].scores[0] = math.nan
    outputs[2]["instances"].pred_boxes3d.tensor[0, 2] = math.inf
    evaluator = KITTIEvaluator(kitti_dataset, output_dir=str(tmp_path / "out"), distributed=False)
    evaluator.process(inputs, outputs)
    with caplog.at_level(logging.WARNING):
        results = evaluator.evaluate()
    assert [line for line in caplog.messages if "NaN" in line] == [
        "3 of 50 detections contain NaN or Inf and count as false positives"
    ]
    for values in results.values():
        assert all(0 < value < 100 for name, value in values.items() if name.startswith("Car"))


def test_rules_are_read_from_the_config(kitti_dataset, tmp_path):
    for path in (tmp_path / "training/label_2").glob("*.txt"):
        label = path.read_text()
        path.write_text(label + label.replace("100 100", "400 100").replace(" 160 ", " 140 ").replace(" 20 ", " 50 "))
    inputs, outputs = perfect(DatasetCatalog.get(kitti_dataset))
    for output in outputs:
        output["instances"] = output["instances"][:1]
    cfg = load_config(model_zoo.get_config_file("KITTI-3D/centernet_3d_R_18.yaml"), ["OUTPUT_DIR", str(tmp_path)])
    for rules, expected in (("kit", 100), ("original", 50)):
        cfg.MODEL.CENTERNET.QUIRKS.KITTI_RULES = rules
        evaluator = Trainer.build_evaluator(cfg, kitti_dataset)
        evaluator.process(inputs, outputs)
        assert evaluator.evaluate()["bbox2d"]["Car_easy_R40"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="^rules is 'mine', known: kit, original"):
        KITTIEvaluator(kitti_dataset, rules="mine")


def test_only_processed_images_are_evaluated_and_few_objects_warn(kitti_dataset, caplog):
    evaluator = KITTIEvaluator(kitti_dataset, distributed=False)
    inputs, outputs = perfect(DatasetCatalog.get(kitti_dataset))
    evaluator.process(inputs[:10], outputs[:10])
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate()["bbox2d"]["Car_easy_R11"] == pytest.approx(100 * 3 / 11)
    assert "stay below 100 even for perfect detections" in caplog.text
    assert "Car easy (10), Car moderate (10), Car hard (10)" in caplog.text


def test_results_of_all_processes_are_gathered(kitti_dataset, monkeypatch):
    inputs, outputs = perfect(DatasetCatalog.get(kitti_dataset))
    first, second = KITTIEvaluator(kitti_dataset), KITTIEvaluator(kitti_dataset)
    first.process(inputs[::2], outputs[::2])
    second.process(inputs[1::2], outputs[1::2])
    monkeypatch.setattr("detectron2.utils.comm.gather", lambda data, dst: [data, second._predictions])
    assert first.evaluate()["box3d"]["Car_hard_R11@0.7"] == 100
    monkeypatch.setattr("detectron2.utils.comm.gather", lambda data, dst: [])
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    assert second.evaluate() is None


def test_unknown_image_raises(kitti_dataset):
    evaluator = KITTIEvaluator(kitti_dataset, distributed=False)
    (record, *_) = DatasetCatalog.get(kitti_dataset)
    evaluator.process([{"image_id": "nowhere"}], [{"instances": as_instances(record)}])
    with pytest.raises(KeyError, match="'nowhere' is not in the dataset"):
        evaluator.evaluate()


def test_unknown_classes_raise():
    MetadataCatalog.get("kitti_with_dogs").set(thing_classes=["Car", "Dog"])
    with pytest.raises(ValueError, match="'kitti_with_dogs' has classes that KITTI does not have: Dog"):
        KITTIEvaluator("kitti_with_dogs")


def test_real_labels_as_detections_give_100(shared, tmp_path):
    root = shared / "data" / "kitti_sample"
    register_kitti_3d("kitti_sample_train_self", str(root), "sample_train")
    evaluator = KITTIEvaluator("kitti_sample_train_self", distributed=False)
    evaluator.process(*perfect(load_kitti_3d(root, "sample_train")))
    results = evaluator.evaluate()
    for metric, name in (("bbox2d", "Car_easy_R11"), ("aos", "Car_hard_R40"), ("box3d", "Car_moderate_R40@0.7")):
        assert results[metric][name] == pytest.approx(100)
    assert 0 < results["box3d"]["Cyclist_hard_R11@0.25"] < 30
