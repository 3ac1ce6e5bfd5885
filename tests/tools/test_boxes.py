import numpy as np
import pytest
import torch

from centernet_d2.data.kitti import load_kitti_3d
from centernet_d2.modeling.heads import Box3DProperty
from centernet_d2.structures.boxes3d import Boxes3D, iou3d
from synthetic.boxes import CAMERAS, Camera, draw_scene, write_boxes_on_ground


def test_annotations_match_the_projected_boxes(tmp_path):
    write_boxes_on_ground(tmp_path, {"some": 4, "more": 3}, seed=3)
    records = load_kitti_3d(tmp_path, "some") + load_kitti_3d(tmp_path, "more")
    Box3DProperty().check(records)
    assert len({record["image_id"] for record in records}) == 7
    assert [(x["width"], x["height"]) for x in records[:3]] == [(c.width, c.height) for c in CAMERAS]
    for record in records:
        boxes = Boxes3D([[*x["location"], *x["dimensions"], x["rotation_y"]] for x in record["annotations"]])
        size = (record["height"], record["width"])
        visible = boxes.projected_boxes(torch.tensor(record["camera"]), size).tensor
        assert torch.allclose(visible, torch.tensor([x["bbox"] for x in record["annotations"]]), atol=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_boxes_are_separate_and_drawn_at_their_positions(seed):
    image, kinds, boxes = draw_scene(np.random.default_rng(seed), Camera(135, 288, 96), 6)
    assert len(kinds) == len(boxes) > 0
    assert (iou3d(boxes, boxes) - torch.eye(len(boxes))).abs().max() < 1e-5
    strongest = {"Pedestrian": 2, "Car": 0, "Cyclist": 1}
    centers = boxes.projected_boxes(Camera(135, 288, 96).matrix()).get_centers().round().long()
    for kind, (x, y) in zip(kinds, centers.tolist(), strict=True):
        if 0 <= x < 288 and 0 <= y < 96:
            assert image[y, x].argmax() == strongest[kind]
