"""Speed over threads, batches and callers: what is counted, and that callers really call at the same time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slimbind
from slimbind.errors import UsageError
from slimbind.evaluate.callers import Run, drive
from slimbind.evaluate.throughput import Plan, measure, measure_in_turns, percentile, thread_counts

from ..conftest import write_picture


@given(cores=st.integers(1, 500))
def test_thread_counts_are_powers_of_two_and_all_cores(cores):
    counts = thread_counts(cores)
    assert counts[0] == 1 and counts[-1] == cores and list(counts) == sorted(set(counts))
    assert all(count & (count - 1) == 0 for count in counts[:-1])


def test_callers_call_at_the_same_time_and_every_call_is_timed():
    lock, inside, most = threading.Lock(), 0, 0

    def call(caller, times):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.01)
        with lock:
            inside -= 1

    run = drive(call, callers=4, seconds=0.1)
    assert most == 4
    assert len(run.latencies) >= 8 and min(run.latencies) >= 0.01
    assert 0.1 <= run.elapsed < 5
    assert run.cpu < run.elapsed  # they slept


def test_each_caller_counts_its_own_calls_and_calls_once_at_least():
    seen = []
    drive(lambda caller, times: seen.append((caller, times)), callers=3, seconds=1e-9)
    assert sorted(seen) == [(0, 0), (1, 0), (2, 0)]


def test_an_error_in_one_caller_ends_all_and_is_told():
    def call(caller, times):
        if caller == 1 and times == 2:
            raise ZeroDivisionError("of all things")
        time.sleep(0.001)

    started = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="of all things"):
        drive(call, callers=3, seconds=60)
    assert time.monotonic() - started < 30


def test_runs_add_up():
    run = Run([1.0], 2.0, 3.0, threads=4)
    run.add(Run([0.5, 0.25], 1.0, 1.0, threads=3, resident=9))
    assert run == Run([1.0, 0.5, 0.25], 3.0, 4.0, threads=4, resident=9)


@settings(max_examples=20, deadline=None)
@given(values=st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40), point=st.sampled_from([50, 90, 99]))
def test_percentiles_are_numpys_and_lie_in_their_interval(values, point):
    found = percentile(values, point)
    assert found.value == pytest.approx(np.percentile(values, point)) and found.n == len(values)
    assert min(values) <= found.low <= found.high <= max(values)
    assert percentile(values, point) == found  # the same seed, the same interval


def test_a_model_is_measured_in_all_combinations(toy_artifact):
    steps, told = [], []
    record = measure(
        toy_artifact,
        "text",
        Plan(threads=(1, 2), batches=(1, 4), callers=(1, 3), seconds=0.02, rounds=2, samples=5),
        on_begin=lambda *begun: told.append(begun),
        on_done=lambda: steps.append(1),
    )
    rows = record.details["rows"]
    assert {(row["threads"], row["batch"], row["callers"]) for row in rows} == {
        (threads, batch, callers) for threads in (1, 2) for batch in (1, 4) for callers in (1, 3)
    }
    assert told == [("text", 16)] and len(steps) == 16
    for row in rows:
        assert row["calls"] >= 2 * row["callers"]
        assert 0 < row["p50_seconds"] <= row["p90_seconds"] <= row["p99_seconds"]
        assert row["items_per_second"] > 0 and row["streams"] == row["threads"]  # a pass for each core: text
        assert row["cores_used"] < row["threads"] + row["callers"] + 1
        if row["process_threads"] is not None:
            assert row["process_threads"] > row["callers"] and row["resident_bytes"] > 1 << 20
    assert record.measures["items_per_second"].value == max(row["items_per_second"] for row in rows)
    assert record.measures["p50_seconds"].low <= record.measures["p50_seconds"].value
    assert {"threads_speedup", "callers_speedup"} <= set(record.measures)
    assert record.settings["items"] == 5 and "2 forward passes side by side" in record.settings["layout"]
    assert record.environment["cores"] >= 1
    assert type(record).from_json(record.to_json()) == record


def test_streams_that_are_asked_for_are_used(toy_artifact):
    record = measure(
        toy_artifact, "text", Plan(threads=(2,), batches=(1,), callers=(1,), seconds=0.01, streams=(1, 2, 3))
    )
    assert [(row["streams"], row["chosen"]) for row in record.details["rows"]] == [(1, False), (2, True)]
    assert "asked for" in record.settings["layout"]
    assert "threads_speedup" not in record.measures  # there is nothing to compare with


def test_models_take_turns(toy_artifact, make_toy, tmp_path, monkeypatch):
    """Each round measures every model, the other way round every other time, and opens one at a time."""
    from slimbind.evaluate import throughput

    other = make_toy(tmp_path / "other", scheme="int8-dynamic")
    opened = []

    def load(source, **options):
        opened.append(Path(source).name)
        return slimbind.load(source, **options)

    monkeypatch.setattr(throughput, "load", load)
    plan = Plan(threads=(1,), batches=(1,), callers=(1,), seconds=0.01, rounds=3, samples=3)
    first, second = measure_in_turns([toy_artifact, other], "text", plan)
    assert opened[2:] == ["toy", "other", "other", "toy", "toy", "other"], "behind the look at what can be read"
    assert [Path(record.model).name for record in (first, second)] == ["toy", "other"]
    assert first.environment["towers"]["text"]["scheme"] == "f32"
    assert second.environment["towers"]["text"]["scheme"] == "int8-dynamic"
    assert all(len(record.details["rows"]) == 1 and record.measures["p50_seconds"].n >= 3 for record in (first, second))


def test_items_are_spread_over_the_data(toy_artifact, tmp_path):
    """Six of nine sentences: not the first six."""
    (tmp_path / "nine.txt").write_text("\n".join(f"red {number}" for number in range(9)))
    asked = Plan(data=tmp_path / "nine.txt", samples=6).samples_of("text").items
    assert asked == [f"red {number}" for number in (0, 1, 3, 4, 6, 7)]


def test_items_that_cannot_be_read_are_left_out_and_told(toy_artifact, tmp_path):
    write_picture(tmp_path / "red.png", (200, 0, 0))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    record = measure(toy_artifact, "vision", Plan(data=tmp_path, threads=(1,), callers=(1,), seconds=0.01))
    assert record.settings["items"] == 1
    assert [name.rsplit("/", 1)[-1] for name, _ in record.failed] == ["broken.png"]
    (tmp_path / "red.png").unlink()
    with pytest.raises(UsageError, match="none of 1 items"):
        measure(toy_artifact, "vision", Plan(data=tmp_path, threads=(1,), seconds=0.01))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": (0,)}, "threads"),
        ({"batches": (-1,)}, "batches"),
        ({"callers": (True,)}, "callers"),
        ({"callers": ()}, "callers"),
        ({"seconds": 0}, "seconds 0"),
        ({"seconds": float("nan")}, "seconds nan"),
        ({"rounds": 0}, "rounds 0"),
        ({"threads": (1,), "streams": (2,)}, r"streams is \[2\]"),
        ({"streams": (0,)}, "streams"),
    ],
)
def test_settings_that_make_no_sense_are_refused(toy_artifact, options, message):
    with pytest.raises(UsageError, match=message):
        measure(toy_artifact, "text", Plan(**options))


def test_data_without_the_modality_is_refused(toy_artifact, tmp_path):
    with pytest.raises(UsageError, match="holds no vision"):
        measure(toy_artifact, "vision", Plan(data=tmp_path))
