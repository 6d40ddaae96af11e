"""Compressed galleries: dot products with what is given back are the codec's scores, whatever it was fitted to."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from slimbind.codecs.index import CodeIndex
from slimbind.codecs.spec import parse
from slimbind.codecs.transform import fit
from slimbind.errors import UsageError
from slimbind.evaluate.compression import compressed, wanted


@pytest.fixture(scope="module")
def apart():
    """Pictures and texts that lie far apart, and more texts to fit codes to."""
    random = np.random.default_rng(0)
    gap = np.ones(32) / 4

    def unit(count, side):
        found = random.standard_normal((count, 32)) * np.linspace(0.2, 1.5, 32) + side * gap * 8
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    return unit(500, 1), unit(40, -1), unit(700, -1)


@pytest.mark.parametrize("text", ["f16", "sq8", "sq4", "rabitq1", "binary"])
@pytest.mark.parametrize("fitted", [False, True])
def test_scores_are_those_of_a_search(apart, text, fitted):
    gallery, queries, prompts = apart
    known = {"text": prompts} if fitted else {}
    transform = fit(gallery, known) if fitted else None
    assert (transform is not None) == fitted
    index = CodeIndex.build(text, 32, transform=transform, kind="flat")
    index.train(gallery, prompts if fitted else None)
    index.add(np.arange(len(gallery)), gallery)
    scores, keys = index.search(queries, 5)
    stored, asked = compressed(parse(text, 32), gallery, queries, known)
    ours = np.take_along_axis(asked @ stored.T, keys, axis=1)
    assert_allclose(ours, scores, atol=2e-5)


def test_whole_vectors_are_left_alone(apart):
    gallery, queries, prompts = apart
    stored, asked = compressed(parse("f32", 32), gallery, queries, {"text": prompts})
    assert stored is gallery and asked is queries


def test_f32_is_always_first_and_every_codec_there_once():
    assert list(wanted(["sq8", "F32", "pq4x8", "sq8"], 32)) == ["f32", "sq8", "pq4x8"]
    with pytest.raises(UsageError, match="sq7"):
        wanted(["sq7"], 32)


def test_a_second_look_is_refused(apart):
    gallery, queries, _ = apart
    with pytest.raises(UsageError, match="second look"):
        compressed(parse("sq4,refine(sq8)", 32), gallery, queries, {})
