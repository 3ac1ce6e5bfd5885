import logging
import math

import cv2
import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeTransform
from detectron2.structures import BoxMode

from centernet_d2.data import CenterNetDatasetMapper
from centernet_d2.data.augmentations import KittiWindow, RandomWindow, ShiftScaleWindow
from centernet_d2.data.checks import check_dataset
from centernet_d2.data.kitti import ALL_CLASSES, EXCLUDED
from centernet_d2.imaging.geometry import affine_matrix
from centernet_d2.imaging.transforms import AffineTransform, MirrorTransform
from centernet_d2.modeling import Box3DHead
from centernet_d2.modeling.heads import Box3DProperty, CenterProperty
from centernet_d2.modeling.heads.box3d import transform_camera
from centernet_d2.modeling.points import build_points
from centernet_d2.structures.boxes3d import Boxes3D, alpha_to_rotation_y, project, rotation_y_to_alpha

CAMERA = np.array([[70.0, 0, 60, 4.5], [0, 72, 18, -0.3], [0, 0, 1, 0.005]])


def car(x=-2.0, z=12.0, rotation_y=0.7, **other):
    box = Boxes3D([[x, 1.6, z, 1.5, 1.6, 4.0, rotation_y]])
    u = project(torch.tensor([[x, 0.85, z]]), torch.from_numpy(CAMERA))[:, 0]
    return {
        "bbox": box.projected_boxes(torch.from_numpy(CAMERA)).tensor[0].tolist(),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 1,
        "ignore": False,
        "location": [x, 1.6, z],
        "dimensions": [1.5, 1.6, 4.0],
        "rotation_y": rotation_y,
        "alpha": rotation_y_to_alpha(torch.tensor([rotation_y]), u, torch.from_numpy(CAMERA)).item(),
        "depth": z,
        **other,
    }


def mapped(tmp_path, annotations, augmentations, augmented="mask", camera=CAMERA):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((37, 124, 3), dtype=np.uint8))
    mapper = CenterNetDatasetMapper(
        True,
        augmentations=augmentations,
        image_format="BGR",
        num_classes=3,
        properties=[CenterProperty(), Box3DProperty(augmented_depth=augmented, reference_focal=50.0)],
    )
    record = {"file_name": str(tmp_path / "x.png"), "height": 37, "width": 124, "annotations": annotations}
    return mapper({**record, **({} if camera is None else {"camera": camera.tolist()})})


SEQUENCES = {
    "nothing": [],
    "mirror": [MirrorTransform(124)],
    "window": [KittiWindow((64, 256), 0.1, 0.4, 1.0)],
    "both": [MirrorTransform(124), RandomWindow((96, 128), [0.9])],
    "resize": [ResizeTransform(37, 124, 74, 248), MirrorTransform(248)],
    "twice": [MirrorTransform(124), MirrorTransform(124), ShiftScaleWindow((64, 128), 0.05, 0.1)],
}


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("seed", range(3))
def test_3d_boxes_stay_consistent_with_2d_boxes(tmp_path, name, seed):
    """Projected 3-D boxes match 2-D boxes, and alpha matches rotation_y, after every augmentation."""
    np.random.seed(seed)
    cars = [car(x, z, angle) for x, z, angle in ((-2, 12, 0.7), (1.5, 9, -2.5), (0.5, 25, 3.1))]
    sample = mapped(tmp_path, cars, SEQUENCES[name])
    gt, camera = sample["instances"], sample["camera"]
    assert camera.shape == (3, 4)
    assert camera[0, 0] > 0
    size = tuple(sample["image"].shape[1:])
    projected = gt.gt_boxes3d.projected_boxes(camera).tensor
    # Detectron2 clips to 0..size, and pixel centers of its resizing are at half-integers.
    limit = torch.tensor([size[1], size[0]] * 2)
    assert torch.allclose(
        projected.clamp(min=0).minimum(limit), gt.gt_boxes.tensor, atol=0.51 if name == "resize" else 2e-2
    )
    middle = gt.gt_boxes3d.location - torch.tensor([0, 0.75, 0])
    back = alpha_to_rotation_y(gt.gt_alpha, project(middle, camera)[:, 0], camera)
    assert torch.allclose(back.cos(), gt.gt_boxes3d.rotation_y.cos(), atol=1e-4)
    assert gt.gt_focal.tolist() == pytest.approx([float(camera[0, 0])] * len(gt))
    assert gt.gt_space.tolist() == [1] * len(gt)
    assert gt.gt_alpha.abs().max() <= math.pi + 1e-6


def test_flipped_camera_projects_flipped_points():
    point = np.array([1.0, 2.0, 10.0, 1.0])
    u, v, w = CAMERA @ point
    mirrored = transform_camera(CAMERA, [MirrorTransform(124)])
    u2, v2, w2 = mirrored @ (point * [-1, 1, 1, 1])
    assert (u2 / w2, v2 / w2) == pytest.approx((123 - u / w, v / w))
    assert np.allclose(transform_camera(CAMERA, [MirrorTransform(124)] * 2), CAMERA)


def test_scaled_images_supervise_depth_only_with_camera_policy(tmp_path):
    window = [KittiWindow((64, 256), 0.01, 0.1, 1.0)]
    assert mapped(tmp_path, [car()], window)["instances"].gt_metric.tolist() == [0]
    assert mapped(tmp_path, [car()], window, "camera")["instances"].gt_metric.tolist() == [1]
    unscaled = mapped(tmp_path, [car()], [KittiWindow((64, 256), 0.1, 0.4, 0.0)])
    assert unscaled["instances"].gt_metric.tolist() == [1]
    # The input has the full width of the image.
    assert unscaled["camera"][0, 0] == pytest.approx(70 * 256 / 124)


def test_kitti_window_probability():
    np.random.seed(0)
    image = np.zeros((37, 124, 3), dtype=np.uint8)
    sampled = [KittiWindow((64, 256), 0.1, 0.4, 0.25).get_transform(image) for _ in range(400)]
    assert np.mean([transform.jittered for transform in sampled]) == pytest.approx(0.25, abs=0.07)
    widths = [256 / transform.matrix[0, 0] / 124 for transform in sampled if transform.jittered]
    assert 0.6 - 1e-6 <= min(widths) < max(widths) <= 1.4 + 1e-6


def test_excluded_objects_are_dropped_and_ignored_regions_kept_in_order(tmp_path):
    annotations = [
        car(ignore=True, category_id=ALL_CLASSES, dimensions=[-1, -1, -1], depth=-1000.0),
        car(ignore=True, category_id=EXCLUDED),
        car(x=0.0),
        car(ignore=True, category_id=0),
    ]
    gt = mapped(tmp_path, annotations, [])["instances"]
    assert gt.gt_classes.tolist() == [-1, 1, 0]
    assert gt.gt_ignore.tolist() == [True, False, True]
    assert gt.gt_depth.tolist() == [0, 12, 0]
    assert gt.gt_space.tolist() == gt.gt_metric.tolist() == [0, 1, 0]
    assert len(gt[gt.gt_ignore].gt_boxes3d) == 2
    with pytest.raises(ValueError, match="has objects with a class outside 0..2"):
        mapped(tmp_path, [car(category_id=-1)], [])
    record = {"file_name": str(tmp_path / "x.png"), "height": 37, "width": 124, "annotations": annotations}
    check_dataset("some", [record], 3)
    with pytest.raises(ValueError, match=r"class -1 is outside 0\.\.2"):
        check_dataset("some", [{**record, "annotations": [car(category_id=-1)]}], 3)


@pytest.mark.parametrize(
    ("camera", "annotation", "message"),
    [
        (np.eye(3), {}, r"x.png: the camera must be a \(3, 4\) matrix"),
        (-CAMERA, {}, "x.png: the camera has focal lengths -70.0 and -72.0, but they must be positive"),
        (CAMERA * 0, {}, "x.png: the camera has focal lengths 0.0 and 0.0"),
        (CAMERA * math.nan, {}, "x.png: the camera contains NaN or Inf"),
        (CAMERA * [[1], [1], [0]], {}, "x.png: the camera has a third row that starts with"),
        (CAMERA + np.eye(3, 4, 1), {}, "x.png: the camera has skew"),
        (CAMERA, {"dimensions": [1.5, -1.6, 4.0]}, r"'dimensions' are \[1.5, -1.6, 4.0\], but must be positive"),
        (CAMERA, {"dimensions": [1.0, 2.0]}, r"'dimensions' is \[1.0, 2.0\], but must be 3 finite numbers"),
        (CAMERA, {"alpha": math.nan}, "'alpha' is nan, but must be 1 finite numbers"),
    ],
)
def test_invalid_annotation_error_names_image(camera, annotation, message):
    record = {"file_name": "x.png", "annotations": [car(**annotation)], "camera": camera}
    with pytest.raises(ValueError, match=message):
        Box3DProperty().check([record])
    Box3DProperty().check([{"file_name": "x.png", "camera": CAMERA, "annotations": [car(depth=-1.0, ignore=True)]}])


def test_objects_not_in_front_of_camera_are_counted_in_log(caplog):
    records = [
        {"file_name": "x.png", "camera": CAMERA, "annotations": [car(depth=z) for z in depths]}
        for depths in ([-0.18, 3.0], [0.0, 1e-3], [-4.0])
    ]
    with caplog.at_level(logging.INFO):
        Box3DProperty().check(records[:2] + records)
    (line,) = caplog.messages
    assert line == "5 objects in 5 images are not in front of the camera: their depth is not supervised"
    caplog.clear()
    with caplog.at_level(logging.INFO):
        Box3DProperty().check(
            [{"file_name": "x.png", "camera": CAMERA, "annotations": [car(), car(ignore=True, depth=-1000.0)]}]
        )
    assert not caplog.messages


def test_ignored_regions_need_no_3d_labels():
    region = {"bbox": [0, 0, 5, 5], "category_id": 0, "ignore": True}
    Box3DProperty().check([{"file_name": "x.png", "camera": np.eye(3, 4), "annotations": [region]}])
    fields = Box3DProperty().annotate({"annotations": [region], "camera": np.eye(3, 4)}, [], (8, 8))
    assert fields["gt_boxes3d"].tensor.tolist() == [[0.0] * 7]
    assert fields["gt_space"].tolist() == [0]


def test_3d_boxes_are_unsupervised_without_camera_or_labels(tmp_path):
    without = mapped(tmp_path, [car()], [], camera=None)
    assert "camera" not in without
    assert without["instances"].gt_space.tolist() == without["instances"].gt_metric.tolist() == [0]
    plain = {key: value for key, value in car().items() if key in ("bbox", "bbox_mode", "category_id")}
    gt = mapped(tmp_path, [plain, car()], [])["instances"]
    assert gt.gt_space.tolist() == gt.gt_metric.tolist() == [0, 1]
    Box3DProperty().check([{"file_name": "x.png", "annotations": [car(), plain]}])


@pytest.mark.parametrize("degrees", [None, 20.0])
def test_rotated_images_do_not_supervise_3d_boxes(tmp_path, degrees):
    unrotated = affine_matrix((62, 18), 124, (64, 256))
    rotated = unrotated if degrees is None else affine_matrix((62, 18), 124, (64, 256), degrees)
    transform = AffineTransform(rotated, (37, 124), (64, 256), None if degrees is None else unrotated)
    gt = [mapped(tmp_path, [car()], [transform])["instances"]]
    head = Box3DHead(in_channels=4, head_conv=0)
    targets = head.targets(gt, build_points(gt, (16, 64), 4))
    supervised = {name: bool(target.weight.any()) for name, target in targets.items()}
    assert supervised == dict.fromkeys(head.maps, degrees is None)
