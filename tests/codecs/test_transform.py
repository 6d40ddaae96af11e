"""The gap-aware transform: exact, gated, and worth what it predicts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.codecs import Transform, fit, open_codec
from slimbind.codecs.transform import predicted_gain, shrunk
from slimbind.errors import UsageError

PARTS = ["full", "rotation", "centring"]


def two_cones(count: int, dim: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Documents and queries that vary along different axes, around different means."""
    rng = np.random.default_rng(seed)
    world = np.random.default_rng(99)
    first, second = world.standard_normal((2, dim))
    spread = np.geomspace(3, 0.1, dim)
    x = rng.standard_normal((count, dim)) * spread + 2 * first
    q = rng.standard_normal((count, dim)) * world.permutation(spread) + 2 * second
    return unit(x), unit(q)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def products(transform: Transform, q: np.ndarray, x: np.ndarray) -> np.ndarray:
    return transform.queries(q) @ transform.documents(x).T + transform.offset(q)[:, None]


@settings(max_examples=25, deadline=None)
@given(dim=st.integers(2, 40), count=st.integers(2, 300), seed=st.integers(0, 1000), part=st.sampled_from(PARTS))
def test_every_dot_product_stays_what_it_was(dim: int, count: int, seed: int, part: str) -> None:
    x, q = two_cones(count, dim, seed)
    transform = fit(x, {"text": q}, gate=0, part=part)
    assert transform is not None
    other_x, other_q = two_cones(50, dim, seed + 1)
    # What was not fitted on stays exact as well: nothing is projected away.
    np.testing.assert_allclose(products(transform, other_q, other_x), other_q @ other_x.T, atol=1e-5)


def test_both_sides_get_the_same_second_moment() -> None:
    x, q = two_cones(5000)
    transform = fit(x, {"text": q})
    assert transform is not None
    stored, asked = transform.documents(x), transform.queries(q)
    cx, cq = stored.T @ stored / len(x), asked.T @ asked / len(q)
    np.testing.assert_allclose(cx / np.trace(cx), cq / np.trace(cq), atol=1e-4)


def test_the_predicted_gain_is_what_one_bit_codes_gain() -> None:
    x, q = two_cones(4000, 128)
    lost = {}
    for part in ("centring", "full"):
        transform = fit(x, {"text": q}, part=part)
        assert transform is not None
        codec = open_codec("rabitq1", 128)
        stored = transform.documents(x)
        codec.train(stored)
        scores = codec.score(transform.queries(q[:200]), codec.encode(stored)) + transform.offset(q[:200])[:, None]
        lost[part] = ((scores - q[:200] @ x.T) ** 2).mean()
    assert transform.predicted_gain > 1.5
    assert lost["centring"] / lost["full"] == pytest.approx(transform.predicted_gain, rel=0.2)


def test_nothing_is_gained_where_queries_are_like_documents() -> None:
    rng = np.random.default_rng(0)
    x = unit(rng.standard_normal((6000, 32)) * np.geomspace(3, 0.1, 32))
    assert predicted_gain(x[:3000], {"vision": x[3000:]}) == pytest.approx(1, abs=0.05)
    assert fit(x[:3000], {"vision": x[3000:]}) is None


def test_few_vectors_are_not_believed() -> None:
    rng = np.random.default_rng(0)
    x = unit(rng.standard_normal((128, 64)))
    # 64 vectors of the same kind on each side: what looks like a gain is chance.
    assert predicted_gain(x[:64], {"text": x[64:]}) < 1
    assert fit(x[:3], {"text": x[3:6]}) is None
    moment = np.diag(np.geomspace(1, 1e-3, 64))
    assert np.linalg.cond(shrunk(moment, 32)) < np.linalg.cond(shrunk(moment, 64)) < np.linalg.cond(moment)
    np.testing.assert_array_equal(shrunk(moment, 64 * 8), moment)
    assert np.trace(shrunk(moment, 32)) == pytest.approx(np.trace(moment))


def test_modalities_count_the_same_however_many_queries_they_have() -> None:
    x, text = two_cones(4000)
    audio = unit(np.random.default_rng(3).standard_normal((1000, 32)) * np.geomspace(0.1, 3, 32))
    few = fit(x, {"text": text[:2000], "audio": audio}, gate=0)
    many = fit(x, {"text": np.repeat(text[:2000], 5, 0), "audio": audio}, gate=0)
    assert few is not None and many is not None
    np.testing.assert_allclose(few.document_map, many.document_map, atol=1e-3)
    assert predicted_gain(x, {"text": text, "audio": audio}) < predicted_gain(x, {"text": text}) * 1.5


def test_without_the_mean_term_only_the_order_within_a_query_stays() -> None:
    x, q = two_cones(2000)
    transform = fit(x, {"text": q}, part="no-mean", gate=0)
    assert transform is not None
    difference = q @ x.T - products(transform, q, x)
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :1], difference.shape), atol=1e-5)
    assert np.abs(difference).max() > 0.1


def test_one_query_gives_exactly_what_many_give() -> None:
    x, q = two_cones(1000)
    transform = fit(x, {"text": q}, gate=0)
    assert transform is not None
    alone = np.concatenate([transform.queries(q[i : i + 1]) for i in range(50)])
    np.testing.assert_array_equal(alone, transform.queries(q[:50]))


def test_its_state_makes_the_same_transform() -> None:
    x, q = two_cones(1000)
    transform = fit(x, {"text": q}, gate=0, part="no-mean")
    assert transform is not None
    again = Transform.from_state(transform.state())
    np.testing.assert_array_equal(again.documents(x), transform.documents(x))
    np.testing.assert_array_equal(again.queries(q), transform.queries(q))
    assert (again.predicted_gain, again.keeps_mean) == (transform.predicted_gain, False)
    with pytest.raises(ValueError, match="maps of shape"):
        Transform.from_state({**transform.state(), "query_map": np.zeros((3, 3))})


def test_what_cannot_be_fitted_is_refused() -> None:
    x, q = two_cones(100)
    with pytest.raises(UsageError, match="no queries to fit"):
        fit(x, {})
    with pytest.raises(UsageError, match="no text queries"):
        fit(x, {"text": q[:0]})
    with pytest.raises(UsageError, match="1 documents"):
        fit(x[:1], {"text": q})
    with pytest.raises(UsageError, match=r"text queries of shape \[100, 31\]"):
        fit(x, {"text": q[:, 1:]})
    with pytest.raises(UsageError, match="documents of shape"):
        fit(x[0], {"text": q})
    broken = x.copy()
    broken[3, 3] = np.nan
    with pytest.raises(UsageError, match="documents: row 3"):
        fit(broken, {"text": q})
