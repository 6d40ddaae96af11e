"""Streams and threads: never more than the cores, and what suits a tower's modality and size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimbind.errors import UsageError
from slimbind.modalities import MODALITIES
from slimbind.runtime.layout import LARGE, MOST_STREAMS, MOST_THREADS, SMALL_THREADS, choose, rows_of_pass

ENGINES = st.sampled_from(["openvino", "onnx", "torch"])
CORES = st.integers(1, 300)
WEIGHTS = st.integers(0, 1 << 40)


@given(engine=ENGINES, modality=st.sampled_from(list(MODALITIES)), weights=WEIGHTS, cores=CORES)
def test_no_choice_uses_more_cores_than_there_are_nor_leaves_half_of_them(engine, modality, weights, cores):
    layout = choose(engine, modality, weights, cores)
    assert layout.streams >= 1 and layout.threads >= 1
    assert cores / 2 < layout.streams * layout.threads <= cores
    assert layout.why


@given(cores=st.integers(2, 300))
def test_small_towers_run_side_by_side_and_large_ones_on_many_threads(cores):
    small, large = choose("openvino", "vision", LARGE - 1, cores), choose("openvino", "vision", LARGE, cores)
    assert small.streams == min(cores // SMALL_THREADS, MOST_STREAMS) and small.threads >= SMALL_THREADS
    assert large.threads >= min(cores, MOST_THREADS)
    assert small.streams >= large.streams
    assert "small tower: 64 MiB" in str(small) and "large tower: 64 MiB" in str(large)


@given(weights=WEIGHTS, cores=CORES)
def test_texts_are_too_short_for_several_threads_however_large_the_tower(weights, cores):
    assert choose("onnx", "text", weights, cores).streams == min(cores, MOST_STREAMS)


@pytest.mark.parametrize(
    ("cores", "text", "small", "large"),
    [
        (1, (1, 1), (1, 1), (1, 1)),
        (2, (2, 1), (1, 2), (1, 2)),
        (4, (4, 1), (2, 2), (1, 4)),
        (16, (8, 2), (8, 2), (2, 8)),
    ],
)
def test_what_common_machines_get(cores, text, small, large):
    for modality, weights, expected in (("text", 1 << 30, text), ("imu", 1 << 20, small), ("vision", 1 << 30, large)):
        layout = choose("onnx", modality, weights, cores)
        assert (layout.streams, layout.threads) == expected


def test_pytorch_runs_one_pass_on_all_cores():
    assert (choose("torch", "imu", 1, 6).streams, choose("torch", "imu", 1, 6).threads) == (1, 6)
    card = choose("torch", "imu", 1, 6, on_card=True)
    assert (card.streams, card.threads) == (1, 1) and "graphics card" in card.why  # the others decode meanwhile
    with pytest.raises(UsageError, match="streams is 2"):
        choose("torch", "imu", 1, 6, asked=2)


@given(cores=CORES, data=st.data())
def test_what_is_asked_for_is_kept(cores, data):
    asked = data.draw(st.integers(1, cores))
    layout = choose("openvino", "imu", 1, cores, asked=asked)
    assert layout.streams == asked and layout.streams * layout.threads <= cores and layout.why == "asked for"


@pytest.mark.parametrize("asked", [0, -1, 5, True, 2.0])
def test_a_senseless_number_of_streams_is_an_error(asked):
    with pytest.raises(UsageError, match="streams is"):
        choose("openvino", "imu", 1, 4, asked=asked)


@given(rows=st.integers(0, 5000), most=st.integers(1, 64), streams=st.integers(1, 16))
def test_batches_keep_every_stream_busy_where_there_are_rows_enough(rows, most, streams):
    size = rows_of_pass(rows, most, streams)
    assert 1 <= size <= most
    passes = -(-rows // size)
    assert size == most or passes <= streams  # what is cut smaller is not cut smaller than need be
    if rows >= streams and size < most:
        assert passes > streams / 2
