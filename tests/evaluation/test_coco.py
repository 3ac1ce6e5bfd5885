import copy
import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from centernet_d2.data.catalog import register_datasets
from centernet_d2.evaluation.coco import PointCOCOEvaluator, fill_annotations, round_result
from centernet_d2.modeling.heads import BoxProperty, CenterProperty, KeypointProperty, Property
from centernet_d2.modeling.heads.keypoint import KeypointSchema

PLAIN = [CenterProperty(), BoxProperty()]


def test_results_are_rounded_to_two_decimals_and_joints_get_a_one():
    result = {"bbox": [1.005, 2.344, 3.0, 4.9999], "score": 0.98765, "keypoints": [1.234, 5.678, 0.4], "image_id": 7}
    before = {**result, "bbox": list(result["bbox"])}
    assert round_result(result) == {
        "bbox": [1.0, 2.34, 3.0, 5.0],
        "score": 0.99,
        "keypoints": [1.23, 5.68, 1.0],
        "image_id": 7,
    }
    assert result == before


def test_what_is_missing_is_filled_and_the_rest_stays():
    complete = {"id": 5, "area": 7.5, "iscrowd": 1, "bbox": [1, 1, 4, 5], "keypoints": [1, 1, 2], "num_keypoints": 1}
    content = {"annotations": [copy.deepcopy(complete)]}
    fill_annotations(content, 1)
    assert content == {"annotations": [complete]}
    content = {
        "annotations": [{"bbox": [1, 1, 4, 5]}, {"bbox": [1, 1, -4, -5], "keypoints": None, "area": None, "id": 1}]
    }
    fill_annotations(content, 1)
    filled = {"iscrowd": 0, "keypoints": [0, 0, 0], "num_keypoints": 0}
    assert content["annotations"] == [
        {"bbox": [1, 1, 4, 5], "id": 1, "area": 20, **filled},
        {"bbox": [1, 1, -4, -5], "id": 2, "area": 0, **filled},
    ]


def detections(name):
    """Exactly what the data set holds."""
    for record in DatasetCatalog.get(name):
        boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in record["annotations"]]
        found = Instances((record["height"], record["width"]))
        found.pred_boxes = Boxes(boxes)
        found.scores = found.pred_boxes.area() * 0 + 0.5
        found.pred_classes = found.scores.new_tensor([x["category_id"] for x in record["annotations"]]).long()
        yield record, found


@pytest.mark.parametrize("ids", [(0, 1), (1, 2), (5, 5), (0.5, 1.5), ("a", "b"), None])
def test_bare_files_with_a_byte_order_mark_are_evaluated(tmp_path, ids):
    """Ids of annotations include 0, which pycocotools takes for no match, repeated ids, fractions and texts."""
    content = {
        "images": [{"id": i, "file_name": "x.png", "height": 40, "width": 60} for i in range(2)],
        "annotations": [
            {
                "image_id": i,
                "category_id": 9,
                "bbox": [5, 5, 20, 20],
                **({} if ids is None else {"id": ids[i]}),
            }
            for i in range(2)
        ],
        "categories": [{"id": 9, "name": "kite"}],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    before = path.read_bytes()
    register_datasets([["bare", str(path), str(tmp_path)]])
    evaluator = PointCOCOEvaluator("bare", properties=PLAIN, output_dir=str(tmp_path / "out"))
    evaluator.reset()
    for record, found in detections("bare"):
        evaluator.process([record], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    assert path.read_bytes() == before
    assert {x["category_id"] for x in json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())} == {9}


def test_dicts_without_a_file_are_evaluated(tmp_path):
    box = {"bbox": [5, 5, 25, 25], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    record = {"file_name": "x.png", "image_id": 1, "height": 40, "width": 60, "annotations": [box]}
    DatasetCatalog.register("dicts", lambda: [record])
    MetadataCatalog.get("dicts").set(thing_classes=["kite"], evaluator_type="coco")
    evaluator = PointCOCOEvaluator("dicts", properties=PLAIN, num_keypoints=2, output_dir=str(tmp_path / "out"))
    evaluator.reset()
    for record, found in detections("dicts"):
        evaluator.process([record], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


class Tilt(Property):
    name = "tilt"
    fields = ("pred_tilt",)


@pytest.mark.parametrize("round_results", [False, True])
def test_the_result_file_has_what_properties_write(tmp_path, round_results):
    box = {"bbox": [5, 5, 25, 25], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    more = {"keypoints": [6, 6, 2, 20, 20, 2], "num_keypoints": 2}
    record = {"file_name": "x.png", "image_id": 1, "height": 40, "width": 60, "annotations": [{**box, **more}]}
    DatasetCatalog.register("dicts", lambda: [record])
    MetadataCatalog.get("dicts").set(thing_classes=["kite"], thing_dataset_id_to_contiguous_id={7: 0})
    properties = [*PLAIN, KeypointProperty(schema=KeypointSchema((0, 1))), Tilt()]
    evaluator = PointCOCOEvaluator(
        "dicts",
        properties=properties,
        num_keypoints=2,
        round_results=round_results,
        output_dir=str(tmp_path),
        kpt_oks_sigmas=[0.1] * 2,
    )
    evaluator.reset()
    for one, found in detections("dicts"):
        found.pred_keypoints = torch.tensor([[[6.5, 6.75, 0.25], [20.5, 20.5, 0.75]]])
        found.pred_tilt = torch.tensor([[0.125, 2.0]])
        evaluator.process([one], [{"instances": found}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["keypoints"]["AP"] == pytest.approx(100)
    scores = (1, 1) if round_results else (0.25, 0.75)
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == [
        {
            "image_id": 1,
            "category_id": 7,
            "bbox": [5, 5, 20, 20],
            "score": 0.5,
            "keypoints": [6.0, 6.25, scores[0], 20.0, 20.0, scores[1]],
            "tilt": [0.125, 2.0],
        }
    ]
