"""Figures: each task's, from its details; nothing that they do not hold, and tables where they hold something else."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from slimbind.evaluate.record import Estimate, Record
from slimbind.evaluate.report import colours, html
from slimbind.evaluate.report.heatmap import heatmap
from slimbind.evaluate.report.plots import Box, boxes, histogram, lines, round_ticks

from . import made


def cells(svg):
    """What a heat map's cells say, and their colours."""
    return {title.text: rect.get("fill") for rect in svg.iter("rect") for title in rect.iter("title")}


def figures(root):
    return list(root.iter("figure"))


def test_every_figure_has_a_caption_and_is_told_to_those_who_do_not_see_it(page, said):
    root = page(made.everything())
    assert len(figures(root)) > 30
    assert all(said(figure.find("figcaption")) for figure in figures(root))
    assert all(svg.get("role") == "img" and len(svg.get("aria-label")) > 10 for svg in root.iter("svg"))
    assert all(len(image.get("alt")) > 10 for image in root.iter("img"))
    assert all(image.get("src").startswith("data:image/png;base64,") for image in root.iter("img"))


def test_differences_are_drawn_around_zero_to_one_scale(page, said):
    def record(name, measures):
        return Record("retrieval", "pairs", name, measures={"R@1": Estimate(0.5), "R@5": Estimate(0.6)} | measures)

    found = {"R@1 difference": Estimate(-0.02, -0.05, 0.01), "R@5 difference": Estimate(0.03, 0.02, 0.04)}
    root = page([record("split", {}), record("int8", found | {"median rank difference": Estimate(2, 1, 3)})])
    drawn = figures(root)
    assert [said(figure.find("figcaption")).split(":")[0] for figure in drawn] == ["R@1", "R@5"], "ranks have none"
    first, second = (figure.find("svg") for figure in drawn)
    assert "int8 -2.0 points (-5.0 to +1.0)" in first.get("aria-label")
    zero = [[line.get("x1") for line in svg.iter("line") if line.get("class") == "axis"] for svg in (first, second)]
    assert zero[0] == zero[1] and len(zero[0]) == 1
    (left,), (right,) = ([float(circle.get("cx")) for circle in svg.iter("circle")] for svg in (first, second))
    assert left < float(zero[0][0]) < right


def test_nothing_but_zero_can_be_drawn(page):
    same = Record("retrieval", "pairs", "int8", measures={"R@1 difference": Estimate(0.0, 0.0, 0.0)})
    assert len(figures(page([same]))) == 1


def test_a_confusion_matrix_shows_shares_of_each_class_and_names_the_worst_pairs(page, said):
    details = {"classes": ["cat", "dog", "cow"], "confusion": [[8, 2, 0], [0, 4, 0], [5, 0, 5]]}
    root = page([Record("zero-shot", "animals", "mini", details=details)])
    shown = cells(root)
    assert shown["cat, cat: 0.8"] == shown.get("cat, cat: 0.8") and shown["cow, cat: 0.5"] == shown["cow, cow: 0.5"]
    assert shown["dog, dog: 1"] == colours.code(colours.RISING[-1])
    assert shown["cat, cow: 0"] == colours.code(colours.RISING[0])
    assert "24 items, 70.8 % right" in said(figures(root)[0])
    rows = [[said(cell) for cell in row] for row in list(root.iter("table"))[0].iter("tr")]
    assert rows[1:] == [["mini", "cow", "cat", "5", "10"], ["mini", "cat", "dog", "2", "10"]]


def test_many_classes_are_a_picture_with_a_pixel_for_each_cell(page):
    from PIL import Image

    count = 150
    details = {"classes": [f"{n}" for n in range(count)], "confusion": np.eye(count, dtype=int).tolist()}
    text = html([Record("zero-shot", "animals", "mini", details=details)])
    assert len(text) < 60_000
    source = next(page([Record("zero-shot", "animals", "mini", details=details)]).iter("img")).get("src")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    assert pixels.shape == (count, count, 3)
    assert (pixels[np.arange(count), np.arange(count)] == colours.RISING[-1]).all()
    assert (pixels[0, 1:] == colours.RISING[0]).all()


def test_a_candidate_stands_beside_its_reference_and_their_difference_in_the_same_colours(page, said):
    shared = {"rows": ["a", "b"], "columns": ["c", "d"]}
    reference = [[0.5, 0.1], [0.2, 0.4]]
    candidate = [[0.5, 0.2], [0.1, 0.4]]
    found = [
        Record("similarity", "s", "f32", details=shared | {"scores": reference, "reference": None}),
        Record("similarity", "s", "int8", details=shared | {"scores": candidate, "reference": reference}),
    ]
    first, second, difference = map(cells, figures(page(found)))
    assert first["a, c: 0.5"] == second["a, c: 0.5"] == colours.code(colours.RISING[-1])
    assert first["b, c: 0.2"] != second["b, c: 0.1"] == colours.code(colours.RISING[0])
    assert difference["a, d: 0.1"] == colours.code(colours.AROUND[-1])
    assert difference["b, c: -0.1"] == colours.code(colours.AROUND[0])
    assert difference["a, c: 0"] == colours.code(colours.AROUND[2])
    rows = [[said(cell) for cell in row] for row in page(found).findall(".//section[2]//tbody/tr")]
    assert rows[2:] == [["a", "int8", "c", "0.5", "c", "0.5"], ["b", "int8", "d", "0.4", "d", "0.4"]]
    alone = page(found[1:])
    assert len(figures(alone)) == 3 and said(figures(alone)[0].find("figcaption")).startswith("reference: ")


@pytest.mark.parametrize("given", ["javascript:alert(1)", "https://example.com/a.png", "data:text/html;base64,AAAA", 7])
def test_only_pictures_inside_of_the_page_become_thumbnails(page, given):
    found = made.similarity("f32", 0.0)
    details = dict(found.details) | {"thumbnails": [given, made.picture(0)]}
    root = page([Record("similarity", "s", "f32", details=details)])
    assert [image.get("href") for image in root.iter("image")] == [made.picture(0)]


def test_layers_are_ordered_by_how_hard_they_are_and_name_their_outliers(page, said):
    root = page([made.activations("split")])
    table = next(table for table in root.iter("table") if "hardest" in said(table.find("caption")))
    ratios = [float(said(row[1]).removesuffix("x")) for row in table.find("tbody")]
    assert ratios == sorted(ratios, reverse=True) and len(ratios) == made.LAYERS
    assert "133 (" in said(table) and "and 2 more" in said(table)
    assert len(figures(root)) == 1 + 2 * 8


def test_speed_is_drawn_over_what_was_varied_with_a_line_for_each_model(page, said):
    root = page([made.speed("f32", 0.0), made.speed("int8", 0.1)])
    captions = [said(figure.find("figcaption")) for figure in figures(root)]
    assert "items per second by threads (vision, batch 1)." in captions
    assert "p99 seconds by batch (text, threads 1)." in captions and len(captions) == 12
    drawing = figures(root)[0].find("svg")
    assert [text.text for text in drawing.iter("text")][-2:] == ["f32", "int8"]
    curves = [line.get("points").split() for line in drawing.iter("polyline")][::2]
    heights = [[float(point.split(",")[1]) for point in curve] for curve in curves]
    assert all(faster < slower for slower, faster in zip(*heights, strict=True))


def test_what_a_score_means_is_drawn_from_its_curve(page, said):
    curve = {"slope": 20.0, "intercept": -4.0}
    root = page([Record("calibrate", "scores", "mini", details={"curve": curve})])
    (drawing,) = (one.find("svg") for one in figures(root))
    points = [tuple(map(float, one.split(","))) for one in drawing.find(".//polyline").get("points").split()]
    heights = [y for _, y in points]
    assert heights == sorted(heights, reverse=True), "the page's heights are counted from the top"
    top, bottom = heights[-1], heights[0]
    assert heights[4] == pytest.approx((top + bottom) / 2, abs=1), "as likely as not at a cosine of 0.2"
    assert "slope 20" in said(root)


@pytest.mark.parametrize(
    ("task", "details"),
    [
        ("zero-shot", {"classes": ["a"], "confusion": [[1, 2]]}),
        ("zero-shot", {"classes": "abc", "confusion": 7}),
        ("zero-shot", {"classes": [], "confusion": []}),
        ("zero-shot", {"classes": ["a", "b"], "confusion": [[1, 2], ["x", None]]}),
        ("similarity", {"rows": ["a"], "columns": [], "scores": [[]]}),
        ("similarity", {"rows": ["a"], "columns": ["b"], "scores": None}),
        ("activations", {"layers": "none"}),
        ("activations", {"layers": [{"channels": [1, 2], "input": {"edges": [1], "counts": [1]}, "outliers": 3}]}),
        ("speed", {"rows": [{"threads": "two"}, {"threads": None}]}),
        ("speed", {"rows": [{"threads": 10**400, "items_per_second": 1}, {"threads": 1, "items_per_second": 2}]}),
        ("memory", {"rows": [1, 2]}),
        ("calibrate", {"curve": {"slope": "steep"}}),
    ],
)
def test_details_of_another_shape_are_told_in_tables(page, said, task, details):
    root = page([Record(task, "odd", "mini", measures={"x": Estimate(1.0)}, details=details)])
    assert not list(root.iter("svg")) and "mini" in said(root)


def test_scores_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="shape"):
        heatmap(["a"], ["b"], [[1.0, 2.0]], label="x", low=0, high=1)


def test_plots_of_nothing_much_are_drawn_all_the_same():
    flat = lines({"one": [(1.0, 0.0), (1.0, 0.0)]}, label="x", x="x", y="y")
    assert all("nan" not in str(value) for element in flat.iter() for value in element.attrib.values())
    assert histogram([0.0, 0.0], [0.0], label="x") is not None
    assert boxes([Box("a", 0.0, 0.0, 0.0, 0.0, 0.0)], label="x", x="y") is not None


def test_ticks_are_round_and_enclose_the_values():
    assert round_ticks(0.0, 9.7) == [0.0, 2.5, 5.0, 7.5, 10.0]
    assert round_ticks(0.0, 0.0) == [0.0, 1.0]
    for high in (0.003, 1.0, 17.0, 999.0, 12345.0):
        ticks = round_ticks(0.0, high)
        assert ticks[0] == 0.0 and ticks[-1] >= high and 4 <= len(ticks) <= 6


def test_text_on_a_cell_has_contrast():
    assert colours.is_light((255, 255, 255)) and not colours.is_light((0, 0, 0))
    assert [colours.is_light(colour) for colour in (colours.RISING[0], colours.RISING[-1])] == [False, True]
