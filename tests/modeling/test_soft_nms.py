import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from centernet_d2.modeling.nms import best_with_ties, merge_scales, soft_nms

# Two boxes of 10 x 10 pixels with 5 common columns (IoU 50 / 150), and one that is far away.
BOXES = torch.tensor([[0.0, 0, 9, 9], [5.0, 0, 14, 9], [50.0, 50, 59, 59]])
SCORES = torch.tensor([0.6, 0.9, 0.3])


def detections(boxes, scores, classes=None):
    result = Instances((100, 100))
    result.pred_boxes, result.scores = Boxes(torch.as_tensor(boxes).float()), torch.as_tensor(scores)
    result.pred_classes = torch.zeros(len(scores), dtype=torch.long) if classes is None else torch.tensor(classes)
    return result


@pytest.mark.parametrize(
    ("method", "options", "factor"),
    [
        ("gaussian", {}, math.exp(-(1 / 9) / 0.5)),
        ("gaussian", {"sigma": 0.1}, math.exp(-(1 / 9) / 0.1)),
        ("linear", {}, 1.0),
        ("linear", {"iou_threshold": 0.3}, 2 / 3),
        ("hard", {}, 1.0),
    ],
)
def test_score_of_weaker_overlapping_box_decays(method, options, factor):
    kept = soft_nms(BOXES, SCORES, method=method, **options)
    second = [0.6 * factor, 0.3]
    order = [0, 2] if second[0] > second[1] else [2, 0]
    assert kept.index.tolist() == [1, *order]
    assert kept.scores.tolist() == pytest.approx([0.9, *sorted(second, reverse=True)])


def test_hard_method_drops_or_keeps_stale_rows():
    boxes = torch.cat([BOXES, BOXES[:1]])
    scores = torch.tensor([0.6, 0.9, 0.3, 0.2])
    assert soft_nms(boxes, scores, method="hard", iou_threshold=0.3).index.tolist() == [1, 2]
    stale = soft_nms(boxes, scores, method="hard", iou_threshold=0.3, keep_stale=True)
    assert (len(stale.index), stale.num_valid) == (4, 2)


def test_first_of_equal_scores_wins_and_inputs_are_not_modified():
    boxes, scores = BOXES[[0, 0, 0]] + torch.tensor([[0.0], [100], [200]]), torch.full((3,), 0.5)
    assert soft_nms(boxes, scores).index.tolist() == [0, 1, 2]
    assert scores.tolist() == [0.5] * 3


@pytest.mark.parametrize("count", [0, 1])
def test_few_boxes_are_unchanged(count):
    kept = soft_nms(BOXES[:count], SCORES[:count])
    assert torch.equal(kept.scores, SCORES[:count])


def test_unknown_method_raises():
    with pytest.raises(ValueError, match="^method is 'fuzzy', known: gaussian, linear, hard"):
        soft_nms(BOXES, SCORES, method="fuzzy")


def test_ties_may_exceed_limit():
    scores = torch.tensor([0.1, 0.5, 0.3, 0.3, 0.9])
    assert best_with_ties(scores, 3).tolist() == [False, True, True, True, True]
    assert best_with_ties(scores, None).all()
    assert best_with_ties(scores, 9).all()


def test_single_scale_is_limited_and_several_are_merged_by_class():
    single = detections(BOXES, SCORES)
    assert merge_scales([single], limit=2).scores.tolist() == pytest.approx([0.6, 0.9])
    other = detections(BOXES[:1], [0.8], [1])
    merged = merge_scales([single, other, detections(BOXES[1:2], [0.7])], limit=None)
    assert merged.pred_classes.tolist() == [0, 0, 0, 0, 1]
    assert merged.scores[-1] == pytest.approx(0.8)
    assert merged.scores[0] == pytest.approx(0.9)
    assert len(merge_scales([detections(BOXES[:0], SCORES[:0])] * 2, limit=5)) == 0
