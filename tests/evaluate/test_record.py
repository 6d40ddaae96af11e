"""Records of evaluations: what is written is read again, and nothing else is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slimbind
from slimbind.errors import ArtifactVersionError, UsageError
from slimbind.evaluate.record import Estimate, Record, environment

RECORD = Record(
    task="zero-shot",
    title="mini on pictures",
    model="mini",
    settings={"seed": 0, "templates": ["a photo of {}"], "codec": None},
    measures={"top-1": Estimate(0.5, 0.25, 0.75, 8), "items": Estimate(8.0)},
    details={"classes": ["a", "b"], "confusion": [[1, 2], [3, 2]]},
    failed=(("bad.png", "cut short"),),
    environment={"cores": 2},
)

numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_what_is_written_is_read_again():
    assert Record.from_json(RECORD.to_json()) == RECORD


@given(numbers, numbers | st.none(), st.integers(0, 10**9), st.dictionaries(st.text(), json_values, max_size=4))
def test_any_record_survives(value, low, n, details):
    record = Record("t", "", "m", measures={"x": Estimate(value, low, low, n)}, details=details)
    assert Record.from_json(record.to_json()) == record


def test_order_of_measures_is_kept():
    record = Record("t", "", "m", measures={name: Estimate(0.0) for name in ("z", "a", "m")})
    assert list(Record.from_json(record.to_json()).measures) == ["z", "a", "m"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_cannot_say_are_refused(number):
    with pytest.raises(ValueError, match="(?i)json"):
        Record("t", "", "m", measures={"x": Estimate(number)}).to_json()


def changed(**fields):
    return json.dumps({**json.loads(RECORD.to_json()), **fields})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no record"),
        ("[1]", "slimbind_evaluation"),
        ("{}", "slimbind_evaluation"),
        ("[" * 100_000, "no record"),
        (changed(slimbind_evaluation=True), "slimbind_evaluation"),
        (changed(more=1), "more"),
        (changed(task=3), "task"),
        (changed(measures={"x": {"value": "0.5"}}), "measures.x.value"),
        (changed(measures={"x": {"value": 1, "n": 0.5}}), "measures.x.n"),
        (changed(failed=[["only the name"]]), "failed.0"),
        (RECORD.to_json().replace("0.5", "NaN"), "NaN"),
    ],
)
def test_what_is_no_record_is_refused(text, why):
    with pytest.raises(UsageError, match=why):
        Record.from_json(text)


def test_a_missing_key_is_refused():
    told = json.loads(RECORD.to_json())
    del told["model"]
    with pytest.raises(UsageError, match="model"):
        Record.from_json(json.dumps(told))


def test_a_newer_format_is_refused_as_such():
    with pytest.raises(ArtifactVersionError, match="format 2"):
        Record.from_json(changed(slimbind_evaluation=2))


def test_the_environment_says_what_a_number_depends_on(toy_artifact):
    with slimbind.load(toy_artifact) as model:
        told = environment(model)
        assert told["towers"]["vision"]["encoder"] == model.encoder("vision").id
    assert told["slimbind"] == slimbind.__version__ and told["cores"] >= 1
    json.dumps(told, allow_nan=False)
