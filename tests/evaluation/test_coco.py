from centernet_d2.evaluation.coco import round_result


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
