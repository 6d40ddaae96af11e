"""By how much two models differ: on the same items, with an interval that what is hard for both does not widen."""

from __future__ import annotations

import numpy as np
import pytest

import slimbind
from slimbind import datasets
from slimbind.evaluate.outcome import Beside, Outcome
from slimbind.evaluate.record import Record
from slimbind.evaluate.retrieval import retrieval
from slimbind.evaluate.zero_shot import zero_shot, zero_shot_through

from ..conftest import write_picture

COLOURS = {"red": (220, 10, 10), "green": (10, 200, 10), "blue": (10, 10, 230)}


def classified(ranks, labels, items=None):
    return Outcome.of_classes(np.array(ranks), np.array(labels), 5, None if items is None else np.array(items))


def test_measures_are_counted_from_ranks():
    told = classified([1, 2, 6, 1], [0, 0, 1, 1]).measures()
    assert {name: one.value for name, one in told.items()} == {"top-1": 0.5, "top-5": 0.75, "mean class recall": 0.5}
    asked = Outcome.of_queries("text to vision", [1, 4, 9, np.inf], np.arange(4)).measures()
    assert [one.value for one in asked.values()] == [0.25, 0.5, 0.75, 6.5]
    few = Outcome.of_classes(np.array([1, 2]), np.array([0, 1]), 2)
    assert list(few.measures()) == ["top-1", "mean class recall"], "of two classes both are among the best five"


def test_differences_are_ours_less_the_references():
    found = classified([1, 2, 6, 1], [0, 0, 1, 1]).differences(classified([1, 1, 1, 6], [0, 0, 1, 1]))
    assert {name: one.value for name, one in found.items()} == {
        "top-1 difference": -0.25,
        "top-5 difference": 0.0,
        "mean class recall difference": -0.25,
    }
    assert found["top-1 difference"].low < -0.25 < found["top-1 difference"].high


def test_only_items_that_both_have_are_compared():
    ours, reference = classified([1, 6, 1], [0, 1, 1], [0, 2, 3]), classified([6, 6, 1], [0, 0, 1], [0, 1, 2])
    assert ours.differences(reference)["top-1 difference"].value == 0
    assert ours.differences(reference)["top-1 difference"].n == 2
    assert ours.differences(classified([1], [0], [7])) == {}


def test_medians_are_compared_where_all_ranks_are_known():
    known, unknown = (Outcome.of_queries("a to b", ranks, np.arange(3)) for ranks in ([1, 2, 3], [1, 1, np.inf]))
    assert known.differences(known)["a to b median rank difference"].value == 0
    assert list(known.differences(unknown)) == list(unknown.differences(unknown))
    assert "a to b median rank difference" not in unknown.differences(known)
    assert unknown.measures()["a to b median rank"].high is None, "the interval reaches behind what was searched"


def test_groups_are_drawn_together_in_differences_too():
    """Five captions of each picture, of which the model loses all or none, say no more than one."""
    lost = np.random.default_rng(0).random(40) < 0.3
    of_pictures = Outcome.of_queries("a to b", 1.0 + 20 * lost, np.arange(40))
    of_captions = Outcome.of_queries("a to b", np.repeat(1.0 + 20 * lost, 5), np.repeat(np.arange(40), 5))
    none = (
        Outcome.of_queries("a to b", np.ones(n), groups)
        for n, groups in ((40, np.arange(40)), (200, np.repeat(np.arange(40), 5)))
    )
    one, five = (
        ours.differences(theirs)["a to b R@1 difference"]
        for ours, theirs in zip((of_pictures, of_captions), none, strict=True)
    )
    assert (one.value, one.low, one.high) == pytest.approx((five.value, five.low, five.high))


def test_records_behind_the_first_tell_what_they_are_beside():
    beside = Beside()
    record = Record("zero-shot", "x", "split", settings={"codec": "f32"}, details={"classes": []})
    first = beside.add(record, [classified([1, 1], [0, 1])])
    second = beside.add(Record("zero-shot", "x", "int8"), [classified([1, 6], [0, 1])])
    assert first is record
    assert second.details == {"differences from": "split, codec f32"}
    assert second.measures["top-1 difference"].value == -0.5


@pytest.fixture
def pictures(tmp_path):
    for name, (red, green, blue) in COLOURS.items():
        for number in range(3):
            write_picture(tmp_path / "data" / name / f"{number}.png", (red, green, blue + number))
    return tmp_path / "data"


def test_models_and_codecs_are_held_against_the_first(toy_artifact, pictures):
    data, beside = datasets.open(pictures), Beside()
    with slimbind.load(toy_artifact, threads=1) as model:
        whole, coarse = zero_shot_through(["binary"], model, data)
        first, other = (
            zero_shot(model, data, templates=["none"], names=names, beside=beside)
            for names in (None, ["blue", "red", "green"])
        )
    assert "top-1 difference" not in whole.measures and coarse.details["differences from"] == "toy, codec f32"
    assert coarse.measures["top-1 difference"].n == 9
    assert first.measures["top-1"].value == 1 and other.measures["top-1 difference"].value == pytest.approx(-2 / 3)
    assert Record.from_json(other.to_json()) == other


def test_an_item_that_one_model_cannot_read_is_not_compared(toy_artifact, pictures):
    """The second time a picture is broken: the others are still the same items."""
    rows = "".join(f"{name}/{number}.png,{name} {'low ' * number}\n" for name in COLOURS for number in range(3))
    (pictures / "pairs.csv").write_text("image,caption\n" + rows)
    beside = Beside()
    with slimbind.load(toy_artifact, threads=1) as model:
        retrieval(model, datasets.open(pictures / "pairs.csv"), beside=beside)
        (pictures / "red" / "0.png").write_bytes(b"no picture")
        (record,) = retrieval(model, datasets.open(pictures / "pairs.csv"), beside=beside)
    assert record.measures["vision to text R@1"].n == record.measures["vision to text R@1 difference"].n == 8
    assert record.measures["text to vision median rank difference"].value <= 0, "there is less to be mistaken for"
