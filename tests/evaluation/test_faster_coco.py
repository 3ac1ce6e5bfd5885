import json
import logging
import sys
from collections import Counter
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from centernet_d2.data.coco import register_coco_file
from centernet_d2.evaluation.coco import BOX_METRICS, PointCOCOEvaluator
from centernet_d2.evaluation.faster_coco import FasterCOCOeval
from centernet_d2.modeling.heads import BoxProperty, CenterProperty, KeypointProperty
from centernet_d2.modeling.heads.keypoint import KeypointSchema
from centernet_d2.report.truth import coco_metrics, flatten_detections, load_truth

JOINTS = 3
CLASSES = 4
PROPERTIES = [CenterProperty(), BoxProperty(), KeypointProperty(schema=KeypointSchema(tuple(range(JOINTS))))]


class Recorder(PointCOCOEvaluator):
    """Evaluator that stores all metrics; Detectron2 returns a subset."""

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        self.evaluations = {**getattr(self, "evaluations", {}), iou_type: coco_eval}
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


@pytest.fixture
def log_counter(monkeypatch):
    """Reset the counters of messages that are logged once."""
    monkeypatch.setattr("detectron2.utils.logger._LOG_COUNTER", Counter())


def draw(seed, images=6):
    """Generate a COCO file and detections.

    The file contains crowds, ignored objects, all sizes, an image and a category without objects. Scores have one
    decimal, so that many are equal.
    """
    random = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(images):
        boxes, classes, joints = [], [], []
        for _ in range(random.integers(5, 12) if image else 0):
            box = np.concatenate([random.uniform(0, 300, 2), 10 ** random.uniform(0.5, 2.4, 2)])
            points = box[:2] + random.random((JOINTS, 2)) * box[2:]
            visibility = random.integers(0, 3, JOINTS) * (random.random() < 0.8)
            category = int(random.integers(CLASSES - 1))
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": 10 + category,
                "bbox": box.tolist(),
                "area": box[2] * box[3] * random.choice([0.5, 1]),
                "iscrowd": int(random.random() < 0.15),
                "ignore": int(random.random() < 0.1),
                "keypoints": np.column_stack([points, visibility]).ravel().tolist(),
                "num_keypoints": int((visibility > 0).sum()),
            }
            annotations.append(annotation)
            for _ in range(random.integers(0, 4)):
                boxes.append(
                    np.concatenate([box[:2], box[:2] + box[2:]]) + random.normal(0, random.choice([0, 1, 8]), 4)
                )
                classes.append(category if random.random() < 0.9 else random.integers(CLASSES))
                joints.append(points + random.normal(0, random.choice([0, 2]), (JOINTS, 2)))
        found = Instances((480, 640))
        found.pred_boxes = Boxes(torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32))
        found.pred_classes = torch.tensor(np.array(classes, dtype=np.int64))
        found.scores = torch.tensor(random.integers(1, 10, len(boxes)) / 10)
        points = np.array(joints).reshape(-1, JOINTS, 2)
        found.pred_keypoints = torch.tensor(np.concatenate([points, np.ones((*points.shape[:2], 1))], axis=2))
        # One image with objects has no detections.
        detections.append(found[[]] if image == 1 else found)
    content = {
        "images": [{"id": image, "file_name": f"{image}.jpg", "height": 480, "width": 640} for image in range(images)],
        "categories": [{"id": 10 + number, "name": f"class {number}"} for number in range(CLASSES)],
        "annotations": annotations,
    }
    return content, detections


def evaluate(folder, content, detections, **kwargs):
    """Return the evaluator, its results and the content of its result file."""
    folder.mkdir()
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    name = str(folder)
    ids = {category["id"]: number for number, category in enumerate(content["categories"])}
    classes = [category["name"] for category in content["categories"]]
    MetadataCatalog.get(name).set(
        json_file=str(path), thing_classes=classes, thing_dataset_id_to_contiguous_id=ids, evaluator_type="coco"
    )
    evaluator = Recorder(name, properties=PROPERTIES, output_dir=name, kpt_oks_sigmas=[0.02, 0.05, 0.1], **kwargs)
    process(evaluator, content, detections)
    return evaluator, evaluator.evaluate(), (folder / "coco_instances_results.json").read_bytes()


def process(evaluator, content, detections):
    evaluator.reset()
    for image, found in zip(content["images"], detections, strict=True):
        evaluator.process([{"image_id": image["id"]}], [{"instances": found}])


def assert_same(one, other):
    """Check that two evaluations have the same metrics, up to rounding errors, and the same result file."""
    assert one[1].keys() == other[1].keys() == {"bbox", "keypoints"}
    for task, figures in one[1].items():
        assert figures == pytest.approx(other[1][task], abs=1e-10, nan_ok=True)  # Percent.
        evaluations = one[0].evaluations[task], other[0].evaluations[task]
        assert len(evaluations[0].stats) == (12 if task == "bbox" else 10)
        assert evaluations[0].params.maxDets == evaluations[1].params.maxDets  # Printed in the table.
        np.testing.assert_allclose(evaluations[0].stats, evaluations[1].stats, rtol=0, atol=1e-12)
        for part in ("precision", "recall", "scores"):
            np.testing.assert_allclose(*(x.eval[part] for x in evaluations), rtol=0, atol=1e-12)
    assert one[2] == other[2]


@pytest.mark.parametrize("max_dets", [100, 3, 300])
@pytest.mark.parametrize("seed", range(3))
def test_faster_coco_eval_equals_pycocotools(tmp_path, caplog, seed, max_dets):
    pytest.importorskip("faster_coco_eval")
    drawn = draw(seed)
    with caplog.at_level(logging.DEBUG):
        official = evaluate(tmp_path / "official", *drawn, max_dets_per_image=max_dets, use_fast_impl=False)
        assert "faster-coco-eval" not in caplog.text
        assert "official COCO API" in caplog.text
        caplog.clear()
        faster = evaluate(tmp_path / "faster", *drawn, max_dets_per_image=max_dets)
    assert "evaluated bbox with faster-coco-eval" in caplog.text
    assert "evaluated keypoints with faster-coco-eval" in caplog.text
    assert "not available" not in caplog.text
    assert_same(faster, official)
    assert 0 < official[1]["bbox"]["AP"] < 100
    assert 0 < official[1]["keypoints"]["AP"] < 100
    assert np.isnan(official[1]["bbox"][f"AP-class {CLASSES - 1}"])


def test_evaluator_is_reusable_and_supports_image_ids(tmp_path):
    pytest.importorskip("faster_coco_eval")
    drawn = draw(0)
    both = [evaluate(tmp_path / str(fast), *drawn, use_fast_impl=fast) for fast in (True, False)]
    some = []
    for evaluator, *_ in both:
        process(evaluator, *drawn)
        some.append((evaluator, evaluator.evaluate(img_ids=[2, 3]), None))
    assert_same(*some)
    assert some[0][1]["bbox"]["AP"] != both[0][1]["bbox"]["AP"]


@pytest.mark.parametrize("max_dets", [100, 3])
def test_box_metrics_equal_those_of_the_report(tmp_path, max_dets):
    """Equal scores in several images, crowds, and classes without objects are included."""
    content, detections = draw(3)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    register_coco_file("shapes", {}, str(tmp_path / "truth.json"), str(tmp_path))

    def metrics(**kwargs):
        options = {"properties": PROPERTIES, "output_dir": str(tmp_path), "kpt_oks_sigmas": [0.02, 0.05, 0.1], **kwargs}
        evaluator = PointCOCOEvaluator("shapes", max_dets_per_image=max_dets, **options)
        process(evaluator, content, detections)
        evaluator.evaluate()
        return json.loads((tmp_path / BOX_METRICS).read_text())

    truth = load_truth("shapes", [image["id"] for image in content["images"]])
    classes = [category["name"] for category in content["categories"]]
    found = flatten_detections(detections)[0]
    expected = coco_metrics(truth, found, len(detections), classes, max_dets)
    assert expected["AP"] > 0
    assert metrics() == expected
    assert metrics(round_results=True) is None


def test_no_detections_give_nan_metrics(tmp_path):
    pytest.importorskip("faster_coco_eval")
    content, detections = draw(0)
    nothing = [found[[]] for found in detections]
    official, faster = (evaluate(tmp_path / str(fast), content, nothing, use_fast_impl=fast) for fast in (False, True))
    assert faster[1].keys() == official[1].keys() == {"bbox"}
    assert all(np.isnan(figure) for figure in [*faster[1]["bbox"].values(), *official[1]["bbox"].values()])
    assert faster[2] == official[2] == b"[]"


def renamed_images(content):
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"image {annotation['image_id']}"


def negative(content):
    for annotation in content["annotations"]:
        annotation["id"] *= -1


def huge(content):
    for image in content["images"]:
        image["id"] += 2**60
    for annotation in content["annotations"]:
        annotation["image_id"] += 2**60


@pytest.mark.parametrize("change", [renamed_images, negative, huge])
def test_unsupported_ids_fall_back_to_pycocotools(tmp_path, caplog, log_counter, change):
    pytest.importorskip("faster_coco_eval")
    content, detections = draw(1)
    change(content)
    with caplog.at_level(logging.WARNING, "centernet_d2"):
        both = [evaluate(tmp_path / str(fast), content, detections, use_fast_impl=fast) for fast in (True, False)]
    assert caplog.messages == ["faster-coco-eval failed, so pycocotools is used: ids must be integers from 0 to 2^53"]
    assert_same(*both)


def pretend_release(**contents):
    """Return a module to import as faster_coco_eval."""
    module = ModuleType("faster_coco_eval")
    module.__spec__ = ModuleSpec(module.__name__, None)
    module.__version__ = "99"
    vars(module).update(contents)
    return module


class OtherArguments:
    def __init__(self, iouType):
        pass


@pytest.mark.parametrize(
    ("contents", "reason"),
    [({}, "cannot import name 'COCOeval_faster'"), ({"COCOeval_faster": OtherArguments}, "unexpected keyword")],
)
def test_failing_release_warns_once(tmp_path, monkeypatch, caplog, log_counter, contents, reason):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", pretend_release(**contents))
    drawn = draw(2)
    with caplog.at_level(logging.WARNING, "centernet_d2"):
        both = [evaluate(tmp_path / str(fast), *drawn, use_fast_impl=fast) for fast in (True, False)]
    assert isinstance(both[0][0].evaluations["bbox"], FasterCOCOeval)
    (message,) = caplog.messages
    assert message.startswith("faster-coco-eval failed, so pycocotools is used: ")
    assert reason in message
    assert_same(*both)


def test_missing_package_falls_back_to_pycocotools(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with caplog.at_level(logging.DEBUG):
        evaluate(tmp_path / "official", *draw(0))
    assert "faster-coco-eval" not in caplog.text


@pytest.mark.parametrize("use_fast_impl", [True, False])
def test_keypoints_of_many_objects_are_not_cut_off(tmp_path, use_fast_impl):
    """All 30 objects of an image are found; COCO's metrics use 20 detections."""
    boxes = [[30.0 * (i % 6), 30.0 * (i // 6), 20.0, 20.0] for i in range(30)]
    joints = [[[x, y, 2], [x + 9, y + 9, 2], [x + 19, y, 2]] for x, y, *_ in boxes]
    content = {"images": [{"id": 1}], "categories": [{"id": 10 + i, "name": f"class {i}"} for i in range(CLASSES)]}
    content["annotations"] = [
        {"id": i + 1, "image_id": 1, "category_id": 10, "bbox": box, "area": 400, "iscrowd": 0}
        | {"keypoints": [value for point in points for value in point], "num_keypoints": JOINTS}
        for i, (box, points) in enumerate(zip(boxes, joints, strict=True))
    ]
    found = Instances((300, 300))
    corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes])
    found.pred_boxes, found.scores = Boxes(corners), torch.linspace(0.9, 0.5, 30)
    found.pred_classes = torch.zeros(30, dtype=torch.int64)
    found.pred_keypoints = torch.tensor(joints) + torch.tensor([0.5, 0.5, 0])
    _, results, _ = evaluate(tmp_path / "many", content, [found], use_fast_impl=use_fast_impl)
    assert results["keypoints"]["AP"] == pytest.approx(100)
