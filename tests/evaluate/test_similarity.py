"""Tables of similarity: what is in them, how two are compared, and what they look like as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

import slimbind
from slimbind.errors import UsageError
from slimbind.evaluate.record import Record
from slimbind.evaluate.report import html
from slimbind.evaluate.report.picture import write_png
from slimbind.evaluate.similarity import Side, measure, of_path, shipped, similarity

COLOURS = Side("text", ["red", "green", "blue"], ["red", "green", "blue"])


@pytest.fixture
def toy(toy_artifact):
    with slimbind.load(toy_artifact) as model:
        yield model


@pytest.fixture
def other(make_toy, tmp_path):
    with slimbind.load(make_toy(tmp_path / "other", scheme="int8-dynamic")) as model:
        yield model


def test_rows_are_compared_with_columns(toy, toy_folder):
    found = similarity(toy, of_path(toy_folder, toy.modalities, modality="vision"), COLOURS)
    assert found.details["columns"] == ["red", "green", "blue"]
    assert found.details["rows"] == ["green.jpg", "red.png", "deep/er/blue.png"]
    scores = np.array(found.details["scores"])
    assert scores.argmax(1).tolist() == [1, 0, 2] and scores.max() <= 1 + 1e-6
    assert found.details["reference"] is None and found.measures == {}
    pictures = found.details["thumbnails"]
    assert all(one.startswith("data:image/jpeg;base64,") for one in pictures) and len(set(pictures)) == 3


def test_sounds_and_pictures_can_be_compared_too(toy, toy_folder):
    sounds = of_path(toy_folder / "sounds", toy.modalities)
    assert sounds.modality == "audio" and sounds.names == ["rumble.wav", "whistle.flac"]
    found = similarity(toy, sounds, Side("text", ["low", "high"], ["low", "high"]))
    assert np.array(found.details["scores"]).argmax(1).tolist() == [0, 1]
    assert [one[:15] for one in found.details["thumbnails"]] == ["data:image/jpeg"] * 2


def test_the_same_model_as_its_own_reference_differs_in_nothing(toy, other, toy_folder):
    rows = of_path(toy_folder, toy.modalities, modality="vision")
    found = similarity(toy, rows, COLOURS, reference=toy, reference_name="toy f32", name="int8")
    assert found.details["scores"] == found.details["reference"]
    assert found.measures["mean absolute difference"].value == found.measures["greatest difference"].value == 0
    assert found.measures["same best column"].value == 1 and found.settings["reference"] == "toy f32"
    assert "toy f32" in html([found])
    apart = similarity(other, rows, COLOURS, reference=toy)
    assert 0 < apart.measures["greatest difference"].value < 0.01


def test_a_shift_is_told_from_another_pattern():
    reference = np.array([[0.5, 0.1], [0.2, 0.6], [0.0, 0.3]])
    shifted = measure(reference + 0.05, reference)
    assert shifted["mean absolute difference"].value == pytest.approx(0.05)
    assert shifted["mean shift"].value == pytest.approx(0.05)
    assert shifted["pattern difference"].value == pytest.approx(0, abs=1e-12)
    assert shifted["same best column"].value == 1
    turned = measure(reference[:, ::-1], reference)
    assert turned["same best column"].value == 0 and turned["mean shift"].value == pytest.approx(0)
    assert turned["greatest difference"].value == pytest.approx(0.4)
    assert turned["pattern difference"].low <= turned["pattern difference"].value <= turned["pattern difference"].high


def test_tables_of_different_shapes_are_refused():
    with pytest.raises(UsageError, match="shapes"):
        measure(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(UsageError, match="shapes"):
        measure(np.zeros((0, 2)), np.zeros((0, 2)))


def test_bad_items_are_left_out_and_named(toy, toy_folder):
    (toy_folder / "a.png").write_bytes(b"no picture")
    found = similarity(toy, of_path(toy_folder, toy.modalities, modality="vision"), COLOURS)
    assert "a.png" not in found.details["rows"] and len(found.details["thumbnails"]) == 3
    assert [name for name, _ in found.failed] == ["a.png"]
    with pytest.raises(UsageError, match="none of 1"):
        similarity(toy, Side("vision", [toy_folder / "a.png"], ["a.png"]), COLOURS)


def test_what_to_compare_must_be_clear(toy, toy_folder, tmp_path):
    with pytest.raises(UsageError, match="holds vision, audio"):
        of_path(toy_folder.rename(tmp_path / "both"), ["vision", "audio"])
    with pytest.raises(UsageError, match="no such file"):
        of_path(tmp_path / "nothing", toy.modalities)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="holds nothing of"):
        of_path(empty, toy.modalities)
    (tmp_path / "few.txt").write_text("red\n\ngreen\n", encoding="utf-8")
    assert of_path(tmp_path / "few.txt", toy.modalities).items == ["red", "green"]
    (tmp_path / "none.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no text"):
        of_path(tmp_path / "none.txt", toy.modalities)


def test_items_are_spread_evenly(toy, tmp_path):
    (tmp_path / "many.txt").write_text("\n".join(map(str, range(100))), encoding="utf-8")
    assert of_path(tmp_path / "many.txt", toy.modalities, most=4).items == ["0", "25", "50", "75"]


def test_shipped_photographs_come_with_what_they_show():
    rows, columns = shipped(5)
    assert len(rows.items) == len(columns.items) == 5
    for path, sentence in zip(rows.items, columns.items, strict=True):
        assert Path(path).is_file() and sentence.endswith(Path(path).stem.replace("-", " "))


def test_the_picture_has_a_panel_for_each_table_whatever_items_are_called(tmp_path):
    from PIL import Image

    hostile = ["$\\frac{", "\u202e\x00<b>", "\u4e2d\u6587 \U0001f415" * 9]
    details = {"rows": hostile, "columns": hostile, "scores": np.eye(3).tolist(), "reference": None}
    alone, both = tmp_path / "alone.png", tmp_path / "both.png"
    write_png(alone, Record("similarity", "s", "$x_", details=details))
    details |= {"reference": np.full((3, 3), 0.5).tolist()}
    write_png(both, Record("similarity", "s", "int8", {"reference": "f32"}, details=details))
    widths = [Image.open(io.BytesIO(path.read_bytes())).size[0] for path in (alone, both)]
    assert widths[1] > 2 * widths[0]
    with pytest.raises(UsageError, match="no table of similarities"):
        write_png(alone, Record("similarity", "s", "x"))
