import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from centernet_d2.readers.kitti import read_objects
from centernet_d2.structures.boxes3d import (
    Boxes3D,
    alpha_to_rotation_y,
    bev_iou,
    check_camera,
    iou3d,
    location_from_center,
    orientation_to_alpha,
    paired_iou,
    project,
    rotation_y_to_alpha,
    unproject,
)
from centernet_d2.structures.calibration import read_camera

CAMERA = torch.tensor([[700.0, 0.0, 600.0, 45.0], [0.0, 700.0, 180.0, -0.3], [0.0, 0.0, 1.0, 0.005]])
# 500 px focal length, principal point (100, 50), no offset: easy to compute by hand.
PLAIN = torch.tensor([[500.0, 0.0, 100.0, 0.0], [0.0, 500.0, 50.0, 0.0], [0.0, 0.0, 1.0, 0.0]])


def box(x=0.0, y=0.0, z=10.0, h=1.0, w=2.0, length=4.0, rotation=0.0):
    return [x, y, z, h, w, length, rotation]


def random_boxes(count, seed, spread=4.0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(count, 7, generator=generator)
    low = torch.tensor([-spread, 1.0, 20 - spread, 1.0, 1.0, 1.0, -math.pi])
    high = torch.tensor([spread, 2.0, 20 + spread, 3.0, 4.0, 6.0, math.pi])
    return Boxes3D(low + rows * (high - low))


def test_it_behaves_like_a_field_of_instances():
    boxes = random_boxes(4, 0)
    instances = Instances((10, 10), pred_boxes3d=boxes, scores=torch.tensor([0.1, 0.9, 0.3, 0.8]))
    chosen = instances[instances.scores > 0.5]
    assert torch.equal(chosen.pred_boxes3d.tensor, boxes.tensor[[1, 3]])
    assert torch.equal(instances[2].pred_boxes3d.tensor, boxes.tensor[2:3])
    assert torch.equal(instances[torch.tensor([3, 0])].pred_boxes3d.tensor, boxes.tensor[[3, 0]])
    assert torch.equal(Instances.cat([instances, chosen]).pred_boxes3d.tensor, boxes.tensor[[0, 1, 2, 3, 1, 3]])
    assert instances.to("meta").pred_boxes3d.device.type == "meta"


def test_indexing_length_iteration_and_text():
    boxes = random_boxes(3, 1)
    assert [len(boxes), len(boxes[0]), len(boxes[-1]), len(boxes[1:]), len(boxes[:0])] == [3, 1, 1, 2, 0]
    assert torch.equal(torch.stack(list(boxes)), boxes.tensor)
    assert repr(boxes).startswith("Boxes3D(tensor(")
    copy = boxes.clone()
    copy.tensor += 1
    assert not torch.equal(copy.tensor, boxes.tensor)
    assert torch.equal(torch.cat([boxes.location, boxes.dimensions, boxes.rotation_y[:, None]], 1), boxes.tensor)


def test_no_boxes():
    for empty in (Boxes3D([]), Boxes3D.cat([]), Boxes3D(torch.empty(0, 7))):
        assert empty.tensor.shape == (0, 7)
        assert empty.corners().shape == (0, 8, 3)
        assert empty.projected_boxes(CAMERA).tensor.shape == (0, 4)
        assert bev_iou(empty, random_boxes(3, 0)).shape == (0, 3)
        assert iou3d(random_boxes(3, 0), empty).shape == (3, 0)


@pytest.mark.parametrize("shape", [(7,), (2, 6), (1, 1, 7)])
def test_another_shape_is_an_error(shape):
    with pytest.raises(ValueError, match=r"shape \(N, 7\)"):
        Boxes3D(torch.zeros(shape))


def test_corners_without_rotation():
    # Length along x, width along z, height against y, which points down.
    (corners,) = Boxes3D([box(x=10, y=2, z=30, h=1.5, w=2, length=4)]).corners().tolist()
    bottom = [[12, 2, 31], [12, 2, 29], [8, 2, 29], [8, 2, 31]]
    assert corners == bottom + [[x, 0.5, z] for x, _, z in bottom]


def test_a_quarter_turn_points_the_length_towards_the_camera():
    boxes = Boxes3D([box(z=30, w=2, length=4, rotation=math.pi / 2)])
    np.testing.assert_allclose(boxes.bev_polygons()[0], [[1, 28], [-1, 28], [-1, 32], [1, 32]], atol=1e-5)
    np.testing.assert_allclose(boxes.heading()[0], [[0, 0, 30], [0, 0, 26]], atol=1e-5)


def test_projection_by_hand():
    # u = 500 * 1 / 10 + 100, v = 500 * -2 / 10 + 50
    assert project(torch.tensor([[1.0, -2.0, 10.0]]), PLAIN).tolist() == [[150.0, -50.0]]


def test_projected_box_by_hand():
    # The near face (z = 9) is the larger one: x from -2 to 2, y from -1 to 0.
    boxes = Boxes3D([box(z=10, h=1, w=2, length=4)])
    (projected,) = boxes.projected_boxes(PLAIN).tensor.tolist()
    assert projected == pytest.approx([100 - 1000 / 9, 50 - 500 / 9, 100 + 1000 / 9, 50], abs=1e-4)
    (clipped,) = boxes.projected_boxes(PLAIN, image_size=(40, 150)).tensor.tolist()
    assert clipped == pytest.approx([0, 0, 149, 39])


def test_what_is_behind_the_camera_is_cut_off():
    # Beside the camera, x from 1 to 3 and z from -2 to 2: u falls from 500 * 3 / 0.1 + 100 at the near plane to
    # 500 * 1 / 2 + 100 at the far left edge. Without the cut, corners at z = -2 would give u = 100 - 250.
    boxes = Boxes3D([box(x=2, y=1, z=0, h=2, w=4, length=2)])
    (projected,) = boxes.projected_boxes(PLAIN, near=0.1).tensor.tolist()
    assert projected == pytest.approx([350, 50 - 5000, 15100, 50 + 5000], rel=1e-5)
    (clipped,) = boxes.projected_boxes(PLAIN, image_size=(375, 1242)).tensor.tolist()
    assert clipped == [350, 0, 1241, 374]
    (around,) = Boxes3D([box(y=1, z=0, h=2)]).projected_boxes(PLAIN, image_size=(375, 1242)).tensor.tolist()
    assert around == [0, 0, 1241, 374]


def test_a_box_behind_the_camera_leaves_nothing():
    boxes = Boxes3D([box(z=-10), box(z=10)]).projected_boxes(PLAIN)
    assert boxes.tensor[0].tolist() == [0, 0, 0, 0]
    assert boxes.nonempty().tolist() == [False, True]


def test_unproject_undoes_project():
    points = torch.tensor([[1.0, -2.0, 10.0], [-20.0, 1.5, 60.0]])
    # Depth is the third homogeneous coordinate, z + 0.005.
    back = unproject(project(points, CAMERA), points[:, 2] + CAMERA[2, 3], CAMERA)
    np.testing.assert_allclose(back, points, atol=1e-4)


def test_location_is_half_the_height_below_the_center():
    # The pixel (150, 50) at 10 m lies at x = 1, y = 0.
    location = location_from_center(
        torch.tensor([[150.0, 50.0]]), torch.tensor([10.0]), torch.tensor([[1.6, 2.0, 4.0]]), PLAIN
    )
    assert location.tolist() == [[1.0, pytest.approx(0.8), 10.0]]


def test_angles_by_hand_and_back():
    # A column one focal length to the right of the principal point is seen at 45 degrees.
    u = torch.tensor([600.0, 600.0, 100.0, -400.0])
    alpha = torch.tensor([0.0, 3.0, 1.0, -3.0])
    expected = [math.pi / 4, 3 + math.pi / 4 - 2 * math.pi, 1.0, -3 - math.pi / 4 + 2 * math.pi]
    rotation_y = alpha_to_rotation_y(alpha, u, PLAIN)
    assert rotation_y.tolist() == pytest.approx(expected, abs=1e-6)
    assert rotation_y_to_alpha(rotation_y, u, PLAIN).tolist() == pytest.approx(alpha.tolist(), abs=1e-6)


def test_alpha_comes_from_the_more_certain_bin():
    # sin, cos of 0.3 in the first bin, of -0.4 in the second; the second value of each pair says "inside".
    def channels(first, second):
        return [0.0, first, math.sin(0.3), math.cos(0.3), 0.0, second, math.sin(-0.4), math.cos(-0.4)]

    alpha = orientation_to_alpha(torch.tensor([channels(1, 0), channels(0, 1)]))
    assert alpha.tolist() == pytest.approx([0.3 - math.pi / 2, -0.4 + math.pi / 2], abs=1e-6)


@pytest.mark.parametrize(
    ("other", "bev", "volume"),
    [
        (box(), 1.0, 1.0),
        (box(x=2), 1 / 3, 1 / 3),  # Half of the length shared: 4 / (8 + 8 - 4).
        (box(y=-0.5), 1.0, 1 / 3),  # Half of the height shared.
        (box(y=-1), 1.0, 0.0),  # One stands on the other.
        (box(w=1, length=2), 1 / 4, 1 / 4),  # Contained: 2 of 8 square metres.
        (box(h=2), 1.0, 1 / 2),
        (box(x=5), 0.0, 0.0),
        (box(x=4), 0.0, 0.0),  # Touching.
        (box(rotation=math.pi), 1.0, 1.0),
        (box(rotation=math.pi / 2), 4 / 12, 4 / 12),  # A cross of 2 x 2.
        (box(x=100, z=-50), 0.0, 0.0),
    ],
)
def test_overlaps_by_hand(other, bev, volume):
    boxes, others = Boxes3D([box()]), Boxes3D([other])
    assert bev_iou(boxes, others).item() == pytest.approx(bev, abs=1e-6)
    assert iou3d(boxes, others).item() == pytest.approx(volume, abs=1e-6)


def test_overlap_of_a_square_turned_by_45_degrees():
    # The shared octagon of two unit squares has the area 2 (sqrt(2) - 1).
    octagon = 2 * (math.sqrt(2) - 1)
    square, turned = Boxes3D([box(w=1, length=1)]), Boxes3D([box(w=1, length=1, rotation=math.pi / 4)])
    assert bev_iou(square, turned).item() == pytest.approx(octagon / (2 - octagon), abs=1e-6)


@pytest.mark.parametrize(
    "bad", [box(w=0), box(length=-4), box(x=math.nan), box(length=math.inf), box(rotation=math.nan)]
)
def test_senseless_boxes_overlap_nothing(bad):
    boxes = Boxes3D([bad, box()])
    assert bev_iou(boxes, boxes).tolist() == [[0, 0], [0, 1]]
    assert iou3d(boxes, boxes).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("flat", [box(h=0), box(h=-1), box(h=math.nan), box(y=math.inf)])
def test_heights_do_not_count_from_above(flat):
    boxes = Boxes3D([flat, box()])
    assert bev_iou(boxes, boxes).tolist() == [[1, 1], [1, 1]]
    assert iou3d(boxes, boxes).tolist() == [[0, 0], [0, 1]]


def footprint(row):
    """The four (x, z) corners of a box, as floats."""
    x, z, width, length, angle = row[[0, 2, 4, 5, 6]]
    cos, sin = math.cos(angle), math.sin(angle)
    sides = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    halves = [(a * length / 2, b * width / 2) for a, b in sides]
    return [(x + cos * along + sin * across, z + cos * across - sin * along) for along, across in halves]


def area_of(polygon):
    return sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True)) / 2


def cut_by_edges(polygon, other):
    """What of a polygon is inside a convex one that goes around in the same sense (Sutherland and Hodgman)."""
    for start, end in zip(other, other[1:] + other[:1], strict=True):
        side = [(end[0] - start[0]) * (p[1] - start[1]) - (end[1] - start[1]) * (p[0] - start[0]) for p in polygon]
        kept = []
        for index, (point, own) in enumerate(zip(polygon, side, strict=True)):
            before, last = polygon[index - 1], side[index - 1]
            if (own < 0) != (last < 0):
                share = last / (last - own)
                kept.append(tuple(b + share * (p - b) for b, p in zip(before, point, strict=True)))
            if own >= 0:
                kept.append(point)
        polygon = kept
    return polygon


def exact_iou(first, second):
    """From above, in exact fractions of the corners."""
    # The corners go around clockwise in (x, z); the other way is the positive one.
    one, two = ([tuple(map(Fraction, point)) for point in footprint(row)][::-1] for row in (first, second))
    one, two = ((p if area_of(p) > 0 else p[::-1]) for p in (one, two))
    shared = area_of(cut_by_edges(one, two))
    return float(shared / (area_of(one) + area_of(two) - shared))


def neighbours(rng, count):
    """Pairs of boxes that overlap, touch along a side or at a corner, nearly touch, coincide, or nearly coincide."""
    pairs = []
    for _ in range(count):
        first = np.array(
            [*rng.uniform([-20, 1, 5], [20, 2, 70]), *rng.uniform(0.4, 5, 3), rng.uniform(-math.pi, math.pi)]
        )
        second = first.copy()
        second[3:6] = rng.uniform(0.4, 5, 3) if rng.random() < 0.5 else first[3:6]
        second[6] += rng.choice([0, math.pi / 2, math.pi, *(10.0 ** rng.uniform(-17, -2, 3)), rng.uniform(-3, 3)])
        # Along and across the first box, in units of what makes boxes of one direction touch.
        along, across = rng.choice([0, 1, -1, rng.uniform(-1, 1)], 2) * (1 + rng.choice([0, 1e-15, 1e-9, -1e-9, 1e-4]))
        along, across = along * (first[5] + second[5]) / 2, across * (first[4] + second[4]) / 2
        cos, sin = math.cos(first[6]), math.sin(first[6])
        second[[0, 2]] += cos * along + sin * across, cos * across - sin * along
        pairs.append((first, second))
    return pairs


def test_overlaps_are_exact_whatever_touches():
    pairs = neighbours(np.random.default_rng(0), 3000)
    first, second = (np.array(rows) for rows in zip(*pairs, strict=True))
    index = np.arange(len(pairs))
    ours, back = paired_iou(first, second, index, index)[0], paired_iou(second, first, index, index)[0]
    exact = np.array([exact_iou(*pair) for pair in pairs])
    np.testing.assert_allclose(ours, exact, atol=1e-11)
    np.testing.assert_allclose(ours, back, atol=1e-11)
    # Everything is among them: nothing in common, a little, and all.
    assert min((exact < 1e-7).sum(), ((exact > 0.01) & (exact < 0.9)).sum(), (exact > 1 - 1e-7).sum()) > 50


def test_boxes_that_only_touch_share_nothing():
    first = np.array([[-0.2, 1.42, 57.74, 1.48, 0.92, 1.15, -1.9]])
    second = first.copy()
    second[0, [0, 2]] = -0.5717830018930288, 58.828245100840526
    index = np.zeros(1, dtype=int)
    assert max(paired_iou(first, second, index, index)) < 1e-12
    assert paired_iou(first, first, index, index) == (1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m[:, :3], r"the camera is not a \(3, 4\) matrix, its shape is \(3, 3\)"),
        (lambda m: m * 0, "the camera has the focal lengths 0.0 and 0.0, which must be positive"),
        (lambda m: m * [[-1], [1], [1]], "the focal lengths -700.0 and 700.0"),
        (lambda m: m * [[1], [1], [0]], r"a third row that begins with \[0.0, 0.0, 0.0\] instead of 0, 0, 1"),
        (lambda m: m * 2, r"a third row that begins with \[0.0, 0.0, 2.0\]"),
        (lambda m: m * math.nan, "numbers that are not finite"),
        (lambda m: np.where(m == 45, math.inf, m), "numbers that are not finite"),
        (lambda m: m + np.eye(3, 4, 1), "the camera has a skew"),
        (lambda m: "front", r"the camera is not a \(3, 4\) matrix of numbers: 'front'"),
        (lambda m: [[1, 2], [3]], r"the camera is not a \(3, 4\) matrix of numbers"),
        (lambda m: None, r"the camera is not a \(3, 4\) matrix of numbers: None"),
    ],
)
def test_what_is_no_camera_is_named(change, message):
    for kind in (CAMERA, CAMERA.numpy(), CAMERA.tolist()):
        checked = check_camera(kind)
        assert checked.dtype == torch.float64
        assert torch.equal(checked, CAMERA.double())
    with pytest.raises(ValueError, match=message):
        check_camera(change(CAMERA.numpy().astype(float)))


def test_overlaps_in_chunks_are_the_same(monkeypatch):
    first, second = random_boxes(6, 4), random_boxes(7, 5)
    at_once = iou3d(first, second)
    monkeypatch.setattr("centernet_d2.structures.boxes3d._CHUNK", 4)
    assert torch.equal(iou3d(first, second), at_once)


def test_overlaps_are_symmetric_and_agree_with_sampling():
    first, second = random_boxes(12, 2), random_boxes(9, 3)
    bev, volume = bev_iou(first, second), iou3d(first, second)
    assert torch.allclose(bev, bev_iou(second, first).T, atol=1e-6)
    assert (volume <= bev + 1e-6).all()
    assert (bev > 0.2).sum() > 5
    grid = torch.stack(torch.meshgrid(torch.arange(-9, 9, 0.04), torch.arange(11, 29, 0.04), indexing="ij"), -1)
    for i, j in ((bev == bev.max()).nonzero()[0].tolist(), (bev > 0.1).nonzero()[-1].tolist()):
        inside = [_inside(boxes, grid.view(-1, 2)) for boxes in (first.tensor[i], second.tensor[j])]
        sampled = (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()
        assert bev[i, j].item() == pytest.approx(sampled.item(), abs=0.01)


def _inside(row, points):
    """(N,) whether (x, z) points are inside a box, in its own frame."""
    x, z = (points - row[[0, 2]]).unbind(1)
    along, across = x * row[6].cos() - z * row[6].sin(), x * row[6].sin() + z * row[6].cos()
    return (along.abs() < row[5] / 2) & (across.abs() < row[4] / 2)


def test_projected_labels_of_kitti_are_its_image_labels(shared):
    """What the projection leaves outside the image is the truncation of the label; inside, it is its 2-D box."""
    folder = shared / "data" / "kitti_sample" / "training"
    overlaps = []
    for path in sorted(folder.glob("label_2/*.txt")):
        camera = torch.tensor(read_camera(folder / "calib" / path.name))
        size = _image_size(folder / "image_2" / f"{path.stem}.jpg")
        for thing in (x for x in read_objects(path) if x.kind != "DontCare"):
            boxes = Boxes3D([[*thing.location, *thing.dimensions, thing.rotation_y]])
            whole, visible = boxes.projected_boxes(camera), boxes.projected_boxes(camera, size)
            outside = 1 - (visible.area() / whole.area()).item()
            # The labels of long trams are the least accurate.
            assert outside == pytest.approx(thing.truncation, abs=0.15 if thing.kind == "Tram" else 0.05), path
            overlap = _image_iou(visible.tensor[0], torch.tensor(thing.box))
            overlaps.append(overlap)
            # Image boxes of people follow their limbs; of a nearly invisible object a few pixels are left.
            if thing.kind != "Tram" and not thing.kind.startswith("Ped") and outside < 0.8:
                assert overlap > 0.84, path
    assert len(overlaps) == 349
    assert np.median(overlaps) > 0.97
    assert min(overlaps) > 0.45


def _image_size(path):
    import cv2

    return cv2.imread(str(path)).shape[:2]


def _image_iou(first, second):
    shared = (torch.minimum(first[2:], second[2:]) - torch.maximum(first[:2], second[:2])).clamp(min=0).prod()
    areas = [(one[2:] - one[:2]).prod() for one in (first, second)]
    return (shared / (sum(areas) - shared)).item()
