"""Encoders: items in, unit vectors out, in order, with a bounded look-ahead; one bad item spoils nothing."""

from __future__ import annotations

import io
import itertools
import time
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

import slimbind
from slimbind.artifact import FileEntry, TowerEntry
from slimbind.errors import EngineError, ItemsError, MediaError, UsageError
from slimbind.media.spec import ImageSpec, ImuSpec, TextSpec
from slimbind.runtime import encoder as encoder_module
from slimbind.runtime.crew import Crew
from slimbind.runtime.encoder import Encoder
from slimbind.runtime.layout import Layout


class FakeSession:
    """Embeds an array as its first two numbers; fails on a batch that holds 666."""

    def __init__(self, rank):
        self.rank = rank
        self.batches = []

    def run(self, inputs):
        batch = inputs["input"]
        self.batches.append(batch.shape)
        if (batch == 666).any():
            raise EngineError("the number of the beast")
        flat = batch.reshape(len(batch), -1)[:, :2].astype(np.float32)
        with np.errstate(all="ignore"):
            return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def make(spec, rank, preprocess, *, weights=0):
    entry = TowerEntry(
        engine="none",
        scheme="f32",
        weights="0" * 64,
        files=(FileEntry(path="x", bytes=weights, sha256="0" * 64),),
        parameters=0,
        preprocess=spec,
    )
    session = FakeSession(rank)
    session.users = 0

    @contextmanager
    def lease():
        session.users += 1
        yield session
        session.users -= 1

    made = Encoder("imu", entry, 2, lease=lease, preprocessor=lambda: preprocess, crew=Crew(2), layout=Layout(1, 2, ""))
    return made, session


def numbers(item):
    if item is None:
        raise MediaError("nothing", "there is nothing")
    if item == "surprise":
        raise ZeroDivisionError("of all things")
    return np.full((1, 6, 20), 1, np.float32) * np.array([item, 1] * 10, np.float32)


def expected(item):
    return np.array([item, 1]) / np.hypot(item, 1)


def test_order_is_kept_whatever_finishes_first():
    def slow_at_first(item):
        time.sleep(0.03 if item == 0 else 0)
        return numbers(item)

    encoder, _ = make(ImuSpec(), 3, slow_at_first)
    vectors = encoder.embed(range(50), batch_size=7)
    np.testing.assert_allclose(vectors, [expected(item) for item in range(50)], atol=1e-6)
    assert vectors.dtype == np.float32


def test_bad_items_are_reported_and_the_rest_is_done():
    encoder, _ = make(ImuSpec(), 3, numbers)
    with pytest.raises(ItemsError) as caught:
        encoder.embed([1, None, 3, "surprise", 666, 5, float("nan")])
    error = caught.value
    assert error.indices == [0, 2, 5]
    np.testing.assert_allclose(error.vectors, [expected(item) for item in (1, 3, 5)], atol=1e-6)
    assert set(error.errors) == {1, 3, 4, 6}
    assert "there is nothing" in str(error.errors[1])
    assert "ZeroDivisionError: of all things" in str(error.errors[3])
    assert "beast" in str(error.errors[4])
    assert "not finite" in str(error.errors[6])


def test_all_bad_is_no_vectors_at_all():
    encoder, session = make(ImuSpec(), 3, numbers)
    with pytest.raises(ItemsError) as caught:
        encoder.embed([None, None])
    assert caught.value.vectors.shape == (0, 2)
    assert session.batches == []


def test_no_items_open_nothing():
    encoder, session = make(ImuSpec(), 3, numbers)
    assert encoder.embed([]).shape == (0, 2)
    assert session.batches == []


def test_a_wrong_shape_is_that_items_error():
    encoder, _ = make(ImuSpec(), 3, lambda item: np.ones((1, 6, 20)[3 - item :], np.float32))
    done = list(encoder.stream([3, 2, 3]))
    assert [one.vector is None for one in done] == [False, True, False]
    assert "does not belong" in str(done[1].error)


def test_endless_streams_are_read_a_bounded_way_ahead():
    encoder, _ = make(ImuSpec(), 3, numbers)
    read = []

    def endless():
        for item in itertools.count():
            read.append(item)
            yield item

    done = list(itertools.islice(encoder.stream(endless(), batch_size=4), 10))
    assert [one.index for one in done] == list(range(10))
    assert len(read) <= 12 + 8


def test_large_items_shorten_the_look_ahead(monkeypatch):
    monkeypatch.setattr(encoder_module, "_WAITING_BYTES", 4 * numbers(1).nbytes)
    encoder, session = make(ImuSpec(), 3, numbers)
    read = []
    stream = encoder.stream((read.append(item) or item for item in range(100)), batch_size=32)
    for _ in range(3):
        next(stream)
    assert len(read) <= 4 + 4
    assert max(shape[0] for shape in session.batches) <= 4
    stream.close()


def test_a_stream_given_up_prepares_nothing_more():
    encoder, _ = make(ImuSpec(), 3, lambda item: prepared.append(item) or time.sleep(0.005) or numbers(item))
    prepared = []
    stream = encoder.stream(itertools.count(), batch_size=20)
    next(stream)
    stream.close()
    time.sleep(0.03)  # what was begun
    before = len(prepared)
    time.sleep(0.05)
    assert len(prepared) == before


def test_the_tower_is_not_held_while_the_consumer_works():
    encoder, session = make(ImuSpec(), 3, numbers)
    for _ in encoder.stream(range(10), batch_size=3):
        assert session.users == 0


def test_texts_of_like_length_share_batches():
    encoder, session = make(TextSpec(), 2, lambda length: np.arange(1, length + 1, dtype=np.int32))
    lengths = [3, 20, 4, 19, 77, 5, 18, 3] * 4
    vectors = encoder.embed(lengths)
    assert len(vectors) == len(lengths)
    assert sorted(session.batches) == [(4, 8), (4, 77), (12, 4), (12, 20)]


@pytest.mark.parametrize(("weights", "rows"), [(1 << 20, 8), (600 << 20, 4)])
def test_a_large_tower_gets_smaller_batches(weights, rows):
    encoder, session = make(ImuSpec(), 3, numbers, weights=weights)
    encoder.embed(range(9))
    assert max(shape[0] for shape in session.batches) == rows


def test_a_video_on_a_tower_that_knows_no_time_is_the_mean_of_its_frames():
    frames = np.zeros((2, 3, 2, 4, 4), np.float32)
    frames[0, 0] = 1  # both frames of the first clip point along (1, 1), the others along (0.6, 0.8)
    frames[1, 0, :, 0, :2] = [0.6, 0.8]
    frames[0, 0, :, 0, :2] = [2**-0.5, 2**-0.5]
    encoder, session = make(ImageSpec(), 4, lambda item: frames)
    (vector,) = encoder.embed(["film"])
    mean = np.array([2**-0.5 + 0.6, 2**-0.5 + 0.8])
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)
    assert session.batches == [(4, 3, 4, 4)]
    assert encoder.timings.views == 4 and encoder.timings.items == 1


def test_timings_tell_where_the_time_went():
    encoder, _ = make(ImuSpec(), 3, lambda item: time.sleep(0.01) or numbers(item))
    encoder.embed(range(5))
    assert encoder.timings.items == encoder.timings.views == 5
    assert encoder.timings.pre >= 0.05
    assert encoder.timings.forward > 0 and encoder.timings.post > 0


@pytest.mark.parametrize(
    "items", ["a dog", b"bytes", bytearray(b"bytes"), io.BytesIO(b"a file"), np.zeros((4, 4, 3)), {"a": 1}, 7]
)
def test_a_single_item_is_not_taken_for_a_list(items):
    encoder, _ = make(ImuSpec(), 3, numbers)
    with pytest.raises(UsageError, match=r"give a list of items.*\[item\]"):
        encoder.stream(items)


@pytest.mark.parametrize("size", [0, -1, True, 2.5, "8"])
def test_a_senseless_batch_size_is_an_error(size):
    encoder, _ = make(ImuSpec(), 3, numbers)
    with pytest.raises(UsageError, match="batch_size"):
        encoder.stream([1], batch_size=size)


def test_in_memory_inputs_say_what_files_say(toy_artifact, tmp_path):
    image = Image.new("RGB", (50, 40), (200, 30, 60))
    path = tmp_path / "a.png"
    image.save(path)
    with slimbind.load(toy_artifact, threads=1) as model:
        vectors = model.embed(
            [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), image, np.asarray(image)], "vision"
        )
    np.testing.assert_allclose(vectors, np.repeat(vectors[:1], 6, axis=0), atol=1e-6)
    assert vectors[0].argmax() == 0
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
