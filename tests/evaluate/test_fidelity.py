"""The two cosines are what numpy and scikit-learn call so, and the mean-subtracted one is strict where it says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.artifact import Fidelity
from slimbind.errors import DriftError, EngineError, UsageError
from slimbind.evaluate.fidelity import centred_cosines, check, cosines, intervals, measure


def cone(n, dim=64, *, spread=0.1, seed=0):
    """Unit vectors around one direction, as embeddings of real models lie."""
    rng = np.random.default_rng(seed)
    raw = np.eye(dim)[0] + spread * rng.normal(size=(n, dim)) / np.sqrt(dim)
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


def disturb(vectors, error, seed=1):
    moved = vectors + error * np.random.default_rng(seed).normal(size=vectors.shape) / np.sqrt(vectors.shape[1])
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def test_means_have_intervals_and_are_those_of_the_report():
    reference = cone(40)
    candidate = disturb(reference, 0.05)
    told, certain = measure(reference, candidate, data="x"), intervals(reference, candidate, seed=1)
    assert {name: one.value for name, one in certain.items()} == pytest.approx(
        {"cosine_mean": told.cosine_mean, "centred_cosine_mean": told.centred_mean}
    )
    assert all(one.low < one.value < one.high and one.n == 40 for one in certain.values())
    assert intervals(reference, candidate, seed=1) == certain != intervals(reference, candidate, seed=2)
    assert list(intervals(reference[:1], candidate[:1])) == ["cosine_mean"], "one item has nothing but its mean"


def test_the_cosines_are_those_of_scikit_learn():
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    reference = cone(40)
    candidate = disturb(reference, 0.05)
    np.testing.assert_allclose(
        cosines(reference, candidate), 1 - pairwise.paired_cosine_distances(reference, candidate), atol=1e-6
    )
    middle = reference.mean(0)
    np.testing.assert_allclose(
        centred_cosines(reference, candidate),
        1 - pairwise.paired_cosine_distances(reference - middle, candidate - middle),
        atol=1e-5,
    )


@given(st.integers(2, 20), st.integers(2, 30), st.floats(0, 3), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_the_cosines_are_those_of_the_definition(n, dim, error, seed):
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(n, dim)).astype(np.float32)
    candidate = (reference + error * rng.normal(size=(n, dim))).astype(np.float32)
    middle = reference.astype(np.float64).mean(0)
    for found, shift in ((cosines(reference, candidate), 0), (centred_cosines(reference, candidate), middle)):
        for one, x, y in zip(found, reference - shift, candidate - shift, strict=True):
            x, y = x.astype(np.float64), y.astype(np.float64)
            assert one == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-5)
    told = measure(reference, candidate, data="noise")
    assert told.samples == n
    ulps = 1e-12  # the mean of equal numbers may come out a little below them
    assert -1 <= told.cosine_min <= told.cosine_mean + ulps <= 1 + 2 * ulps
    assert -1 <= told.centred_min <= told.centred_mean + ulps <= 1 + 2 * ulps


def test_a_tower_that_always_says_the_middle_is_found_out():
    reference = cone(50)
    middle = reference.mean(0, keepdims=True).repeat(50, 0)
    told = measure(reference, middle / np.linalg.norm(middle, axis=1, keepdims=True), data="x")
    assert told.cosine_min > 0.98
    assert told.centred_mean < 0.1


def test_a_shift_of_all_embeddings_counts_as_an_error():
    reference = cone(50)
    shifted = reference + 0.2 * np.eye(64, dtype=np.float32)[3]
    assert centred_cosines(reference, shifted).mean() < 0.7, "each side's own mean would forgive it"


@pytest.mark.parametrize("n", [2, 4, 16])
def test_few_samples_err_on_the_strict_side_by_what_the_text_says(n):
    """1 - cosine is too large by about n / (n - 1), over many draws, against the mean of very many."""
    many = cone(4000, spread=0.2)
    moved = disturb(many, 0.004)
    truth = 1 - centred_cosines(many, moved).mean()
    found = [1 - centred_cosines(many[at : at + n], moved[at : at + n]).mean() for at in range(0, len(many) - n + 1, n)]
    assert np.mean(found) / truth == pytest.approx(n / (n - 1), rel=0.1)


def test_one_sample_has_no_centred_cosine():
    told = measure(cone(1), cone(1), data="x")
    assert (told.cosine_mean, told.centred_mean, told.centred_min) == (pytest.approx(1), None, None)


def test_equal_items_have_no_centred_cosine():
    same = cone(1).repeat(5, 0)
    assert measure(same, disturb(same, 0.1), data="x").centred_min is None


def test_an_item_at_the_mean_does_not_count():
    reference = np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [1e-9, 0]], np.float32) + np.array([0, 3], np.float32)
    assert len(centred_cosines(reference, reference)) == 4
    assert len(cosines(reference, reference)) == 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_a_vector_that_is_none_is_refused(bad, side):
    vectors = {"reference": cone(4), "candidate": cone(4)}
    vectors[side][2] = bad
    with pytest.raises(EngineError, match=f"the {side}'s embedding of sample 2 is not finite, or a zero vector"):
        measure(**vectors, data="x")


@pytest.mark.parametrize(("left", "right"), [((3, 8), (4, 8)), ((3, 8), (3, 9)), ((0, 8), (0, 8)), ((8,), (8,))])
def test_shapes_that_do_not_go_together_are_refused(left, right):
    with pytest.raises(UsageError, match="cannot compare embeddings of shapes"):
        measure(np.ones(left, np.float32), np.ones(right, np.float32), data="x")


def test_the_gate_lets_through_what_is_good_enough_and_nothing_else():
    told = Fidelity(samples=9, cosine_mean=0.9995, cosine_min=0.998, data="nine photos")
    check(told, modality="vision", scheme="int8-static", least=0.998)
    with pytest.raises(DriftError, match=r"vision tower in int8-static .*worst of 9 samples.*0.99800, at least 0.999"):
        check(told, modality="vision", scheme="int8-static", least=0.999)
    with pytest.raises(DriftError):
        check(told.model_copy(update={"cosine_min": float("nan")}), modality="vision", scheme="x", least=-1)
