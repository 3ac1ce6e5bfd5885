import cv2
import numpy as np
import pytest

from centernet_d2.imaging.sheet import MAX_BYTES, build_sheet, shorten, write_jpeg


def figure(height, width, value=0):
    return np.full((height, width, 3), value, dtype=np.uint8)


@pytest.mark.parametrize("sizes", [[(30, 50)], [(30, 50), (80, 20), (10, 10), (40, 40), (5, 500)]])
def test_sheet_contains_all_figures(sizes):
    tiles = [("name", figure(*size)) for size in sizes]
    rows = [tiles[:3], tiles[3:]] if len(tiles) > 3 else [tiles]
    sheet = build_sheet(rows, 400, columns=3, heading="title")
    assert sheet.shape[1] == 400
    assert sheet.dtype == np.uint8
    dark = (sheet.max(axis=2) == 0).sum()
    scale = (400 - 4 * 8) // 3 / 500
    expected = sum(h * w for h, w in sizes[:3]) + sum(int(h * scale) * int(w * scale) for h, w in sizes[3:])
    assert expected <= dark < expected + 800, "figures, and some pixels of text"


def test_sheet_without_figures_has_a_heading():
    sheet = build_sheet([], 200, columns=4, heading="nothing")
    assert sheet.shape[1] == 200
    assert sheet.min() < 100


def test_legend_continues_in_the_next_line():
    legend = {f"class {index}": (1.0, 0.0, 0.0) for index in range(20)}
    one, many = (build_sheet([], 600, columns=1, legend=dict(list(legend.items())[:n])) for n in (2, 20))
    assert many.shape[0] >= one.shape[0] + 2 * 24
    red = [int(((sheet == (255, 0, 0)).all(axis=2)).sum()) for sheet in (one, many)]
    assert red[1] == 10 * red[0] > 0


def test_titles_are_shortened():
    short = shorten("image_" + "0" * 300 + "_end.jpg", 120)
    assert short == "image_…nd.jpg"
    assert shorten("a.jpg", 120) == "a.jpg"


@pytest.mark.parametrize("name", ["", "a\x1b[2J\n\u202egpj.exe", "图像.jpg", "\udcff.jpg", "x" * 100_000])
def test_hostile_names_are_drawn(name):
    sheet = build_sheet([[(name, figure(10, 10))]], 300, columns=2, heading=name[:50], legend={name: (0.0, 0.0, 1.0)})
    assert sheet.shape[1] == 300


def test_jpeg_has_limited_size(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (700, 1600, 3), dtype=np.uint8)
    write_jpeg(tmp_path / "a.jpg", noise)
    assert (tmp_path / "a.jpg").stat().st_size <= MAX_BYTES
    write_jpeg(tmp_path / "b.jpg", np.full((20, 30, 3), (250, 10, 10), dtype=np.uint8))
    blue, _, red = cv2.imread(str(tmp_path / "b.jpg"))[5, 5]
    assert red > 200 > 60 > blue
    with pytest.raises(OSError, match="missing"):
        write_jpeg(tmp_path / "missing" / "a.jpg", noise)
