"""Batches: every view goes through the tower once, with its own kind, and comes back to its item."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.errors import EngineError
from slimbind.runtime.batches import TEXT_STEP, batches, join_views, views_of


def test_a_still_image_becomes_a_film_of_one_frame_for_towers_that_know_time():
    assert views_of(np.zeros((1, 3, 8, 8), np.float32), rank=5, is_text=False).shape == (1, 3, 1, 8, 8)
    video = np.zeros((4, 3, 2, 8, 8), np.float32)
    assert views_of(video, rank=5, is_text=False) is video


def test_a_video_becomes_its_frames_for_towers_that_do_not():
    video = np.random.default_rng(0).normal(size=(4, 3, 2, 8, 8)).astype(np.float32)
    views = views_of(video, rank=4, is_text=False)
    assert views.shape == (8, 3, 8, 8)
    np.testing.assert_array_equal(views[5], video[2, :, 1])


@pytest.mark.parametrize("array", [np.zeros((6, 2000)), np.zeros((0, 1, 6, 2000)), np.zeros((1, 6, 2, 2000))])
def test_an_array_that_does_not_fit_the_tower_is_refused(array):
    with pytest.raises(EngineError, match="does not belong to its tower"):
        views_of(array, rank=3, is_text=False)


@settings(deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 4), st.sampled_from([(2, 3), (3, 2), (5,)])), max_size=12),
    size=st.integers(1, 5),
)
def test_every_view_is_in_exactly_one_batch_of_its_shape(shapes, size):
    items = [
        (position, np.full((views, *shape), position, np.float32)) for position, (views, shape) in enumerate(shapes)
    ]
    seen = []
    for batch in batches(items, size=size, pad_id=None):
        assert 1 <= len(batch.array) == len(batch.owners) <= size
        for row, owner in zip(batch.array, batch.owners, strict=True):
            assert (row == owner).all()
            assert row.shape == shapes[owner][1]
        seen += batch.owners
    assert sorted(seen) == [position for position, (views, _) in enumerate(shapes) for _ in range(views)]


@settings(deadline=None)
@given(lengths=st.lists(st.integers(2, 77), min_size=1, max_size=40), size=st.integers(1, 16))
def test_texts_are_padded_to_little_more_than_their_length(lengths, size):
    items = [(position, np.arange(1, length + 1, dtype=np.int32)[None]) for position, length in enumerate(lengths)]
    seen = []
    for batch in batches(items, size=size, pad_id=0, context=77):
        assert batch.array.dtype == np.int32
        for row, owner in zip(batch.array, batch.owners, strict=True):
            length = lengths[owner]
            assert len(row) <= min(77, length + TEXT_STEP - 1)
            np.testing.assert_array_equal(row[:length], items[owner][1][0])
            assert (row[length:] == 0).all()
        seen += batch.owners
    assert sorted(seen) == list(range(len(lengths)))


def test_a_text_longer_than_the_context_is_not_cut_in_silence():
    (batch,) = batches([(0, np.ones((1, 9), np.int32))], size=4, pad_id=0, context=5)
    assert batch.array.shape == (1, 9)


def test_views_are_averaged_and_normalised_again():
    joined = join_views([np.array([1, 0, 0], np.float32), np.array([0, 1, 0], np.float32)])
    np.testing.assert_allclose(joined, [0.5**0.5, 0.5**0.5, 0], atol=1e-7)
    assert joined.dtype == np.float32


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        ([[np.nan, 0.0]], "not finite"),
        ([[np.inf, 0.0]], "not finite"),
        ([[0.0, 0.0]], "zero vector"),
        ([[1.0, 0.0], [-1.0, 0.0]], "zero vector"),
    ],
)
def test_vectors_without_direction_are_refused(vectors, reason):
    with pytest.raises(EngineError, match=reason):
        join_views(np.array(vectors, np.float32))
