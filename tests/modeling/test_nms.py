import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou

from centernet_d2.modeling.nms import suppress
from support.models import stub_heads, stub_model


def detections():
    result = Instances((100, 100))
    result.pred_boxes = Boxes(torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [1, 1, 11, 11], [50, 50, 60, 60]]))
    result.scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    result.pred_classes = torch.tensor([0, 0, 1, 0])
    return result


@pytest.mark.parametrize(("mode", "left"), [("", [0, 1, 2, 3]), ("class", [0, 2, 3]), ("agnostic", [0, 3])])
def test_weaker_boxes_that_overlap_go(mode, left):
    assert torch.equal(suppress(detections(), mode, 0.5).scores, detections().scores[left])


def test_the_model_suppresses_when_asked():
    images = [{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}]
    torch.manual_seed(0)
    model = stub_model(max_detections=30).eval()
    torch.nn.init.constant_(model.heads["BoxHead"].stacks[0]["size"][-1].bias, 5.0)  # boxes of 20 pixels
    with torch.no_grad():
        everything = model(images)[0]["instances"]
        model.nms, model.nms_threshold = "agnostic", 0.0
        left = model(images)[0]["instances"]
    assert 0 < len(left) < len(everything)
    overlap = pairwise_iou(left.pred_boxes, left.pred_boxes).fill_diagonal_(0)
    assert overlap.max() == 0


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="^nms is 'soft', known: , class, agnostic"):
        stub_model(nms="soft")
    with pytest.raises(ValueError, match="^nms is 'class', which needs boxes: add BoxHead to the heads"):
        stub_model({"CenterHead": stub_heads()["CenterHead"]}, nms="class")
