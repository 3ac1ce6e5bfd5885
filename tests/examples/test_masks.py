"""The example of instance masks: targets, losses, results, and a minimal training."""

import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_masks

from centernet_d2.imaging.transforms import MirrorTransform
from centernet_d2.imaging.visualization import draw_instances
from centernet_d2.structures.points import DenseTarget, Peaks
from centernet_d2.utils.cli import import_user_modules
from support.models import stub_heads, stub_model
from support.tasks import COMMON

from .conftest import EXAMPLES

SQUARE = {"bbox": [10, 10, 20, 20], "category_id": 0, "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]}


@pytest.fixture
def masks():
    (module,) = import_user_modules([str(EXAMPLES / "masks" / "masks.py")])
    return module


def ring(size=40):
    """Return an annotation with run lengths of a 20 x 20 square with a 10 x 10 hole."""
    mask = np.zeros((size, size), np.uint8, order="F")
    mask[10:30, 10:30] = 1
    mask[15:25, 15:25] = 0
    code = coco_masks.encode(mask)
    runs = {"size": code["size"], "counts": code["counts"].decode()}
    return {"bbox": [10, 10, 20, 20], "category_id": 0, "segmentation": runs}


def objects(masks, *annotations, transforms=(), size=(40, 40)):
    """Return ground truth in the original image, with the fields of the property."""
    full = [{"bbox_mode": 1, **one} for one in annotations]
    record = {"file_name": "x.png", "height": 40, "width": 40, "annotations": full}
    fields = masks.MaskProperty().annotate(record, transforms, size)
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in annotations)]
    classes = torch.zeros(len(boxes), dtype=torch.long)
    return Instances(size, gt_boxes=Boxes(torch.tensor(boxes).float().reshape(-1, 4)), gt_classes=classes, **fields)


def as_detections(masks, truth):
    """Return detections that are equal to the ground truth."""
    return Instances(
        truth.image_size,
        pred_boxes=truth.gt_boxes,
        pred_classes=truth.gt_classes,
        scores=torch.ones(len(truth)),
        pred_mask_grids=truth.gt_mask_grids,
        pred_mask_windows=masks.windows(truth.gt_boxes.tensor),
    )


def test_training_has_metrics_of_masks(masks, train, tmp_path):
    for seed, name in enumerate(("train", "val")):
        masks.write_cutouts(tmp_path / "cutouts", name, images=3, size=64, seed=seed)
    assert train("masks", TEST__AUG__ENABLED=True) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    keys = {key for line in lines for key in line}
    assert {"loss_mask", "segm/AP", "bbox/AP", "mask_error/found"} <= keys
    (results,) = (tmp_path / "out" / "inference" / "cutouts_val").glob("coco_instances_results.json")
    entry = json.loads(results.read_text())[0]
    assert entry["segmentation"]["size"] == [64, 64]
    assert coco_masks.decode(entry["segmentation"]).shape == (64, 64)


def test_missing_masks_of_annotations_skip_the_metric(masks, train, tmp_path):
    for seed, name in enumerate(("train", "val")):
        masks.write_cutouts(tmp_path / "cutouts", name, images=3, size=64, seed=seed)
    path = tmp_path / "cutouts" / "val.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["segmentation"]
    path.write_text(json.dumps(content))
    # Boxes of an untrained network may have no area.
    assert train("masks", SOLVER__MAX_ITER=1, MODEL__CENTERNET__QUIRKS__CLIP_BOXES=False) == 0
    assert "masks are not evaluated" in (tmp_path / "out" / "log.txt").read_text()
    assert "segm/AP" not in (tmp_path / "out" / "metrics.json").read_text()


def test_polygons_and_holes_become_grids(masks):
    truth = objects(masks, SQUARE, ring(), {"bbox": [0, 0, 5, 5], "category_id": 0})
    assert truth.gt_mask_known.tolist() == [1, 1, 0]
    square, hole, unknown = truth.gt_mask_grids
    # The window is 1.2 times the box, so the square covers 1 / 1.44 of its window.
    assert square.mean() == pytest.approx(1 / 1.44, abs=0.01)
    assert hole.mean() == pytest.approx(0.75 / 1.44, abs=0.01)
    assert square[14, 14] == 1
    assert hole[14, 14] == 0
    assert (unknown == 0).all()


def test_masks_move_with_the_image(masks):
    half = {**SQUARE, "segmentation": [[10, 10, 20, 10, 20, 30, 10, 30]]}
    plain, mirrored = objects(masks, half), objects(masks, half, transforms=[MirrorTransform(40)])
    assert plain.gt_mask_grids[0, 14, 8] == 1
    assert plain.gt_mask_grids[0, 14, 20] == 0
    assert mirrored.gt_mask_grids[0, 14, 8] == 0
    assert mirrored.gt_mask_grids[0, 14, 20] == 1


def test_run_lengths_of_detections_are_those_of_the_annotations(masks):
    found = as_detections(masks, objects(masks, SQUARE, ring()))
    (square, hole) = (one["segmentation"] for one in masks.MaskProperty().to_json(found))
    truth = ring()["segmentation"]
    assert coco_masks.area(square) == pytest.approx(400, abs=40)
    assert coco_masks.iou([hole], [truth], [0])[0, 0] > 0.9
    json.dumps(square)


def test_errors_are_overlaps(masks):
    truth = objects(masks, SQUARE, ring())
    prop, found = masks.MaskProperty(), as_detections(masks, truth)
    assert prop.errors(found, truth)["iou"] == 100
    # A square with a hole of a quarter of its area.
    assert prop.errors(found[:1], truth[1:])["iou"] == pytest.approx(75, abs=3)
    (plot,) = prop.plots(found, truth)
    assert sum(next(iter(plot.series.values()))[1]) == 2
    assert prop.plots(None, truth) == []


def test_draw_fills_masks(masks):
    image = np.full((40, 40, 3), 90, np.uint8)
    truth = objects(masks, ring())
    plain, drawn = (draw_instances(image, truth, properties=own, labels=False) for own in ([], [masks.MaskProperty()]))
    assert (plain[12:14, 16:24] != drawn[12:14, 16:24]).any()
    assert (plain[18:22, 18:22] == drawn[18:22, 18:22]).all()


def model(masks):
    torch.manual_seed(0)
    heads = stub_heads()
    heads["MaskHead"] = masks.MaskHead(prop=masks.MaskProperty(resolution=8), prototypes=3, **COMMON)
    return stub_model(heads)


def test_loss_ignores_unknown_masks_and_images_without_objects(masks):
    head = model(masks).heads["MaskHead"]
    maps = {name: torch.randn(1, count, 10, 10, requires_grad=True) for name, count in head.maps.items()}
    prop = head.prop

    def loss(*annotations):
        record = {"height": 40, "width": 40, "annotations": [{"bbox_mode": 1, **one} for one in annotations]}
        gt = Instances((40, 40), gt_boxes=objects(masks, *annotations).gt_boxes)
        gt.gt_classes = torch.zeros(len(gt), dtype=torch.long)
        for name, value in prop.annotate(record, (), (40, 40)).items():
            gt.set(name, value)
        points = model(masks).build_points([gt], (10, 10))
        return head.losses(maps, head.targets([gt], points))["loss_mask"]

    unknown = {key: value for key, value in SQUARE.items() if key != "segmentation"}
    assert loss() == 0
    assert loss(unknown) == 0
    assert loss(SQUARE) > 0
    assert loss(SQUARE, unknown).item() == pytest.approx(loss(SQUARE).item())
    loss().backward()
    assert all(tensor.grad is not None for tensor in maps.values())


def test_decoded_masks_minimize_the_loss(masks):
    """The grids of training and inference have the same positions."""
    head = model(masks).heads["MaskHead"]
    maps = {name: torch.randn(1, count, 10, 10) for name, count in head.maps.items()}
    boxes = torch.tensor([[[2.5, 2.5, 7.5, 7.5]]])
    peaks = Peaks(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.long), torch.tensor([[[5, 5]]]))
    decoded = head.decode(maps, peaks, {"boxes": boxes})
    truth = objects(masks, {**SQUARE, "bbox": [10, 10, 20, 20]})
    truth.gt_mask_grids = decoded["masks"][0]
    targets = head.targets([truth], model(masks).build_points([truth], (10, 10)))
    assert not isinstance(targets["masks"], DenseTarget)
    smallest = head.losses(maps, targets)["loss_mask"]
    truth.gt_mask_grids = (decoded["masks"][0] + 0.2 * torch.randn(8, 8)).clamp(0, 1)
    entropy = torch.nn.functional.binary_cross_entropy(decoded["masks"][0], decoded["masks"][0])
    assert smallest.item() == pytest.approx(2 * entropy.item(), rel=1e-4)


def test_masks_do_not_depend_on_the_batch(masks):
    network = model(masks).eval()
    images = [torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8) for _ in range(2)]
    together = network([{"image": image} for image in images])
    alone = network([{"image": images[1]}])
    first, second = together[1]["instances"], alone[0]["instances"]
    assert first.pred_mask_grids.shape[1:] == (8, 8)
    assert torch.allclose(first.pred_mask_grids, second.pred_mask_grids, atol=1e-5)


@pytest.mark.parametrize("segmentation", [[[1, 2, 3]], "mask", {"counts": "x"}, [[1, 2, 3, 4, 5, 6, 7]]])
def test_invalid_segmentations(masks, segmentation):
    dicts = [{"file_name": "a.png", "annotations": [{"segmentation": segmentation}]}]
    with pytest.raises(ValueError, match=r"a\.png, annotation 0 of this image: segmentation is invalid"):
        masks.MaskProperty().check(dicts)
    masks.MaskProperty().check([{"file_name": "a.png", "annotations": [SQUARE, ring(), {}]}])
