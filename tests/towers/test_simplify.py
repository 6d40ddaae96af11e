"""The exact rewrites change no embedding, and do less."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from slimbind.media.audio import AudioPreprocessor
from slimbind.media.limits import Limits
from slimbind.media.spec import AudioSpec
from slimbind.runtime.batches import batches, join_views
from slimbind.towers import registry, simplify

MODALITIES = ["vision", "text", "audio", "depth", "thermal", "imu"]
REWRITES = [simplify.simplify, simplify.pool_last_block, simplify.stack_frames, simplify.fold_norms]
END = 49407


@pytest.fixture(scope="module")
def clip_towers():
    """CLIP's, with another epsilon and activation, and a ResNet, which no rewrite touches."""
    torch.manual_seed(0)
    common = {"depth": 2, "hidden": 64, "dim": 16, "activation": "quick_gelu", "eps": 1e-5, "bias_kv": False}
    vision = {"width": 32, "heads": 2, "tokens": 10, "kernel": 16, "size": 48, "norm_pre": True}
    text = {"width": 32, "heads": 4, "tokens": 12, "vocabulary": 90, "norm_pre": False, "logit_scale": True}
    resnet = {"architecture": "resnet", "width": 16, "layers": [1, 1, 1, 1], "heads": 8, "dim": 16, "size": 64}
    return [
        registry.build("clip", "vision", common | vision, device="cpu"),
        registry.build("clip", "text", common | text, device="cpu"),
        registry.build("clip", "vision", resnet, device="cpu"),
    ]


def flops(tower, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower(x)
    return counter.get_total_flops()


def agree(before, after, x):
    with torch.no_grad():
        torch.testing.assert_close(after(x), before(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rewrite", REWRITES)
@pytest.mark.parametrize("modality", MODALITIES)
def test_same_embeddings(tiny_towers, rewrite, modality):
    tower = tiny_towers[modality]
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    after = rewrite(tower)
    agree(tower, after, tower.example(3))
    # What was given is left alone, also by a second rewrite on top of the first.
    agree(tower, simplify.simplify(simplify.fold_norms(after)), tower.example(2))
    assert tower.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in tower.state_dict().items())


def test_same_embeddings_of_clip(clip_towers):
    for tower in clip_towers:
        for rewrite in REWRITES:
            agree(tower, rewrite(tower), tower.example(2))


@pytest.mark.parametrize("frames", [1, 2])
def test_frames_share_one_graph(tiny_towers, frames):
    tower = tiny_towers["vision"]
    film = torch.randn(2, 3, frames, 224, 224)
    agree(tower, simplify.stack_frames(tower), film)


def test_a_still_image_costs_half_the_stem(tiny_towers):
    tower = tiny_towers["vision"]
    after = simplify.stack_frames(tower)
    x = torch.randn(1, 3, 1, 224, 224)
    assert flops(after.stem, x) * 2 == flops(tower.stem, x) == flops(after.stem, x.repeat(1, 1, 2, 1, 1))


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_last_block_does_less(tiny_towers, modality):
    tower = tiny_towers[modality]
    x = tower.example(2)
    assert flops(simplify.pool_last_block(tower), x) < 0.9 * flops(tower, x)


def test_simplify_shares_the_weights(tiny_towers):
    """A tower of gigabytes is not copied."""
    tower = tiny_towers["vision"]
    ours = {value.untyped_storage().data_ptr() for value in tower.state_dict().values()}
    copied = [
        key
        for key, value in simplify.simplify(tower).state_dict().items()
        if value.untyped_storage().data_ptr() not in ours
    ]
    assert copied == ["stem.kernels"]


def test_folding_leaves_no_gains(tiny_towers):
    keys = simplify.fold_norms(tiny_towers["depth"]).state_dict().keys()
    assert [key for key in keys if "norm" in key] == ["stem.norm.weight", "stem.norm.bias"]


sentence = st.lists(st.integers(1, END - 1), min_size=0, max_size=30)


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(sentence, min_size=1, max_size=6), size=st.integers(1, 4))
def test_cut_and_bucketed_texts_are_the_same(tiny_towers, texts, size):
    """What stands behind the end of a text cannot matter, nor who its neighbours are."""
    tower = tiny_towers["text"]
    ids = [np.array([END - 1, *text, END], dtype=np.int32) for text in texts]
    full = torch.zeros(len(ids), 77, dtype=torch.int32)
    for row, one in enumerate(ids):
        full[row, : len(one)] = torch.from_numpy(one)
    found = np.empty((len(ids), tower.dim), dtype=np.float32)
    for short in (tower, simplify.simplify(tower)):
        for batch in batches([(i, one[None]) for i, one in enumerate(ids)], size=size, pad_id=0, context=77):
            assert batch.array.shape[1] < 40
            with torch.no_grad():
                found[list(batch.owners)] = short(torch.from_numpy(batch.array)).numpy()
        with torch.no_grad():
            np.testing.assert_allclose(found, tower(full).numpy(), rtol=0, atol=1e-6)


def test_equal_clips_are_embedded_once(tiny_towers):
    """A sound of two seconds or less: one clip says what three say."""
    tower = tiny_towers["audio"]
    rate = 16_000
    wave = (0.3 * np.sin(np.arange(rate) * 0.2)).astype(np.float32)
    ears = AudioPreprocessor(AudioSpec(), Limits())
    one, three = ears((wave, rate)), ears.clips((wave, rate))
    assert (len(one), len(three)) == (1, 3)
    with torch.no_grad():
        vectors = [tower(torch.from_numpy(clips)).numpy() for clips in (one, three)]
    np.testing.assert_allclose(join_views(vectors[0]), join_views(vectors[1]), rtol=0, atol=1e-6)
    with torch.no_grad():
        raw = tower.forward_raw(torch.from_numpy(three)).mean(0)
    np.testing.assert_allclose(raw / raw.norm(), join_views(vectors[0]), rtol=0, atol=1e-6)
