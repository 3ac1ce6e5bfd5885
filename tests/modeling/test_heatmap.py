import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances

from centernet_d2.modeling.heads.center import render_centers
from centernet_d2.modeling.heatmap import (
    best_peaks,
    gaussian_profiles,
    gaussian_radius,
    paint_gaussians,
    paint_max,
    peak_filter,
    top_peaks,
)
from centernet_d2.modeling.points import build_points


def radius(height, width, policy="original"):
    return gaussian_radius(torch.tensor([float(height)]), torch.tensor([float(width)]), policy).item()


def test_radius_is_proportional_to_side_of_square():
    # (sqrt(1.96 * 4 + 3.36) - 2.8) / 2 = 0.27332 (original.md: Radius)
    assert radius(10, 10) == pytest.approx(2.7332, abs=1e-4)
    assert radius(100, 100) == pytest.approx(27.332, abs=1e-3)


def test_corrected_radius_keeps_min_overlap():
    # Both corners move inwards or outwards by r, or in the same direction: the minimum IoU is min_overlap.
    side = 100.0
    r = radius(side, side, "corrected")
    inside = (side - 2 * r) ** 2 / side**2
    outside = side**2 / (side + 2 * r) ** 2
    shared = (side - r) ** 2
    shifted = shared / (2 * side**2 - shared)
    assert min(inside, outside, shifted) == pytest.approx(0.7, abs=1e-6)
    assert r < radius(side, side)


def test_unknown_radius_policy_raises():
    with pytest.raises(ValueError, match="policy is 'other', but must be one of original, corrected"):
        radius(1, 1, "other")


def naive_heatmap(size, cells, radii):
    """Render Gaussians pixel by pixel (original.md: Gaussian)."""
    heatmap = np.zeros(size)
    for (cx, cy), r in zip(cells.tolist(), radii.tolist(), strict=True):
        sigma = (2 * r + 1) / 6
        for y in range(max(0, cy - r), min(size[0], cy + r + 1)):
            for x in range(max(0, cx - r), min(size[1], cx + r + 1)):
                value = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
                heatmap[y, x] = max(heatmap[y, x], value)
    return heatmap


def test_paint_max_matches_naive_implementation():
    generator = torch.Generator().manual_seed(0)
    cells = torch.stack(
        [torch.randint(0, 30, (40,), generator=generator), torch.randint(0, 20, (40,), generator=generator)], 1
    )
    radii = torch.randint(0, 9, (40,), generator=generator)
    rows, columns = gaussian_profiles(cells, radii, (20, 30))
    painted = paint_max(torch.zeros(1, 20, 30), torch.zeros(40, dtype=torch.long), rows, columns)[0]
    np.testing.assert_allclose(painted, naive_heatmap((20, 30), cells, radii), atol=1e-6)
    assert (painted[cells[:, 1], cells[:, 0]] == 1).all()


def test_chunked_painting_is_identical(monkeypatch):
    cells = torch.tensor([[3, 4], [5, 4], [9, 1]])
    rows, columns = gaussian_profiles(cells, torch.tensor([2, 3, 1]), (8, 12))
    planes = torch.tensor([0, 0, 1])
    at_once = paint_max(torch.zeros(2, 8, 12), planes, rows, columns)
    monkeypatch.setattr("centernet_d2.modeling.heatmap._PAINT_ELEMENTS", 8 * 12)
    assert torch.equal(paint_max(torch.zeros(2, 8, 12), planes, rows, columns), at_once)


@pytest.mark.parametrize("min_saved", [0, 1 << 30])
def test_windowed_painting_matches_full_planes(monkeypatch, min_saved):
    # Bitwise equal: objects on every border, windows larger than the map, all sizes, masked objects, any grouping.
    monkeypatch.setattr("centernet_d2.modeling.heatmap._MIN_SAVED_ELEMENTS", min_saved)
    monkeypatch.setattr("centernet_d2.modeling.heatmap._PAINT_ELEMENTS", 1000)
    generator = torch.Generator().manual_seed(0)
    cells = torch.stack([torch.randint(length, (300,), generator=generator) for length in (30, 20)], 1)
    cells[:4] = torch.tensor([[0, 0], [29, 0], [0, 19], [29, 19]])
    radius = (torch.rand(300, generator=generator) ** 4 * 40).long()
    planes = torch.randint(6, (300,), generator=generator)
    mask = torch.rand(300, generator=generator) < 0.8
    windowed, full = (
        paint_gaussians(torch.zeros(6, 20, 30), planes, cells, radius, mask, radius_cpu)
        for radius_cpu in (radius, None)
    )
    assert radius.min() == 0
    assert radius.max() > 30
    assert torch.equal(windowed, full)
    assert (windowed[planes[mask], cells[mask, 1], cells[mask, 0]] == 1).all()


def test_painting_without_objects():
    none = torch.zeros(0, dtype=torch.long)
    empty = paint_gaussians(torch.zeros(1, 4, 4), none, none.view(0, 2), none, none.bool(), none)
    assert not empty.any()


def test_heatmap_memory_of_large_batch_is_limited():
    # 16 images with 1000 objects of 80 classes take less than 200 MB in total, including the heatmap.
    gt = []
    for _ in range(16):
        corner = torch.rand(1000, 2) * 400
        instances = Instances((512, 512))
        instances.gt_boxes = Boxes(torch.cat([corner, corner + 10 + 100 * torch.rand(1000, 2)], dim=1))
        instances.gt_classes = torch.randint(0, 80, (1000,))
        gt.append(instances)
    points = build_points(gt, (128, 128), stride=4)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        render_centers(points, 80)
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 16 * 80 * 128 * 128 * 4 < peak < 200e6


def test_peak_filter_keeps_maxima_and_plateaus():
    heatmap = torch.tensor([[0.1, 0.2, 0.1, 0.0], [0.2, 0.9, 0.3, 0.0], [0.0, 0.1, 0.0, 0.4], [0.0, 0.0, 0.4, 0.4]])
    kept = peak_filter(heatmap[None, None])[0, 0]
    assert kept.nonzero().tolist() == [[1, 1], [2, 3], [3, 2], [3, 3]]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_peaks_by_parts_on_the_cpu_equal_those_of_max_pooling(memory_format, monkeypatch):
    # Few distinct values, so that there are many ties and plateaus; negative values check the padding.
    heatmap = (torch.rand(2, 7, 12, 9, generator=torch.Generator().manual_seed(0)) * 8).round() / 8 - 0.25
    pooled = heatmap * (F.max_pool2d(heatmap, 3, stride=1, padding=1) == heatmap)
    expected = pooled.flatten(2).topk(20, dim=2)
    monkeypatch.setattr("centernet_d2.modeling.heatmap._PEAK_ELEMENTS", 3 * 2 * 12 * 9)
    scores, index = best_peaks(heatmap.contiguous(memory_format=memory_format), 20)
    assert torch.equal(peak_filter(heatmap), pooled)
    assert torch.equal(scores, expected.values)
    assert torch.equal(index, expected.indices)


def test_top_peaks_are_sorted_over_all_classes():
    heatmap = torch.zeros(1, 2, 8, 8)
    heatmap[0, 1, 2, 5], heatmap[0, 0, 6, 1], heatmap[0, 0, 2, 5] = 0.9, 0.8, 0.7
    scores, classes, cells = top_peaks(heatmap, 3)
    assert scores[0].tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert classes[0].tolist() == [1, 0, 0]
    assert cells[0].tolist() == [[5, 2], [1, 6], [5, 2]]


def test_top_peaks_are_limited_to_number_of_cells():
    scores, classes, cells = top_peaks(torch.rand(2, 3, 2, 2), 100)
    assert scores.shape == classes.shape == (2, 12)
    assert cells.shape == (2, 12, 2)
