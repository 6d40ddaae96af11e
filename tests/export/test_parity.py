"""Every engine says what the reference implementation said, for all six modalities, whatever the batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import slimbind
from slimbind.modalities import MODALITIES

ENGINES = ("openvino", "onnx", "torch")


@pytest.fixture(scope="module")
def models(artifacts):
    """Engine -> model that takes arrays as they come from preprocessing."""
    found = {}
    for engine, folder in artifacts.items():
        model = slimbind.load(folder, threads=1)
        model._parts.preprocessors = dict.fromkeys(model.modalities, lambda array: array)
        found[engine] = model
    yield found
    for model in found.values():
        model.close()


def items_of(golden, modality):
    """The golden inputs as their preprocessors give them: views in front, texts unpadded."""
    array = golden[f"in_{modality}"]
    if modality == "text":
        return [ids[: ids.argmax() + 1] for ids in array]
    array = array.astype(np.float32)
    return list(array) if modality == "audio" else [item[None] for item in array]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("engine", ENGINES)
def test_golden_outputs(models, golden, engine, modality):
    vectors = models[engine].embed(items_of(golden, modality), modality)
    np.testing.assert_allclose(vectors, unit(golden[f"out_{modality}"]), atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_golden_video_is_the_mean_of_its_clips(models, golden, engine):
    films = list(golden["in_vision_video"].astype(np.float32))
    vectors = models[engine].embed(films, "vision")
    np.testing.assert_allclose(vectors, unit(golden["out_vision_video"]), atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_stills_and_films_go_together(models, golden, engine):
    still, film = items_of(golden, "vision")[0], golden["in_vision_video"][0].astype(np.float32)
    mixed = models[engine].embed([film, still, film[:1]], "vision")
    np.testing.assert_allclose(mixed[1], unit(golden["out_vision"])[0], atol=1e-5)
    np.testing.assert_allclose(mixed[0], unit(golden["out_vision_video"])[0], atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("engine", ("openvino", "onnx"))
def test_the_vector_does_not_depend_on_the_batch(models, golden, engine, modality):
    items = items_of(golden, modality)
    alone = np.concatenate([models[engine].embed([item], modality) for item in items])
    for batch_size in (1, 2, 5):
        together = models[engine].embed(items[::-1] + items, modality, batch_size=batch_size)
        np.testing.assert_allclose(together[len(items) :], alone, atol=2e-6)
        np.testing.assert_allclose(together[: len(items)][::-1], alone, atol=2e-6)


@pytest.mark.parametrize("engine", ("openvino", "onnx"))
def test_short_and_full_length_texts(models, engine):
    random = np.random.default_rng(0)
    end = 49407
    texts = [np.append(random.integers(1, 400, length - 1), end).astype(np.int32) for length in (2, 3, 9, 30, 76, 77)]
    np.testing.assert_allclose(models[engine].embed(texts, "text"), models["torch"].embed(texts, "text"), atol=1e-5)


def test_engines_agree_to_a_ten_thousandth(models, golden):
    for modality in MODALITIES:
        items = items_of(golden, modality)
        openvino, onnx = (models[engine].embed(items, modality) for engine in ("openvino", "onnx"))
        assert (1 - (openvino * onnx).sum(axis=1)).max() < 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_many_threads_on_one_tower_get_their_own_vectors(models, golden, engine):
    items = items_of(golden, "imu") + items_of(golden, "imu")[::-1]
    expected = models[engine].embed(items, "imu")
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda n: models[engine].embed([items[n % 4]], "imu")[0], range(40)))
    np.testing.assert_allclose(found, np.tile(expected, (10, 1)), atol=2e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_input_the_graph_refuses_is_that_items_error(models, engine):
    from slimbind.errors import EngineError, ItemsError

    good, bad = np.zeros((1, 6, 2000), np.float32), np.zeros((1, 5, 2000), np.float32)
    with pytest.raises(ItemsError) as caught:
        models[engine].embed([good, bad], "imu")
    assert caught.value.indices == [0]
    assert isinstance(caught.value.errors[1], EngineError)
    assert "[1, 5, 2000]" in str(caught.value.errors[1])


def test_unloading_is_the_same_for_every_engine(models, golden):
    for model in models.values():
        first = model.embed(items_of(golden, "depth"), "depth")
        model.unload("depth")
        assert "depth" not in model.loaded
        model._parts.preprocessors["depth"] = lambda array: array
        np.testing.assert_array_equal(model.embed(items_of(golden, "depth"), "depth"), first)
