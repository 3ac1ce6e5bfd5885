import numpy as np
import pytest

from centernet_d2.report import page as pages
from centernet_d2.report.figures import arrange, draw_grid, draw_plot, picture
from centernet_d2.report.page import Card, Section, Table, number, plain, render
from centernet_d2.structures.plots import Plot, histogram
from support.pages import check_page

HOSTILE = "<script>alert(1)</script> $\\alpha$ \"'><img src=x onerror=y>\x1b[31m\n"


def test_every_text_is_escaped():
    table = Table(HOSTILE, [HOSTILE, HOSTILE], [[HOSTILE, 1.0]], HOSTILE, shaded=True)
    bars = Plot(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: ([HOSTILE, "b"], [1, 2]), "c": (["a", "b"], [1, None])}, "bars")
    section = Section(
        HOSTILE,
        "one",
        HOSTILE,
        [Card(HOSTILE, HOSTILE, HOSTILE)],
        [table],
        [bars],
        [(HOSTILE, [picture(np.zeros((4, 4, 3), np.uint8), HOSTILE)])],
        [HOSTILE],
    )
    text = render(HOSTILE, HOSTILE, [section, Section("two", "two")])
    page = check_page(text)
    assert page.tags.count("img") == 1
    assert "\x1b" not in text
    assert any("<script>alert(1)" in one for one in page.texts)


def test_plots_of_all_kinds_have_unique_ids_and_the_color_of_the_page():
    plots = [
        Plot("a", "x", "y", {"s": ([0, 1], [1, 2])}),
        Plot("b", "x", "y", {"s": ([0, 1], [1, None]), "t": ([0], [1])}, note="note"),
        Plot("c", "x", "y", {"s": ([0.0, 1.0], [1, 2])}, "points"),
        histogram("d", "x", np.array([1.0, 2.0, np.nan])),
        histogram("e", "x", np.zeros(0)),
        Plot("f", "x", "y"),
    ]
    text = render("t", "s", [Section("one", "one", plots=plots)])
    page = check_page(text)
    assert page.tags.count("svg") == len(plots)
    assert "currentColor" in text
    assert "#010203" not in text
    assert draw_plot(plots[0], "p") == draw_plot(plots[0], "p")


def test_histogram_counts_values_outside_in_the_last_bins():
    (x, y) = histogram("a", "x", np.array([-5.0, 0.5, 1.5, 9.0]), bins=2, limits=(0.0, 2.0)).series["count"]
    assert (x, y) == ([0.5, 1.5], [2, 2])


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (float("nan"), "-"), (1234567, "1,234,567"), (12.345, "12.3"), (True, "True"), ("a\x07", "a\\x07")],
)
def test_numbers(value, text):
    assert number(value) == text


def test_plain_values():
    value = {
        "a": np.array([1.0, np.inf]),
        2: (np.int64(3), np.float32(0.5)),
        "p": Plot("t", "x", "y", {"s": ([1], [2])}),
    }
    result = plain(value)
    assert result["a"] == [1.0, None]
    assert result["2"] == [3, 0.5]
    assert result["p"]["series"] == {"s": [[1], [2]]}


def test_images_are_limited(monkeypatch):
    one = picture(np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8), "caption")
    monkeypatch.setattr(pages, "MOST_BYTES", 5 * len(one.uri))
    sections = [Section(name, name, pictures=[("p", [one] * 4), ("q", [one])]) for name in "ab"]
    page = check_page(render("t", "s", sections))
    assert page.tags.count("img") == 4
    assert "3 images are not shown, to limit the size of this file." in "".join(page.texts)


def test_long_tables_are_cut():
    table = Table("t", ["a", "b"], [[f"class {i}", i] for i in range(1000)])
    page = check_page(render("t", "s", [Section("one", "one", tables=[table])]))
    assert page.tags.count("tr") == 41
    assert "960 more rows are in report.json." in "".join(page.texts)


def test_panels_are_in_a_column_if_they_are_wide():
    square, wide = np.zeros((320, 320, 3), np.uint8), np.zeros((320, 1000, 3), np.uint8)
    assert arrange([square, square], ["a", "b"]).shape[1] > 640
    assert arrange([wide, square], ["a", "b"]).shape[0] > 640


def test_grid_is_a_heatmap():
    check_page(render("t", "s", [Section("one", "one", pictures=[("p", [draw_grid([[0, 1], [2, 3]], "c")])])]))
    check_page(render("t", "s", [Section("one", "one", pictures=[("p", [draw_grid([[0, 0], [0, 0]], "c")])])]))
