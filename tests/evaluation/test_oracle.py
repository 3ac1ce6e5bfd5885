import math

import pytest
import torch
from detectron2.structures import BoxMode

from centernet_d2 import load_config, model_zoo
from centernet_d2.engine import Trainer
from centernet_d2.evaluation.oracle import OracleCenterNet, OracleMapper, fill_from_nearest
from centernet_d2.modeling import Box3DHead
from centernet_d2.modeling.heads import Box3DProperty
from centernet_d2.structures.boxes3d import pinhole_camera
from centernet_d2.structures.points import SparseTarget
from support.models import stub_heads, stub_model


def target(cells, values, weights=None, images=None):
    values = torch.tensor(values)
    return SparseTarget(
        image=torch.tensor(images or [0] * len(cells), dtype=torch.long),
        cells=torch.tensor(cells, dtype=torch.long).reshape(-1, 2),
        value=values,
        weight=torch.ones_like(values) if weights is None else torch.tensor(weights),
    )


def test_cells_are_filled_from_the_nearest_object():
    result = fill_from_nearest(target([[0, 0], [4, 2]], [[1.0], [2.0]]), torch.zeros(1, 1, 3, 5))
    assert result[0, 0].tolist() == [[1, 1, 1, 1, 2], [1, 1, 1, 2, 2], [1, 1, 2, 2, 2]]


def test_channels_and_images_use_their_own_objects():
    sparse = target([[0, 0], [3, 0]], [[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [1.0, 1.0]], [1, 1])
    result = fill_from_nearest(sparse, torch.full((2, 2, 1, 4), 9.0))
    assert (result[0] == 9).all()
    assert result[1, :, 0].tolist() == [[1, 1, 3, 3], [4, 4, 4, 4]]


def test_wrong_number_of_channels_raises():
    with pytest.raises(ValueError, match="ground truth has 1 channels, but the map has 2"):
        fill_from_nearest(target([[0, 0]], [[1.0]]), torch.zeros(1, 2, 3, 5))


def mapper(**options):
    return OracleMapper(False, augmentations=[], image_format="BGR", num_classes=3, **options)


def inputs(boxes, size=(60, 90)):
    return {
        "file_name": "image.png",
        "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
        "annotations": [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": i % 3, "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
    }


def test_oracle_reproduces_3d_boxes_but_not_ignored_regions():
    heads = stub_heads(ignore_regions="box")
    heads["Box3DHead"] = Box3DHead(in_channels=4, head_conv=0, prop=Box3DProperty(reference_focal=50.0))
    model = stub_model(heads, max_detections=20).eval()
    camera = pinhole_camera(80.0, (60, 90))
    known = {"location": [-3.0, 1.5, 12.0], "dimensions": [1.5, 1.6, 4.0], "rotation_y": 0.5, "depth": 12.0}
    image = inputs([[10.0, 20, 40, 40], [50, 5, 80, 50]])
    alpha = 0.5 - math.atan2(25 - float(camera[0, 2]), 80)
    image["annotations"][0].update(known, alpha=alpha)
    image["annotations"][1].update(ignore=True)
    space = Box3DProperty(augmented_depth="camera", reference_focal=50.0)
    names = ["heatmap", "offset", "size", "depth", "dimensions", "orientation"]
    oracle = OracleCenterNet(model=model, names=names, mapper=mapper(properties=[space]))
    with torch.no_grad():
        found = oracle([{**image, "camera": camera}])[0]["instances"]
    assert (found.scores > 0.9).tolist() == [True] + [False] * (len(found) - 1)
    assert found.pred_boxes3d.tensor[0, 3:].tolist() == pytest.approx([1.5, 1.6, 4.0, 0.5], abs=1e-4)
    assert float(found.pred_boxes3d.location[0, 2]) == pytest.approx(12, abs=1e-4)


@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("resolution", ["keep", "fixed"])
def test_oracle_with_all_maps_reproduces_boxes(resolution, class_specific):
    boxes = [[4.0, 5, 20, 30], [40, 10, 80.5, 50], [22, 31.25, 37, 44]]
    model = stub_model(
        stub_heads(box={"class_specific": class_specific}), test_resolution=resolution, max_detections=20
    ).eval()
    oracle = OracleCenterNet(model=model, names=["heatmap", "offset", "size"], mapper=mapper())
    with torch.no_grad():
        empty, found = (result["instances"] for result in oracle([inputs([]), inputs(boxes)]))
    assert len(empty) == 0
    found = found[found.scores == 1]
    order = found.pred_classes.argsort()
    assert torch.allclose(found.pred_boxes.tensor[order], torch.tensor(boxes), atol=1e-3)


def test_oracle_keeps_other_maps():
    torch.manual_seed(0)
    model = stub_model(max_detections=20).eval()
    oracle = OracleCenterNet(model=model, names=["size"], mapper=mapper())
    batch = [inputs([[10.0, 10, 30, 50]])]
    with torch.no_grad():
        plain, told = model(batch)[0]["instances"], oracle(batch)[0]["instances"]
    assert torch.equal(told.scores, plain.scores)
    model.heads["BoxHead"].clip = False
    with torch.no_grad():
        sizes = oracle(batch)[0]["instances"].pred_boxes.tensor
    assert torch.allclose(sizes[:, 2:] - sizes[:, :2], torch.tensor([20.0, 40]), atol=1e-3)


def test_unknown_maps_raise():
    with pytest.raises(ValueError, match="^names: unknown maps depth; known: heatmap, offset, size"):
        OracleCenterNet(model=stub_model(), names=["depth", "size"], mapper=mapper())
    cfg = load_config(model_zoo.get_config_file("Shapes/centernet_R_18_shapes.yaml"))
    cfg.TEST.CENTERNET_ORACLE = ["depth"]
    with pytest.raises(ValueError, match="TEST.CENTERNET_ORACLE: unknown maps depth"):
        Trainer.test(cfg, stub_model())
