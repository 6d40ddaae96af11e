"""Models: nothing opens before it is used; damage and misuse are told apart, and told early."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import slimbind
from slimbind.errors import ArtifactCorruptError, ArtifactError, ArtifactVersionError, EngineError, UsageError
from slimbind.runtime import model as model_module
from slimbind.runtime.pool import TowerPool


@pytest.fixture
def copy(toy_artifact, tmp_path):
    return shutil.copytree(toy_artifact, tmp_path / "copy")


@pytest.fixture
def model(toy_artifact):
    with slimbind.load(toy_artifact, threads=1) as model:
        yield model


def flip(path, place=-10):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_only_the_tower_in_use_is_open(model, toy_artifact):
    assert model.modalities == ("vision", "text", "audio")
    assert model.loaded == {}
    vectors = model.embed(["red", "green"], "text")
    assert vectors.shape == (2, model.dim) and vectors.dtype == np.float32
    assert [vector[:3].argmax() for vector in vectors] == [0, 1]
    assert list(model.loaded) == ["text"]
    assert model.loaded["text"].bytes == slimbind.Artifact.open(toy_artifact).tower("text").bytes
    assert "open: text" in repr(model)
    model.unload("text")
    assert model.loaded == {}
    np.testing.assert_array_equal(model.embed(["red", "green"], "text"), vectors)


def test_the_vector_does_not_depend_on_the_batch(model):
    texts = ["red", "green red", "blue", "red red blue green", "something else entirely"] * 8
    together = model.embed(texts, "text")
    alone = np.concatenate([model.embed([text], "text", batch_size=1) for text in texts[:5]])
    np.testing.assert_allclose(together[:5], alone, atol=1e-6)


def test_preload_opens_at_once(toy_artifact):
    with slimbind.load(toy_artifact, preload=["text", "audio"]) as model:
        assert set(model.loaded) == {"text", "audio"}
    with slimbind.load(toy_artifact, preload="vision") as model:
        assert set(model.loaded) == {"vision"}
    with pytest.raises(UsageError, match="unknown modality"):
        slimbind.load(toy_artifact, preload=["smell"])


def test_the_budget_closes_what_was_used_least_recently(toy_artifact):
    sizes = {name: entry.bytes for name, entry in slimbind.Artifact.open(toy_artifact).manifest.towers.items()}
    budget = sizes["text"] + sizes["audio"]
    with slimbind.load(toy_artifact, memory_budget=budget, preload=["text", "audio"]) as model:
        model.embed(["red"], "text")
        model.embed([np.zeros((30, 30, 3), np.uint8)], "vision")
        assert set(model.loaded) == {"text", "vision"}
    with slimbind.load(toy_artifact, memory_budget=10) as model, pytest.raises(UsageError, match="memory budget is 10"):
        model.embed(["red"], "text")


def test_two_streams_take_turns_in_a_budget_for_one(toy_artifact):
    budget = max(entry.bytes for entry in slimbind.Artifact.open(toy_artifact).manifest.towers.values())
    with slimbind.load(toy_artifact, memory_budget=budget) as model:
        texts = model.stream(["red"] * 6, "text", batch_size=1)
        images = model.stream([np.full((9, 9, 3), 9, np.uint8)] * 6, "vision", batch_size=2)
        pairs = list(zip(texts, images, strict=True))
    assert all(a.vector is not None and b.vector is not None for a, b in pairs)


def test_many_threads_share_a_model(model, monkeypatch):
    opened = []
    plain = model_module.engine
    monkeypatch.setattr(model_module, "engine", lambda name: opened.append(name) or plain(name))
    words = ["red", "green", "blue", "low", "high"] * 20
    with ThreadPoolExecutor(8) as threads:
        vectors = list(threads.map(lambda word: model.embed([word], "text")[0], words))
    np.testing.assert_allclose(vectors, np.tile(vectors[:5], (20, 1)), atol=1e-6)
    assert opened == ["openvino"]
    assert model.encoder("text").timings.items == 100


def test_encoders_are_kept_and_have_the_manifests_id(model, toy_artifact):
    encoder = model.encoder("text")
    assert encoder is model.encoder("text")
    assert encoder.id == slimbind.Artifact.open(toy_artifact).tower("text").encoder_id
    assert encoder.dim == model.dim == 8
    assert model.id == "toy"
    assert model.loaded == {}


def test_one_flipped_byte_is_found_when_the_tower_is_first_opened(copy):
    flip(copy / "text" / "tower.bin")
    with slimbind.load(copy) as model:
        with pytest.raises(ArtifactCorruptError, match=r"text.*tower\.bin was changed"):
            model.embed(["red"], "text")
        assert model.loaded == {}
        model.embed([np.zeros((9, 9, 3), np.uint8)], "vision")
    with slimbind.load(copy, verify=False) as model:
        model.embed(["red"], "text")


def test_a_changed_tokenizer_is_the_models_error_and_not_the_items(copy):
    flip(copy / "text" / "tokenizer.json")
    with slimbind.load(copy) as model, pytest.raises(ArtifactCorruptError, match="tokenizer"):
        model.embed(["red"], "text")


def test_files_are_hashed_once(copy, monkeypatch):
    with slimbind.load(copy) as model:
        model.embed(["red"], "text")
        model.unload()
        monkeypatch.setattr(slimbind.Artifact, "verify", lambda *_: pytest.fail("hashed again"))
        model.embed(["red"], "text")


def test_files_that_are_no_model_are_an_engine_error(copy):
    (copy / "text" / "tower.xml").write_text("<net>")
    with slimbind.load(copy, verify=False) as model, pytest.raises(EngineError, match=r"cannot open .*tower\.xml"):
        model.embed(["red"], "text")


def test_a_newer_format_is_refused_with_the_way_out(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(ArtifactVersionError, match="version 99.*pip install --upgrade"):
        slimbind.load(copy)


def test_an_engine_that_does_not_exist_is_named(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["towers"]["text"]["engine"] = "abacus"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with (
        slimbind.load(copy) as model,
        pytest.raises(UsageError, match="unknown engine 'abacus'.*onnx, openvino, torch"),
    ):
        model.embed(["red"], "text")


def test_missing_modalities_and_models_are_told(model, tmp_path):
    with pytest.raises(UsageError, match="unknown modality 'smell'"):
        model.embed([], "smell")
    with pytest.raises(UsageError, match="unknown modality of toy 'imu'; allowed: audio, text, vision"):
        model.embed([], "imu")
    with pytest.raises(UsageError, match="unknown modality of toy 'imu'"):
        model.unload("imu")
    with pytest.raises(ArtifactError):
        slimbind.load(tmp_path)


def test_the_towers_of_a_dropped_model_go_with_it(toy_artifact):
    gc.disable()  # nothing hurries the collector where few objects hold many bytes
    try:
        model = slimbind.load(toy_artifact, idle_ttl=60)
        model.embed(["red"], "text")
        pool = weakref.ref(model._pool)
        encoder = model.encoder("text")
        del model
        assert encoder.embed(["red"]).shape == (1, 8), "an encoder that is still held goes on working"
        del encoder
        assert pool() is None
    finally:
        gc.enable()


def test_a_closed_model_says_so(toy_artifact):
    with slimbind.load(toy_artifact) as model:
        model.embed(["red"], "text")
    assert model.loaded == {}
    with pytest.raises(UsageError, match="the model is closed"):
        model.embed(["red"], "text")


def test_a_preload_that_cannot_be_opens_nothing(toy_artifact, monkeypatch):
    opened = []
    monkeypatch.setattr(TowerPool, "lease", lambda self, modality: opened.append(modality))
    with pytest.raises(UsageError, match="'smell'"):
        slimbind.load(toy_artifact, preload=["text", "smell"])
    assert opened == []


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), "5"])
def test_a_senseless_idle_time_is_an_error(toy_artifact, ttl):
    with pytest.raises(UsageError, match="idle_ttl"):
        slimbind.load(toy_artifact, idle_ttl=ttl)


def test_compiled_models_are_kept_where_asked(toy_artifact, tmp_path):
    with slimbind.load(toy_artifact, cache_dir=tmp_path / "cache") as model:
        first = model.embed(["red"], "text")
    assert any((tmp_path / "cache").iterdir())
    with slimbind.load(toy_artifact, cache_dir=tmp_path / "cache") as model:
        np.testing.assert_array_equal(model.embed(["red"], "text"), first)


def test_embedding_needs_no_torch(toy_artifact):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"import slimbind; slimbind.load({str(toy_artifact)!r}).embed(['red'], 'text')\n"
        "assert not [name for name in sys.modules if name.startswith('torch.')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
